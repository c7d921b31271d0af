"""Walks through asr.sh's stages outside an ESPnet checkout."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_llada.io.files import make_dir, write_text
from espnet_llada.recipe import data_stages, decode_stages, pack_stage, train_stages
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.logs import log_to_stdout
from espnet_llada.recipe.options import Options, help_text, parse_options

logger = logging.getLogger(__name__)

# Number, title, function. asr.sh's other stages (speed perturbation, LM and n-gram
# training, uploading) do not apply to this model.
STAGES: tuple[tuple[int, str, Callable[[Layout], None]], ...] = (
    (1, "Data preparation for data/{train_set}, data/{valid_set}, etc.",
     data_stages.prepare),
    (3, "Format wav.scp: data/ -> {feats}", data_stages.format_sets),
    (4, "Remove long/short data: {feats}/org -> {feats}", data_stages.filter_sets),
    (5, "Generate token_list {token_list}", data_stages.list_tokens),
    (10, "ASR collect stats: train_set={train}, valid_set={valid}",
     train_stages.collect_stats),
    (11, "ASR Training: train_set={train}, valid_set={valid}", train_stages.train),
    (12, "Decoding: training_dir={exp}", decode_stages.decode),
    (13, "Scoring", decode_stages.score),
    (14, "Pack model: {packed_model}", pack_stage.pack),
)  # fmt: skip

_DATA_STAGES = {1, 3, 4, 5}
_TRAIN_STAGES = {4, 5, 10, 11}
_EVAL_STAGES = {12, 13}
_PACK_STAGES = {14}


def chosen_stages(options: Options) -> list[int]:
    """Numbers of the stages that the options leave to run."""
    skipped = {int(stage) for stage in options.skip_stages.split()}
    for flag, stages in (
        (options.skip_data_prep, _DATA_STAGES),
        (options.skip_train, _TRAIN_STAGES),
        (options.skip_eval, _EVAL_STAGES),
        (options.skip_packing, _PACK_STAGES),
    ):
        skipped |= stages if flag else set()
    wanted = range(options.stage, options.stop_stage + 1)
    return [n for n, *_ in STAGES if n in wanted and n not in skipped]


def write_resume_script(folder: Path, argv: Sequence[str], stage: int) -> None:
    """Write ``run.sh``, which resumes from ``stage``, into a results directory."""
    command = shlex.join([sys.executable, "-m", "espnet_llada.recipe", *argv])
    lines = (
        "#!/usr/bin/env bash",
        "# Run it in the directory of the recipe.",
        "[ -f ./path.sh ] && . ./path.sh",
        f'{command} --stage {stage} "$@"; exit $?',
    )
    logger.info("%s/run.sh resumes from stage %d", folder, stage)
    make_dir(folder)
    write_text(folder / "run.sh", "\n".join(lines) + "\n")
    (folder / "run.sh").chmod(0o755)


def run(options: Options, argv: Sequence[str]) -> None:
    """Run the chosen stages in order.

    Args:
        options: parsed from ``argv``.
        argv: what the resume scripts repeat.

    Raises:
        UserError: a stage failed.
    """
    began = time.monotonic()
    layout = Layout(options)
    names = ("feats", "train", "valid", "token_list", "exp", "packed_model")
    words = {name: getattr(layout, name) for name in names}
    words |= {"train_set": options.train_set, "valid_set": options.valid_set}
    resumable = {10: layout.stats, 11: layout.exp, 12: layout.decode}
    chosen = chosen_stages(options)
    for number, title, function in STAGES:
        if number not in chosen:
            continue
        logger.info("Stage %d: %s", number, title.format(**words))
        if number in resumable:
            write_resume_script(resumable[number], argv, number)
        function(layout)
    elapsed = time.monotonic() - began
    logger.info("Successfully finished. [elapsed=%ds]", elapsed)


def main(cmd: list[str] | None = None) -> None:
    """Command line of ``python -m espnet_llada.recipe``."""
    argv = sys.argv[1:] if cmd is None else cmd
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(help_text())
        return
    options = parse_options(argv)
    log_to_stdout()
    # As for Ctrl-C: stop the stage's commands on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run(options, argv)
