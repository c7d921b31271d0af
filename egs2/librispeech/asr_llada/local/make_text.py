#!/usr/bin/env python3
"""Write what the LM of the mini models adapts to: the texts that synthesis draws from.

    local/make_text.py --output dump/text/train_text --exclude data/test_*/text

Books, definitions, dialogue and prompts of local/synthesis/texts.py as transcripts, a
sentence or a piece of one in a line; not its lists of words in no grammar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from synthesis.texts import Excluded, sources, transcript

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.files import make_dir
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.recipe.datadir import write_table
from espnet_llada.types import check_directory


def main(cmd: list[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="gets a file 'text'")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="Kaldi texts of other sets"
    )
    args: argparse.Namespace = parser.parse_args(cmd)
    check_directory(args.output)
    excluded = Excluded(t for path in args.exclude for t in read_table(path).values())
    pool = sources(excluded)
    kept = (part for name, parts in pool.items() if name != "words" for part in parts)
    lines = (transcript(text) for part in kept for text in part)
    table = {f"text-{number:07d}": line for number, line in enumerate(lines)}
    write_table(make_dir(args.output) / "text", table)
    sys.stdout.write(f"{args.output}/text: {len(table)} lines\n")


if __name__ == "__main__":
    run_main(main)
