"""Stage 14: the model as one file that ESPnet's users know."""

from __future__ import annotations

import logging

from espnet_llada.recipe.datadir import check_file
from espnet_llada.recipe.jobs import ESPNET, Job, python_command, run_jobs
from espnet_llada.recipe.layout import Layout

logger = logging.getLogger(__name__)


def pack(layout: Layout) -> None:
    """Pack config and trained tensors by ``espnet2.bin.pack``.

    Raises:
        UserError: there is no trained model.
    """
    options, exp = layout.options, layout.exp
    extras = [exp / "RESULTS.md", exp / "images"]
    values = {
        "asr_train_config": check_file(exp / "config.yaml", stage=11),
        "asr_model_file": check_file(exp / options.inference_asr_model, stage=11),
        "option": [extra for extra in extras if extra.exists()],
        "outpath": layout.packed_model,
    }
    command = python_command(options.python, f"{ESPNET} espnet2.bin.pack asr", values)
    run_jobs([Job(command, exp / "pack.log")])
    size = layout.packed_model.stat().st_size
    logger.info("wrote %s (%.1f MB)", layout.packed_model, size / 1e6)
