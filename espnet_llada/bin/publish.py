"""Puts trained models into the cache, where --model finds them by a tag.

python -m espnet_llada.bin.publish --tag demo llada=exp/asr_x llama=exp/asr_y
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.types import UserError, check_inside

SYSTEMS = ("llada", "llama")


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = OptionParser(description="Copy trained tensors into the cache as a tag.")
    parser.add_argument("--tag", required=True, help="name for --model")
    parser.add_argument("models", nargs="+", metavar="SYSTEM=EXP_DIR")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Copy each model; MBs, since only trained tensors are in a checkpoint."""
    args = get_parser().parse_args(cmd)
    from espnet_llada.inference.loading import publish

    check_inside(args.tag, "--tag")
    for item in args.models:
        system, _, exp_dir = item.partition("=")
        if system not in SYSTEMS or not exp_dir:
            raise UserError(f"{item}: expected llada=EXP_DIR or llama=EXP_DIR")
        directory = publish(Path(exp_dir), system, args.tag)
        sys.stdout.write(f"{system}: {directory}\n")


if __name__ == "__main__":
    run_main(main)
