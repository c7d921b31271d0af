"""LibriSpeech, or any corpus in its layout, to Kaldi data directories.

    python -m espnet_llada.recipe.librispeech --root DIR dev=dev-clean+dev-other

The layout is ``LibriSpeech/<subset>/<speaker>/<chapter>/`` with the recordings
``<speaker>-<chapter>-<utterance>.flac`` and ``<speaker>-<chapter>.trans.txt``, with
one line for each. Copies whose recordings are in other formats are taken as they are.
Audio is checked as far as ``--check`` says; stage 3 decodes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_llada.bin.options import OfKind, OptionParser, run_main, str2bool
from espnet_llada.io.files import make_dir, write_text
from espnet_llada.io.kaldi.table import normal_id, scan_table
from espnet_llada.io.schema import Count
from espnet_llada.recipe.audio_check import CHECKS, check_audio
from espnet_llada.recipe.datadir import Utterance, write_data_dir
from espnet_llada.recipe.download import MARKER, URL, fetch_subsets
from espnet_llada.recipe.logs import log_to_stdout, progress_bar
from espnet_llada.recipe.problems import Problems
from espnet_llada.recipe.subsets import SUBSETS, check_count
from espnet_llada.types import UserError, check_inside

logger = logging.getLogger(__name__)

_RECORDINGS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
"""Suffixes in a copy of the corpus, in upper case too."""


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
        "directory that holds LibriSpeech/, or fetch it (61 GB) with --download true"
    )


def _list_subset(
    corpus: Path, subset: str, partial: bool, problems: Problems
) -> list[Utterance]:
    if not (corpus / subset).is_dir():
        have = ", ".join(_subdirectories(corpus)) or "no directory"
        raise UserError(f"{corpus}/{subset}: no such subset; {corpus} has {have}")
    before, manifest = problems.count, []
    known = SUBSETS.get(subset)
    with progress_bar(known and known.utterances, f"list {subset}") as bar:
        for speaker in _subdirectories(corpus / subset):
            for chapter in _subdirectories(corpus / subset / speaker):
                folder = corpus / subset / speaker / chapter
                manifest += _list_chapter(folder, f"{speaker}-{chapter}", problems)
                bar.update(len(manifest) - bar.n)
    if problems.count == before:  # else what is missing is named already
        if not manifest:
            problems.add(f"{corpus}/{subset}: no utterances; unpack the subset again")
        elif not partial and (wrong := check_count(corpus, subset, len(manifest))):
            problems.add(wrong)
    return manifest


def _subdirectories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def _list_chapter(folder: Path, name: str, problems: Problems) -> Iterable[Utterance]:
    """``name`` is ``<speaker>-<chapter>``, which every id must begin with."""
    listing = folder / f"{name}.trans.txt"
    audio, complaints = _list_audio(folder)
    if not listing.exists():
        if audio:  # else a folder of something else
            problems.add(f"{listing}: no such file; copy this chapter again")
        return
    texts, more = scan_table(listing)
    complaints += more
    name = normal_id(name)  # of the folders, as the file system spells them
    for utt in sorted(texts.keys() - audio.keys()):
        complaints.append(
            f"{folder}/{utt}.flac: no such file, but {listing.name} has a line for it; "
            "copy the file again or remove the line"
        )
    for utt in sorted(audio.keys() - texts.keys()):
        complaints.append(
            f"{folder}/{audio[utt]}: no transcript in {listing.name}; "
            "add its line or remove the file"
        )
    for utt, text in texts.items():
        if not utt.startswith(f"{name}-"):
            complaints.append(f"{listing}: rename '{utt}' to begin with '{name}-'")
        elif not text:
            complaints.append(f"{listing}: '{utt}' has no words; add them")
        elif utt in audio:
            path = os.path.join(folder, audio[utt])
            yield Utterance(utt, name, path, " ".join(text.split()))
    for complaint in complaints:
        problems.add(complaint)


def _list_audio(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Utterance -> its file; and a line for each utterance that has two."""
    found: dict[str, str] = {}
    complaints = []
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name[0] != ".")
    for name in names:
        utt, suffix = os.path.splitext(name)
        utt = normal_id(utt)
        if suffix.lower() not in _RECORDINGS:
            continue
        if utt in found:
            complaints.append(
                f"{folder}/{name}: {found[utt]} is the same utterance; "
                "remove one of the two"
            )
        found[utt] = name
    return found, complaints


def list_utterances(
    root: Path,
    subsets: Sequence[str],
    max_utts: int | None = None,
    check: str = "header",
    partial: bool = False,
) -> Sequence[Utterance]:
    """List the utterances of one or more subsets, e.g. ``train-clean-100``.

    Args:
        root: the directory that holds ``LibriSpeech/``, or that directory itself.
        subsets: names of directories in it.
        max_utts: keep this many utterances, spread evenly over all.
        check: how closely to look at the audio, one of ``CHECKS``.
        partial: allow a subset of LibriSpeech's name to have fewer utterances.

    Returns:
        The manifest, sorted by utterance id in the C locale. As in ESPnet's LibriSpeech
        recipe each chapter is a speaker of its own.

    Raises:
        UserError: a directory or an utterance is missing, an utterance is in two
            subsets, audio and transcripts do not match, or a recording is broken. Of
            several problems the first ones are logged.
    """
    problems, corpus = Problems(), find_corpus(root)
    manifest: list[Utterance] = []
    for subset in subsets:
        manifest += _list_subset(corpus, subset, partial, problems)
    manifest.sort()
    for one, other in itertools.pairwise(manifest):
        if one.utt == other.utt:
            problems.add(f"{one.audio}: {other.audio} has the same id; drop one")
    chosen = spread(manifest, max_utts)
    check_audio([u.audio for u in chosen], check, problems)
    problems.check()
    return chosen


def prepare_set(
    root: Path,
    subsets: Sequence[str],
    out: Path,
    max_utts: int | None = None,
    check: str = "header",
    partial: bool = False,
) -> bool:
    """Write the data directory ``out``; the other arguments: see ``list_utterances``.

    A finished directory holds ``.completed``, which says what it was made from; one
    made from the same is left alone.

    Returns:
        Whether the directory was written (it was not already there).
    """
    origin = {"root": str(root), "subsets": list(subsets), "max_utts": max_utts}
    stamp = json.dumps(origin | {"check": check, "partial": partial}) + "\n"
    marker = out / MARKER
    if marker.is_file() and marker.read_bytes() == stamp.encode():
        logger.info("%s is complete; remove %s to make it anew", out, marker)
        return False
    chosen = list_utterances(root, subsets, max_utts, check, partial)
    make_dir(out)
    marker.unlink(missing_ok=True)
    write_data_dir(out, chosen)
    write_text(marker, stamp)
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
    check_inside(name, "set")
    return name, subsets.split("+")


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
        "--max_utts", type=OfKind(Count), help="keep so many utterances of each set"
    )
    parser.add_argument(
        "--check",
        choices=CHECKS,
        default="header",
        help="look at no audio file, at its size, at its header and end, or decode it",
    )
    flag = {"type": str2bool, "default": False}
    parser.add_argument(
        "--partial", **flag, help="allow fewer utterances than LibriSpeech has"
    )
    parser.add_argument(
        "--download", **flag, help="fetch subsets of LibriSpeech that are not there"
    )
    parser.add_argument(
        "--download_url", default=URL, help="of a mirror, if openslr's is slow"
    )
    parser.add_argument(
        "sets", type=_set_option, nargs="+", metavar="NAME=SUBSET[+SUBSET]"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Prepare every set that the command line names."""
    args = get_parser().parse_args(cmd)
    log_to_stdout()
    if args.download:
        every = dict.fromkeys(s for _, subsets in args.sets for s in subsets)
        fetch_subsets(args.root, list(every), args.download_url)
    for name, subsets in args.sets:
        out = args.data_dir / name
        prepare_set(args.root, subsets, out, args.max_utts, args.check, args.partial)


if __name__ == "__main__":
    run_main(main)
