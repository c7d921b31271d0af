"""Words of a first pass that deliberation has mended, and words that it has broken."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from espnet_llada.alignment import align


@dataclass(frozen=True)
class Repairs:
    """Of one utterance, or of many.

    A word of the reference is wrong where its text has another word or none; a word
    that nobody said is an error of the place between two words of the reference.

    Attributes:
        mended: errors of the first pass that are no longer there.
        broken: errors that the first pass did not have.
    """

    mended: int = 0
    broken: int = 0

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(self.mended + other.mended, self.broken + other.broken)


@functools.lru_cache(maxsize=1 << 16)  # a set's, and again where sets are pooled
def repairs(reference: str, first: str, result: str) -> Repairs:
    """Count by sclite's alignment of each text with the reference.

    ``mended - broken`` is what the first pass has more errors than the result.
    """
    if first == result:
        return Repairs()
    before, after = (_errors(reference.split(), t.split()) for t in (first, result))
    fewer = [a - b for a, b in zip(before, after, strict=True)]
    return Repairs(sum(n for n in fewer if n > 0), -sum(n for n in fewer if n < 0))


def _errors(said: list[str], found: list[str]) -> list[int]:
    """Of R words: at each of the 2 R + 1 places, before, on and behind a word."""
    errors, place = [0] * (2 * len(said) + 1), 0
    for own, other in align(said, found):
        if own is None:
            errors[place] += 1
        else:
            errors[place + 1] = int(own != other)
            place += 2
    return errors
