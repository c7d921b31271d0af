"""LibriSpeech, or any corpus in its layout, to Kaldi data directories.

    python -m espnet_llada.recipe.librispeech --root DIR dev=dev-clean+dev-other

The layout is ``LibriSpeech/<subset>/<speaker>/<chapter>/`` with the recordings
``<speaker>-<chapter>-<utterance>.flac`` and ``<speaker>-<chapter>.trans.txt``, with
one line for each. Audio is listed, not decoded: stage 3 decodes it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.recipe.datadir import DataDir, make_dir, read_table, write_line
from espnet_llada.recipe.logs import log_to_stdout
from espnet_llada.types import UserError

logger = logging.getLogger(__name__)

MARKER = ".completed"


class Utterance(NamedTuple):
    """One line of the manifest."""

    utt: str
    speaker: str
    audio: str
    text: str


def find_corpus(root: Path) -> Path:
    """The directory that holds the subsets, given it or its parent.

    Raises:
        UserError: there is no such directory.
    """
    if root.name == "LibriSpeech" and root.is_dir():
        return root
    if (root / "LibriSpeech").is_dir():
        return root / "LibriSpeech"
    raise UserError(
        f"{root}/LibriSpeech: no such directory; set LIBRISPEECH in db.sh to the "
        "directory that holds LibriSpeech/ (https://www.openslr.org/12)"
    )


def prepare_subset(root: Path, subset: str) -> list[Utterance]:
    """List the utterances of one subset, e.g. ``train-clean-100``.

    Args:
        root: the directory that holds ``LibriSpeech/``, or that directory itself.
        subset: name of a directory in it.

    Returns:
        The manifest, sorted by utterance id in the C locale. As in ESPnet's LibriSpeech
        recipe each chapter is a speaker of its own.

    Raises:
        UserError: a directory is missing, or audio and transcripts do not match.
    """
    corpus = find_corpus(root)
    if not (corpus / subset).is_dir():
        have = ", ".join(_subdirectories(corpus)) or "no directory"
        raise UserError(f"{corpus}/{subset}: no such subset; {corpus} has {have}")
    manifest = [
        utterance
        for speaker in _subdirectories(corpus / subset)
        for chapter in _subdirectories(corpus / subset / speaker)
        for utterance in _prepare_chapter(corpus / subset, speaker, chapter)
    ]
    if not manifest:
        raise UserError(f"{corpus}/{subset}: no utterances; unpack the subset again")
    return sorted(manifest)


def _subdirectories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def _prepare_chapter(subset: Path, speaker: str, chapter: str) -> Iterable[Utterance]:
    folder = subset / speaker / chapter
    listing = folder / f"{speaker}-{chapter}.trans.txt"
    audio = _list_audio(folder)
    if not audio and not listing.exists():
        return  # a folder of something else
    if not listing.exists():
        raise UserError(f"{listing}: no such file; copy this chapter again")
    texts = read_table(listing)
    if unheard := texts.keys() - audio:
        missing = folder / f"{min(unheard)}.flac"
        raise UserError(
            f"{missing}: no such file, but {listing.name} has a line for it; "
            "copy the file again or remove the line"
        )
    if untold := audio - texts.keys():
        raise UserError(
            f"{folder}/{min(untold)}.flac: no transcript in {listing.name}; "
            "add its line or remove the file"
        )
    for utt, text in texts.items():
        if not utt.startswith(f"{speaker}-{chapter}-"):
            raise UserError(
                f"{listing}: rename '{utt}' to begin with '{speaker}-{chapter}-'"
            )
        if not text:
            raise UserError(f"{listing}: '{utt}' has no words; add them")
        path = os.path.join(folder, f"{utt}.flac")
        yield Utterance(utt, f"{speaker}-{chapter}", path, " ".join(text.split()))


def _list_audio(folder: Path) -> set[str]:
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".flac") and entry.name[0] != ".":
                if entry.stat().st_size == 0:
                    raise UserError(
                        f"{entry.path}: empty file (0 bytes); copy it again"
                    )
                found.add(entry.name.removesuffix(".flac"))
    return found


def prepare_set(
    root: Path, subsets: Sequence[str], out: Path, max_utts: int | None = None
) -> bool:
    """Write the data directory ``out`` from one or more subsets.

    A finished directory holds ``.completed``, which says what it was made from; one
    made from the same is left alone.

    Args:
        root: see ``prepare_subset``.
        subsets: names of the subsets to combine.
        out: the data directory.
        max_utts: keep this many utterances, spread evenly over the set.

    Returns:
        Whether the directory was written (it was not already there).

    Raises:
        UserError: see ``prepare_subset``; or an utterance is in two subsets.
    """
    origin = json.dumps(
        {"root": str(root), "subsets": list(subsets), "max_utts": max_utts}
    )
    marker = out / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == origin + "\n":
        logger.info("%s is complete; remove %s to make it anew", out, marker)
        return False
    manifest: dict[str, Utterance] = {}
    for subset in subsets:
        for utterance in prepare_subset(root, subset):
            if utterance.utt in manifest:
                twin = manifest[utterance.utt].audio
                raise UserError(f"{utterance.audio}: {twin} has the same id; drop one")
            manifest[utterance.utt] = utterance
    chosen = spread(sorted(manifest.values()), max_utts)
    make_dir(out)
    marker.unlink(missing_ok=True)
    DataDir(
        wav={u.utt: u.audio for u in chosen},
        text={u.utt: u.text for u in chosen},
        utt2spk={u.utt: u.speaker for u in chosen},
    ).write(out)
    write_line(marker, origin)
    logger.info("%s: %d utterances of %s", out, len(chosen), " + ".join(subsets))
    return True


def spread(items: Sequence, count: int | None) -> Sequence:
    """``count`` of the items at even distances; all when there are not more."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _set_option(value: str) -> tuple[str, list[str]]:
    name, _, subsets = value.partition("=")
    if not name or not all(subsets.split("+")):
        raise argparse.ArgumentTypeError(
            f"'{value}' is not of the form name=subset+subset"
        )
    return name, subsets.split("+")


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"'{value}' is not a count of 1 or more")
    return int(value)


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--root", type=Path, required=True, help="the directory that holds LibriSpeech/"
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path("data"), help="where to write (data)"
    )
    parser.add_argument(
        "--max_utts", type=_count, help="keep so many utterances of each set"
    )
    parser.add_argument(
        "sets", type=_set_option, nargs="+", metavar="NAME=SUBSET[+SUBSET]"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Prepare every set that the command line names."""
    args = get_parser().parse_args(cmd)
    log_to_stdout()
    for name, subsets in args.sets:
        prepare_set(args.root, subsets, args.data_dir / name, args.max_utts)


if __name__ == "__main__":
    run_main(main)
