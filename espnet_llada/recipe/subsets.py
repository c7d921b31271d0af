"""The seven subsets of LibriSpeech (https://www.openslr.org/12): archives and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Subset(NamedTuple):
    """What is published of a subset.

    Attributes:
        size, sha256: of ``<subset>.tar.gz`` (bytes). openslr publishes MD5 sums; the
            sha256 are those that torchaudio 2.11 pins (``datasets/librispeech.py``),
            the sizes those that Kaldi's ``download_and_untar.sh`` checks.
        utterances: recordings, each with a transcript.
    """

    size: int
    sha256: str
    utterances: int


SUBSETS = {
    "dev-clean": Subset(
        337_926_286,
        "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
        2_703,
    ),
    "dev-other": Subset(
        314_305_928,
        "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
        2_864,
    ),
    "test-clean": Subset(
        346_663_984,
        "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
        2_620,
    ),
    "test-other": Subset(
        328_757_843,
        "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
        2_939,
    ),
    "train-clean-100": Subset(
        6_387_309_499,
        "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
        28_539,
    ),
    "train-clean-360": Subset(
        23_049_477_885,
        "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
        104_014,
    ),
    "train-other-500": Subset(
        30_593_501_606,
        "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
        148_688,
    ),
}


def check_count(corpus: Path, subset: str, utterances: int) -> str | None:
    """What is wrong with the number of utterances found of a subset, if anything.

    A subset of another name than LibriSpeech's may have any number.
    """
    known = SUBSETS.get(subset)
    if known is None or utterances == known.utterances:
        return None
    detail = f"{utterances} utterances, LibriSpeech's has {known.utterances}"
    folder = corpus / subset
    if utterances > known.utterances:
        return f"{folder}: {detail}; move what is not of it elsewhere"
    if (chapter := _first_missing_chapter(corpus, subset)) is not None:
        detail += f"; chapter {chapter} of CHAPTERS.TXT is not there"
    mend = "unpack the subset again, or allow it with --partial true"
    return f"{folder}: {detail}; {mend}"


def _first_missing_chapter(corpus: Path, subset: str) -> str | None:
    """``speaker/chapter`` by the corpus's own list, if that list is there.

    Its lines are ``chapter | reader | minutes | subset | ...``, comments begin with a
    semicolon.
    """
    try:
        lines = (corpus / "CHAPTERS.TXT").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[3] == subset and not line.startswith(";"):
            chapter = f"{cells[1]}/{cells[0]}"
            if not (corpus / subset / chapter).is_dir():
                return chapter
    return None
