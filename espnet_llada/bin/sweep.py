"""Decode sets by every row of a YAML; writes tables, curves and a report."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_llada.bin.decoding import add_origin_options, add_pipe_option
from espnet_llada.bin.options import OfKind, OptionParser, run_main
from espnet_llada.io.schema import Jobs
from espnet_llada.types import LoadOptions, UserError, check_inside, check_writable

if TYPE_CHECKING:
    from espnet_llada.sweep.rows import Sweep
    from espnet_llada.sweep.systems import Place

_EXAMPLE = """\
example:
  espnet-llada sweep conf/sweep_mini.yaml --model mini --data dump/raw \\
      --sets "test_read test_prompts test_synth" --output exp/mini --nj 2

DATA/<set> holds wav.scp, text and, for the intervals, utt2spk. Written to OUTPUT:
  <row>/<set>/text        transcripts; a job that was killed goes on from where it was
  RESULTS.md, results.json    error rates raw and normalised, passes, RTF, changes
  report.html, figures/*.png  the same with curves and utterances pass by pass
With "published: FILE" in YAML the tables also compare with published error rates.
With --device cuda each of --nj processes takes the next GPU. On a cluster a scheduler
starts --shards 8 --shard 1, ... --shard 8, and --shards 8 alone merges and writes.
RTF: decode time of one process over duration; --nj of them run at the same time, on an
equal share of the cores. How the YAML is written: conf/sweep_mini.yaml.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada sweep``."""
    parser = OptionParser("espnet-llada sweep", description=__doc__, epilog=_EXAMPLE)
    add_row_options(parser)
    parser.add_argument("--sets", required=True, help='"test_read test_prompts ..."')
    parser.add_argument("--nj", type=OfKind(Jobs), default=1, help="processes (1)")
    count = {"type": OfKind(Jobs), "metavar": "N"}
    parser.add_argument(
        "--shards", **count, default=1, help="parts of each set, decoded apart (1)"
    )
    parser.add_argument(
        "--shard", **count, help="decode one alone, from 1 on; no tables (all)"
    )
    parser.add_argument(
        "--first_pass",
        type=Path,
        metavar="TEXT|DIR",
        help="transcripts of the rows of system: text: a Kaldi text, or a directory "
        "with <set>/text",
    )
    return parser


def add_row_options(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by sweep and bench: rows, model, data, output, device."""
    parser.add_argument("sweep", type=Path, metavar="YAML", help="the rows")
    parser.add_argument(
        "--rows", default="", help="some rows only, or not: 'llama release_* !whisper'"
    )
    parser.add_argument("--model", default="mini", help="directory, tag or hub id")
    add_origin_options(parser)
    add_pipe_option(parser)
    parser.add_argument("--data", required=True, type=Path, help="directory of speech")
    parser.add_argument("--output", required=True, type=Path, help="of everything")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")


def read_rows(args: argparse.Namespace) -> Sweep:
    """The rows that ``add_row_options`` has been given.

    Raises:
        UserError: the YAML does not fit, or has no such row.
    """
    from espnet_llada.sweep.rows import read_sweep

    sweep = read_sweep(args.sweep)
    return sweep.only(args.rows.split()) if args.rows.split() else sweep


def place_of(args: argparse.Namespace) -> Place:
    """The paths among these options."""
    from espnet_llada.sweep.systems import Place

    origin = args.device, args.lm, args.whisper
    loading = LoadOptions(*origin, trust_model=args.trust_model)
    files = args.model, args.data, args.output
    return Place(*files, loading, args.allow_pipes)


def main(cmd: list[str] | None = None) -> None:
    """Decode what is not decoded yet, then write the results.

    Raises:
        UserError: the YAML, a file or the model does not fit, before anything runs.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # After the parser, so that --help waits for nothing.
    from espnet_llada.scoring.table import check_results
    from espnet_llada.sweep.jobs import decode_jobs, jobs_of
    from espnet_llada.sweep.report import write_all
    from espnet_llada.sweep.systems import Systems, threads_of

    sweep = read_rows(args)
    for row in sweep.rows:
        if row.only_for_bench:
            raise UserError(
                f"{args.sweep}: row {row.key}: runtime, weights, cached_prefix and "
                "system faster_whisper are for espnet-llada bench; drop them"
            )
    sets = args.sets.split()
    for name in sets:
        check_inside(name, "--sets")
    sizes = {name: _size(args.data / name, args.allow_pipes) for name in sets}
    if not sets:
        raise UserError("--sets: at least one")
    if args.shard and args.shard > args.shards:
        raise UserError(f"--shard {args.shard}: there are --shards {args.shards}")
    given = {"first_pass": args.first_pass, "shards": args.shards}
    place = replace(place_of(args), **given)
    _check_given(sweep, place, sets, args.sweep)
    Systems(place).check(dict.fromkeys(row.system for row in sweep.rows), args.nj)
    args.output.mkdir(parents=True, exist_ok=True)
    check_results(args.output / "RESULTS.md")
    check_writable(args.output / "report.html")
    jobs = jobs_of(place, sweep.rows, sets, args.shard)
    share = args.shards if args.shard else 1
    decode_jobs(place, jobs, args.nj, sum(sizes.values()) * len(sweep.rows) // share)
    if args.shard:
        return
    processes = f"{args.nj} processes of {threads_of(args.nj)} threads"
    machine = f"{processes}, {processor(args.device)}"
    write_all(sweep, place, sets, f"{args.sweep}, model {args.model}; {machine}")
    sys.stdout.write(f"{(args.output / 'RESULTS.md').read_text(encoding='utf-8')}\n")
    sys.stdout.write(f"{args.output}/report.html\n")


def _check_given(sweep: Sweep, place: Place, sets: Sequence[str], path: Path) -> None:
    """Check that given transcripts exist and are used."""
    rows = [row.key for row in sweep.rows if row.system == "text"]
    if rows and place.first_pass is None:
        raise UserError(
            f"{path}: row {rows[0]}: its transcripts are to be given; add --first_pass"
        )
    if place.first_pass is not None and not rows:
        raise UserError(
            f"--first_pass: {path} has no row of system: text that needs it"
        )
    for name in sets if rows else ():
        place.given(name)


def _size(folder: Path, allow_pipes: bool) -> int:
    """Utterances of a set that can be decoded and scored."""
    from espnet_llada.io.kaldi.table import read_recordings, read_text
    from espnet_llada.scoring.wer import check_ids, speakers_of

    files = folder / "text", folder / "wav.scp"
    refs, audio = read_text(files[0]), read_recordings(files[1], allow_pipes)
    check_ids(refs, audio, (str(files[0]), str(files[1])))
    speakers_of(files[0], refs)
    return len(refs)


def processor(device: str) -> str:
    """The kind of processor, without the machine's name."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine()).strip()


if __name__ == "__main__":
    run_main(main)
