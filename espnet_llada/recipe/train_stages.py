"""Stages 10 and 11: shapes of the data, and training."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from espnet_llada.io.kaldi.table import read_table
from espnet_llada.recipe.datadir import check_file, split_table, write_table
from espnet_llada.recipe.jobs import (
    ESPNET,
    Job,
    Tail,
    count_lines,
    python_command,
    run_jobs,
)
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.logs import progress_bar
from espnet_llada.types import ESPNET_TOKENS, UserError

logger = logging.getLogger(__name__)


def collect_stats(layout: Layout) -> None:
    """Stage 10: lengths of speech and text, from which batches are made."""
    options, logdir = layout.options, layout.stats / "logdir"
    listing = layout.inputs[0][0]
    train, valid = layout.train / listing, layout.valid / listing
    for path in (train, valid):
        if options.feats_type == "extracted" and not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with `espnet-llada features --wav_scp "
                f"{layout.feats / path.parent.name}/wav.scp --output {path.parent} …`"
            )
    counts = [len(read_table(path)) for path in (train, valid)]
    nj = min(options.nj, *counts)
    numbers = range(1, nj + 1)
    logdir.mkdir(parents=True, exist_ok=True)
    for key_file, name in ((train, "train"), (valid, "valid")):
        split_table(key_file, [logdir / f"{name}.{n}.scp" for n in numbers])
    jobs = []
    for n in numbers:
        values = {
            "collect_stats": True,
            "train_shape_file": logdir / f"train.{n}.scp",
            "valid_shape_file": logdir / f"valid.{n}.scp",
            "output_dir": logdir / f"stats.{n}",
        }
        jobs.append(Job(_train_command(layout, values), logdir / f"stats.{n}.log"))
    logger.info("collecting statistics; logs: %s/stats.*.log", logdir)
    written = [
        Tail(logdir / f"stats.{n}" / name / "text_shape")
        for n in numbers
        for name in ("train", "valid")
    ]
    with progress_bar(sum(counts), "collect stats") as bar:
        run_jobs(jobs, lambda: bar.update(count_lines(written)))
    values = {
        "input_dir": [logdir / f"stats.{n}" for n in numbers],
        "output_dir": layout.stats,
    }
    module = f"{ESPNET} espnet2.bin.aggregate_stats_dirs --skip_sum_stats"
    aggregate = python_command(options.python, module, values)
    run_jobs([Job(aggregate, logdir / "aggregate.log")])
    for name in ("train", "valid"):
        _append_vocabulary(layout.stats / name / "text_shape", options.token_type)


def _append_vocabulary(shape_file: Path, token_type: str) -> None:
    """``utt 12`` becomes ``utt 12,3``: ESPnet counts ``batch_bins`` with it."""
    shapes = read_table(shape_file)
    table = {utt: f"{shape},{len(ESPNET_TOKENS)}" for utt, shape in shapes.items()}
    write_table(shape_file.with_suffix(f".{token_type}"), table)


def train(layout: Layout) -> None:
    """Stage 11: train; an interrupted training goes on from its last epoch."""
    options, stats = layout.options, layout.stats
    unit = 100 if options.feats_type == "raw" else 1  # samples or frames, as asr.sh
    shapes = {
        "speech": ("speech_shape", options.asr_speech_fold_length * unit),
        "text": (f"text_shape.{options.token_type}", options.asr_text_fold_length),
    }
    chosen = [shapes[name] for _, name, _ in layout.inputs]
    values = {
        f"{kind}_shape_file": [
            check_file(stats / kind / shape, stage=10) for shape, _ in chosen
        ]
        for kind in ("train", "valid")
    }
    values |= {
        "fold_length": [fold_length for _, fold_length in chosen],
        "init_param": options.pretrained_model,
        "ignore_init_mismatch": options.ignore_init_mismatch,
        "resume": True,
        "output_dir": layout.exp,
        "ngpu": options.ngpu,
        "multiprocessing_distributed": True,
    }
    job = Job(_train_command(layout, values), layout.exp / "train.log", append=True)
    logger.info("training; log: %s", job.log)
    with TrainingProgress(job.log) as progress:
        run_jobs([job], progress.update)
        progress.update()


def _train_command(layout: Layout, more: dict[str, Any]) -> list[str]:
    """What stages 10 and 11 run: ``asr_train`` with ``more`` options of the stage."""
    options = layout.options
    values = {
        "use_preprocessor": True,
        "allow_pipes": options.allow_pipes or None,
        "bpemodel": options.hugging_face_model_name_or_path or "none",
        "token_type": options.token_type,
        "token_list": layout.token_list,
        **dict.fromkeys(("non_linguistic_symbols", "cleaner", "g2p"), "none"),
        "config": options.asr_config,
        "frontend_conf": f"fs={options.fs}",
    }
    for name, folder in (("train", layout.train), ("valid", layout.valid)):
        values[f"{name}_data_path_and_name_and_type"] = [
            f"{folder}/{','.join(data)}" for data in layout.inputs
        ]
    module = "espnet_llada.bin.asr_train"
    return python_command(options.python, module, values | more, options.asr_args)


class TrainingProgress:
    """A bar over epochs, fed by the lines of ESPnet's training log.

    Lines it does not know leave the bar as it is, so a change of ESPnet's wording
    costs the display and nothing else.
    """

    _TRAINED = re.compile(r"INFO: (trained \S.* parameters .*)")
    _STARTED = re.compile(r" (\d+)/(\d+)epoch started")
    _BATCHES = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch: .*?\bloss=([^,\s]+)")
    _RESULTS = re.compile(r"(\d+)epoch results: (.*)")
    _VALUES = re.compile(r"\b((?:loss|acc|time)=[^,\s]+)")

    def __init__(self, log: Path) -> None:
        self._tail = Tail(log, at_end=True)
        self._bar = progress_bar(None, "train", "epoch")

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """Read what the training has logged since the last call."""
        for line in self._tail.read().decode(errors="replace").splitlines():
            self._take(line)
        self._bar.update(0)

    def _take(self, line: str) -> None:
        if started := self._STARTED.search(line):
            epoch, self._bar.total = int(started[1]), int(started[2])
            self._bar.n = epoch - 1
            if not self._bar.initial:
                self._bar.initial = epoch - 1  # a resumed training: for the estimate
        elif batches := self._BATCHES.search(line):
            self._bar.set_postfix_str(f"batch {batches[2]}, loss {batches[3]}", False)
        elif trained := self._TRAINED.search(line):
            self._say(trained[1])
        elif results := self._RESULTS.search(line):
            self._bar.n = int(results[1])
            self._say(f"epoch {results[1]}: {self._summary(results[2])}")

    def _say(self, line: str) -> None:
        with self._bar.external_write_mode(file=sys.stdout):
            logger.info("%s", line)

    def _summary(self, results: str) -> str:
        """``train loss=0.5 acc=0.9, valid loss=0.6``."""
        parts = []
        for section in re.split(r"(?=\[(?:train|valid)\])", results):
            if name := re.match(r"\[(\w+)\]", section):
                parts.append(" ".join([name[1], *self._VALUES.findall(section)]))
        return ", ".join(parts)
