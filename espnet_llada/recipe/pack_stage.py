"""Stage 14: the model as one file that ESPnet's users know."""

from __future__ import annotations

import logging
import shlex

from espnet_llada.recipe.jobs import Job, run_jobs
from espnet_llada.recipe.layout import Layout
from espnet_llada.types import UserError

logger = logging.getLogger(__name__)


def pack(layout: Layout) -> None:
    """Pack config and trained tensors by ``espnet2.bin.pack``.

    Raises:
        UserError: there is no trained model.
    """
    options, exp = layout.options, layout.exp
    config, model = exp / "config.yaml", exp / options.inference_asr_model
    for path in (config, model):
        if not path.is_file():
            raise UserError(f"{path}: no such file; run stage 11 first")
    command = [*shlex.split(options.python), "-m", "espnet_llada.run"]
    command += ["-m", "espnet2.bin.pack", "asr"]
    command += ["--asr_train_config", str(config), "--asr_model_file", str(model)]
    for extra in (exp / "RESULTS.md", exp / "images"):
        if extra.exists():
            command += ["--option", str(extra)]
    command += ["--outpath", str(layout.packed_model)]
    run_jobs([Job(command, exp / "pack.log")])
    size = layout.packed_model.stat().st_size
    logger.info("wrote %s (%.1f MB)", layout.packed_model, size / 1e6)
