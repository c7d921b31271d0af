"""Long-form audio: recordings and their first passes are cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta

from espnet_llada.alignment import align
from espnet_llada.types import Hypothesis


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


def cut_by_drafts(
    recognizer: Any, pieces: Sequence[Sequence[np.ndarray]], texts: Sequence[str]
) -> list[str] | None:
    """The transcript of each segment; None if the model has no draft (CTC).

    Args:
        recognizer: a ``core.recognizer.Recognizer``.
        pieces: the segments of each recording.
        texts: the transcript of each recording.
    """
    decoder = recognizer.decoder
    flat = [w for parts in pieces for w in parts if len(parts) > 1]
    with torch.no_grad():
        encoded = recognizer.encoded(flat)
        ids = decoder.audio_prefix.draft(decoder.prompt, *encoded)
    if ids is None:
        return None
    drafts = map(decoder.tokenizer.decode, ids)
    cut = []
    for text, parts in zip(texts, pieces, strict=True):
        own = [text]
        if len(parts) > 1:
            own = cut_transcript(text, [next(drafts) for _ in parts])
        cut += own
    return cut


def joined(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Join the hypotheses of segments."""
    return Hypothesis(
        text=" ".join(p.text for p in parts if p.text),
        tokens=sum((p.tokens for p in parts), ()),
        token_ids=sum((p.token_ids for p in parts), ()),
        score=sum(p.score for p in parts),
        passes=sum(p.passes for p in parts),
        confidence=sum((p.confidence for p in parts), ()),
        eos=parts[0].eos,
        words=sum((p.words for p in parts), ()),
        calibrated=all(p.calibrated for p in parts if p.tokens),
        evidence=sum((p.evidence for p in parts), ()),
    )


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum()) or word
