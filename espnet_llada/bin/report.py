"""Tables of every decoded set of a model, from its score directories."""

from __future__ import annotations

import argparse
import sys

from espnet_llada.bin.options import OptionParser, run_main


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet_llada.bin.report``."""
    parser = OptionParser(prog="python -m espnet_llada.bin.report", description=__doc__)
    parser.add_argument(
        "--name", default="RESULTS.md", help="of the file in EXP (RESULTS.md)"
    )
    parser.add_argument(
        "exp", metavar="EXP", help="has <tag>/<set>/score_wer/result.txt below it"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Write the file, then its path to stdout."""
    args = get_parser().parse_args(cmd)
    # After the parser, so that --help does not wait for jiwer.
    from espnet_llada.scoring.report import write_results_md

    sys.stdout.write(f"{write_results_md(args.exp, args.name)}\n")


if __name__ == "__main__":
    run_main(main)
