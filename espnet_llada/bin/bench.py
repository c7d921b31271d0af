"""Measure systems side by side: time of each stage, passes, RTF, memory."""

from __future__ import annotations

import argparse
import json
import sys

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.bin.sweep import add_row_options, place_of, read_rows
from espnet_llada.types import UserError, atomic_write

_EXAMPLE = """\
example, in the recipe (make bench does it):
  espnet-llada bench conf/bench_mini.yaml --model mini --data data/dev_synth \\
      --output exp/bench

Written to OUTPUT: BENCH.md, bench.json (each repetition), bench_*.png. The YAML is one
of `espnet-llada sweep`, without rows that deliberate; its baseline is what the others
are compared with. A row of profile release also pads to 30 s and computes logits
everywhere, as the paper's release does. A batch is decoded together; close other
programs first.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada bench``."""
    parser = OptionParser(
        prog="espnet-llada bench",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_row_options(parser)
    parser.add_argument("--durations", default="2 7 15 30", help="seconds (2 7 15 30)")
    parser.add_argument("--batches", default="1 4 16", help="utterances (1 4 16)")
    parser.add_argument("--repeats", type=int, default=5, help="of each cell (5)")
    parser.add_argument("--threads", type=int, default=0, help="of torch (its default)")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Measure, then write tables and pictures.

    Raises:
        UserError: options, the YAML, a file or the model do not fit.
    """
    args = get_parser().parse_args(cmd)
    durations, batches = _numbers(args, "durations"), _numbers(args, "batches")
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats}: at least 1")
    sweep = read_rows(args)
    for row in sweep.rows:
        if row.first_pass is not None:
            raise UserError(
                f"{args.sweep}: row {row.key}: bench measures no first pass; drop it"
            )
    import torch
    from tqdm import tqdm

    from espnet_llada.bench import figures, measure, meter, tables
    from espnet_llada.bin.sweep_jobs import Systems

    if args.threads:
        torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    machine = meter.machine(args.device)
    cells = measure.cells_of(sweep.rows, durations, [int(b) for b in batches])
    systems = Systems(place_of(args), remember=False)
    runs = measure.measure(systems, cells, args.data / "wav.scp", args.repeats)
    total = len(cells) * (args.repeats + 1)
    found: dict[int, measure.Record] = {}
    for record in tqdm(runs, total=total, unit="run", delay=2, disable=None):
        found[id(record)] = record
    records = list(found.values())
    text = tables.markdown(records, machine, sweep.baseline)
    content = {"machine": machine, "records": [r.as_dict() for r in records]}
    for name, written in (("BENCH.md", text), ("bench.json", json.dumps(content))):
        with atomic_write(args.output / name) as temporary:
            temporary.write_text(written + "\n", encoding="utf-8")
    files = figures.draw(records, args.output)
    sys.stdout.write(f"{text}\n{' '.join(map(str, files))}\n")


def _numbers(args: argparse.Namespace, name: str) -> list[float]:
    try:
        numbers = [float(value) for value in getattr(args, name).split()]
    except ValueError as e:
        raise UserError(f"--{name}: {e}") from e
    if not numbers or min(numbers) <= 0:
        raise UserError(f"--{name} '{getattr(args, name)}': expected numbers above 0")
    return numbers


if __name__ == "__main__":
    run_main(main)
