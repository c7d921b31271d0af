"""The token list that ESPnet asks for: three symbols.

    python -m espnet_llada.recipe.tokens --model_name_or_path NAME --output tokens.txt

It takes the options of ``espnet2.bin.hugging_face_export_vocabulary``, whose place it
takes in stage 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.files import make_dir, write_text
from espnet_llada.types import ESPNET_TOKENS


def write_token_list(path: Path) -> None:
    """Write the list to ``path``, one symbol per line."""
    make_dir(path.parent)
    write_text(path, "\n".join(ESPNET_TOKENS) + "\n")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", help="the LM, whose tokenizer is used")
    parser.add_argument("--output", type=Path, required=True, help="tokens.txt")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Write the token list."""
    write_token_list(get_parser().parse_args(cmd).output)


if __name__ == "__main__":
    run_main(main)
