"""One table over systems: word error rates, forward passes, real-time factor."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from espnet_llada.bin.options import OptionParser, run_main

_EXAMPLE = """\
example:
  python -m espnet_llada.bin.summarize --ref_dir dump/raw --output exp/RESULTS.md \\
    --baseline Whisper-LLaMA "Whisper-LLaMA=exp/asr_llama/decode_greedy" \\
    "diffusion=exp/asr_llada/decode_diffusion"
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet_llada.bin.summarize``."""
    name = "python -m espnet_llada.bin.summarize"
    parser = OptionParser(name, description=__doc__, epilog=_EXAMPLE)
    parser.add_argument(
        "--ref_dir", required=True, type=Path, help="holds <set>/text for each set"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        help="Markdown file; a JSON file comes with it",
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="compare the other systems with this one"
    )
    parser.add_argument(
        "systems",
        nargs="+",
        type=_system,
        metavar="LABEL=DECODE_DIR",
        help="a directory with <set>/text and, if recorded, <set>/{passes,seconds}",
    )
    return parser


def _system(value: str) -> tuple[str, Path]:
    label, _, decode_dir = value.partition("=")
    if not label or not decode_dir:
        raise argparse.ArgumentTypeError(f"{value!r}: expected LABEL=DECODE_DIR")
    return label, Path(decode_dir)


def main(cmd: list[str] | None = None) -> None:
    """Write the table to stdout and to the file, then the file's path."""
    args = get_parser().parse_args(cmd)
    # After the parser, so that --help does not wait for jiwer.
    from espnet_llada.scoring.summary import summary_rows
    from espnet_llada.scoring.table import check_results, terminal_table, write_results

    check_results(args.output)
    rows = summary_rows(args.systems, args.ref_dir, args.baseline)
    write_results(rows, args.output)
    sys.stdout.write(f"{terminal_table(rows)}\n{args.output}\n")


if __name__ == "__main__":
    run_main(main)
