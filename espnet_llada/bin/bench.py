"""Measure systems side by side: time of each stage, passes, RTF, memory."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from espnet_llada.bin.options import OfKind, OptionParser, run_main
from espnet_llada.bin.sweep import add_row_options, place_of, read_rows
from espnet_llada.io.files import write_text
from espnet_llada.io.schema import Count, Natural
from espnet_llada.types import UserError, check_writable

if TYPE_CHECKING:
    from espnet_llada.sweep.rows import Sweep

_WRITTEN_EVERY = 10.0  # seconds
_DECODING_FILES = ("BENCH.md", "bench.json")
_TRAINING_FILES = ("TRAINING.md", "training.json")
RANDOM = "random"
"""For --model: the YAML's train_configs with random weights, made on the device."""

_SECONDS = Annotated[float, Meta(ge=0.01, le=3600.0)]
_THREADS = Annotated[int, Meta(ge=0, le=1024)]
_EXAMPLE = """\
example, in the recipe (make bench does it):
  espnet-llada bench conf/bench_mini.yaml --model mini --data data \\
      --sets "test_read test_prompts test_synth" --output exp/bench
full size with random weights, on a GPU; then a training step, ours and the release's:
  espnet-llada bench conf/bench_8b.yaml --model random --device cuda \\
      --data data/dev_synth --output exp/bench_8b --durations "7.4 30" \\
      --batches "1 16 64"
  espnet-llada bench conf/bench_8b.yaml --model random --device cuda --training \\
      --data noise --output exp/bench_8b --durations "7.4 15"

Written to OUTPUT: BENCH.md, bench.json (each repetition), bench_*.png. The YAML is one
of `espnet-llada sweep`, without rows that deliberate; its baseline is what the others
are compared with. A row of profile release also pads to 30 s and computes logits
everywhere, as the paper's release does; runtime: static, graph or compile decodes with
fixed shapes, weights: int8 is for random weights; system: faster_whisper and whisper
are peers, with their error rates beside their times where DATA has a text. A batch is
decoded together; close other programs first.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada bench``."""
    parser = OptionParser("espnet-llada bench", description=__doc__, epilog=_EXAMPLE)
    add_row_options(parser)
    parser.add_argument("--durations", default="2 7 15 30", help="seconds (2 7 15 30)")
    parser.add_argument("--batches", default="1 4 16", help="utterances (1 4 16)")
    parser.add_argument(
        "--repeats", type=OfKind(Count), default=5, help="of each cell (5)"
    )
    parser.add_argument(
        "--utterances",
        type=OfKind(Natural),
        default=0,
        help="repeat more often where a batch is small, to decode so many (0)",
    )
    parser.add_argument(
        "--sets", default="", help='"test_read test_prompts", below --data (itself)'
    )
    parser.add_argument(
        "--threads", type=OfKind(_THREADS), default=0, help="of torch (its default)"
    )
    parser.add_argument(
        "--training",
        action="store_true",
        help="instead a training step of llada's train config, on --model random",
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Measure, then write tables and pictures.

    Raises:
        UserError: options, the YAML, a file or the model do not fit.
    """
    args = get_parser().parse_args(cmd)
    durations = _numbers(args, "durations", _SECONDS)
    batches = _numbers(args, "batches", Count)
    sweep = read_rows(args)
    for row in sweep.rows:
        if row.first_pass is not None:
            raise UserError(
                f"{args.sweep}: row {row.key}: bench measures no first pass; drop it"
            )
    if args.model == RANDOM and not sweep.train_configs:
        raise UserError(
            f"{args.sweep}: no train_configs, which --model {RANDOM} builds; add them"
        )
    import torch

    from espnet_llada.networks.device import check_device

    check_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in _TRAINING_FILES if args.training else _DECODING_FILES:
        check_writable(args.output / name)
    if args.training:
        _training(args, sweep.train_configs, durations)
    else:
        _decoding(args, sweep, durations, batches)


def _decoding(
    args: argparse.Namespace, sweep: Sweep, durations: list[float], batches: list[int]
) -> None:
    from tqdm import tqdm

    from espnet_llada.bench import figures, measure, meter, tables
    from espnet_llada.bench.systems import RandomSystems, measurable
    from espnet_llada.sweep.systems import Systems

    dtype, systems = "float32", Systems(place_of(args), remember=False)
    if args.model == RANDOM:
        systems = RandomSystems(sweep.train_configs, args.device)
        dtype = systems.dtype
    named = any(name[0] != "!" for name in args.rows.split())
    rows = measurable(sweep.rows, systems, args.device, str(args.sweep), named)
    machine = meter.machine(args.device, dtype)
    cells = measure.cells_of(rows, durations, batches)
    data = [args.data / name for name in args.sets.split()] or [args.data]
    speech = data, args.repeats, args.utterances
    runs = measure.measure(systems, cells, *speech, args.allow_pipes)
    total = measure.runs_of(cells, *speech)
    found: dict[int, measure.Record] = {}

    def write() -> list[measure.Record]:
        records = [r for r in found.values() if r.total or r.failed]
        content = {"machine": machine, "records": [r.as_dict() for r in records]}
        write_text(args.output / _DECODING_FILES[1], f"{json.dumps(content)}\n")
        return records

    written = time.monotonic()
    try:
        for record in tqdm(runs, total=total, unit="run", delay=2, disable=None):
            found[id(record)] = record
            if record.total and time.monotonic() - written > _WRITTEN_EVERY:
                write()  # what there is, should this be killed
                written = time.monotonic()
    finally:  # an interrupt too
        records = write()
        text = tables.markdown(records, machine, sweep.baseline)
        write_text(args.output / _DECODING_FILES[0], f"{text}\n")
    files = figures.draw(records, args.output)
    sys.stdout.write(f"{text}\n{' '.join(map(str, files))}\n")


def _training(
    args: argparse.Namespace, configs: Mapping[str, Path], durations: list[float]
) -> None:
    from espnet_llada.bench import meter, training
    from espnet_llada.inference.loading import read_train_config

    if args.model != RANDOM or "llada" not in configs:
        raise UserError(
            f"{args.sweep}: --training needs --model {RANDOM} and llada's train_configs"
        )
    config = read_train_config(configs["llada"])
    machine = meter.machine(args.device, "bfloat16")
    steps = training.compare(config, args.device, durations, args.repeats)
    text = training.markdown(steps, machine)
    content = {"machine": machine, "steps": [vars(step) for step in steps]}
    lines = text, json.dumps(content)
    for name, line in zip(_TRAINING_FILES, lines, strict=True):
        write_text(args.output / name, f"{line}\n")
    sys.stdout.write(f"{text}\n")


def _numbers(args: argparse.Namespace, name: str, kind: Any) -> list[Any]:
    read = OfKind(kind)
    try:
        numbers = [read(value) for value in getattr(args, name).split()]
    except argparse.ArgumentTypeError as e:
        raise UserError(f"--{name}: {e}") from e
    if not numbers:
        raise UserError(f"--{name}: expected at least one number")
    return numbers


if __name__ == "__main__":
    run_main(main)
