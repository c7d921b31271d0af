"""A long recording in pieces: its first pass cut as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated

from msgspec import Meta

from espnet_llada.alignment import align


@dataclass(frozen=True)
class Options:
    """``long_form``: recordings that are cut."""

    max_segment_seconds: Annotated[
        float,
        Meta(ge=1.0, le=30.0, description="what is longer is cut where it is quiet"),
    ] = 30.0


def cut_transcript(transcript: str, drafts: Sequence[str]) -> list[str]:
    """The words of a transcript that fall to each piece of its recording.

    They are aligned with drafts of the pieces, whatever their errors. A word that
    nothing of them stands for goes with the one behind it.

    Args:
        transcript: of the whole recording.
        drafts: a text for each piece.

    Returns:
        As many texts; together they are the transcript's words.
    """
    given, found = transcript.split(), [text.split() for text in drafts]
    words = [word for text in found for word in text]
    before, taken = [0], 0
    for own, other in align([_plain(w) for w in given], [_plain(w) for w in words]):
        taken += own is not None
        if other is not None:
            before.append(taken)
    ends = [before[count] for count in accumulate(map(len, found))]
    cuts = [0, *ends[:-1], len(given)]
    return [" ".join(given[start:end]) for start, end in pairwise(cuts)]


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum()) or word
