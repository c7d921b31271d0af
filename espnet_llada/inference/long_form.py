"""Long-form audio: recordings and their first passes are cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated

from msgspec import Meta

from espnet_llada.alignment import align


@dataclass(frozen=True)
class Options:
    """``long_form``: segmentation of long recordings."""

    max_segment_seconds: Annotated[
        float,
        Meta(ge=1.0, le=30.0, description="longer audio is cut at pauses"),
    ] = 30.0


def cut_transcript(transcript: str, drafts: Sequence[str]) -> list[str]:
    """Cut a transcript at the segments of its recording.

    The words are aligned with drafts of the segments, which may have errors. A word
    that is aligned with nothing goes with the one behind it.

    Args:
        transcript: of the whole recording.
        drafts: a text for each segment.

    Returns:
        One text for each segment; joined they are the transcript.
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
