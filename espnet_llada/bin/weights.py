"""Fetch pretrained weights ahead of time; or verify the checksums of what is here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.weights.assets import ASSETS, MINI, Packaged
from espnet_llada.types import UserError, nearest

_EXAMPLE = f"""\
examples:
  espnet-llada weights whisper-tiny.en         fetch it, print its path
  espnet-llada weights --verify                all in the cache, and the mini models
  espnet-llada weights --verify exp/released   every weights file in a directory
  espnet-llada weights --verify GSAI-ML/LLaDA-8B-Instruct

Known names: {", ".join(ASSETS)}.

A file is compared with its checksum (NAME.sha256; sha256sum -c reads it too).
Files below 128 MB are verified at every start, larger ones when they are first used
and by this. The exit status is 1 where one is damaged.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada weights``."""
    parser = OptionParser("espnet-llada weights", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="of known weights; with --verify also a file, directory, tag or hub id",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every weights file, config and tokenizer",
    )
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Fetch, or verify; returns the exit status.

    Raises:
        UserError: an unknown name, or it cannot be fetched.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.verify:
        return _verify(args.names)
    if not args.names:
        raise UserError(f"name what to fetch ({', '.join(ASSETS)}), or add --verify")
    from espnet_llada.io.weights import resolve

    for name in args.names:
        if name not in ASSETS:
            known = ", ".join(ASSETS)
            hint = nearest(name, ASSETS)
            raise UserError(f"{name}: not a known asset{hint}; known: {known}")
        sys.stdout.write(f"{resolve(name, ASSETS[name].kind).path}\n")
    return 0


def _verify(names: list[str]) -> int:
    """A line for each file; a damaged one does not hide the next."""
    from espnet_llada.io.weights import verify

    damaged = 0
    for file in _files(names):
        try:
            state = "ok" if verify(file, fresh=True) else "has no checksum"
            sys.stdout.write(f"{file}: {state}\n")
            sys.stdout.flush()
        except (UserError, OSError) as e:
            sys.stderr.write(f"error: {e}\n")
            damaged += 1
    return 1 if damaged else 0


def _files(names: list[str]) -> Iterator[Path]:
    from espnet_llada.io.files import cache_dir

    places = [p for n in names for p in _places(n)] if names else [MINI, cache_dir()]
    for place in places:
        files = [place] if place.is_file() else _weights_below(place)
        if names and not files:
            raise UserError(f"{place}: no weights in it; name a directory of weights")
        yield from files


def _weights_below(directory: Path) -> list[Path]:
    from espnet_llada.io.files import checksum_file
    from espnet_llada.io.weights import WEIGHT_SUFFIXES

    found = [(f, f.relative_to(directory).parts) for f in directory.rglob("*")]
    return sorted(
        f
        for f, parts in found
        # What another process is just making has a dot before its name.
        if not any(part.startswith(".") for part in parts)
        and (f.suffix in WEIGHT_SUFFIXES or checksum_file(f).is_file())
    )


def _places(name: str) -> Iterable[Path]:
    from espnet_llada.inference.loading import places_of
    from espnet_llada.io.files import cache_dir

    if name not in ASSETS:
        found = list(places_of(name))
    else:
        asset = ASSETS[name]
        path = asset.path if isinstance(asset, Packaged) else cache_dir() / name
        found = [path] if path.exists() else []
    if not found:
        raise UserError(
            f"{name}: nothing of that name is here; name a file, a directory, a tag, a "
            f"hub id or one of {', '.join(ASSETS)}"
        )
    return found


if __name__ == "__main__":
    run_main(main)
