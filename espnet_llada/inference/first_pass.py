"""Words of a first pass that the LM's vocabulary cannot write stay unchanged.

A vocabulary may lack letters, digits and signs. The LM is given the nearest form of
such a word that it can write, or nothing, and changes of that form are undone.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from espnet_llada.alignment import align
from espnet_llada.networks.tokenizer import LMTokenizer, to_case
from espnet_llada.types import SAMPLE_RATE

_SPEED, _SLACK = 20.0, 32
"""More tokens per second than speech can have, and a constant allowance."""

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))
_NOT_SPOKEN = re.compile(r"<[^<>]*>|[^\w']+|_")


class FirstPass:
    """The transcript of another recogniser, word by word.

    Args:
        text: the transcript.
        tokenizer: of the LM that deliberates over it.

    Attributes:
        words: of the transcript.
        shown: for each word, the words given to the LM in its place, or none.
        unwritable: for each word, whether the LM cannot write it.
    """

    def __init__(self, text: str, tokenizer: LMTokenizer):
        self.text, self.words = text, text.split()
        forms = [_shown(word, tokenizer) for word in self.words]
        self.shown = [shown for shown, _ in forms]
        self.unwritable = [unwritable for _, unwritable in forms]

    @property
    def visible(self) -> str:
        """The transcript as given to the LM."""
        return " ".join(word for shown in self.shown for word in shown)

    def restored(self, found: str, case: str) -> str:
        """The LM's output for the visible text, merged into the transcript.

        Unchanged words are written as in the transcript. A change next to a word that
        the LM cannot write is undone: most likely it is that word, as it is spoken.

        Args:
            found: the LM's output.
            case: ``upper`` or ``lower`` for all words, ``keep`` for the LM's case; with
                ``auto`` unchanged words keep their case, and others are in capitals
                unless the transcript has lower-case letters.
        """
        own, new = case, case
        if case == "auto":
            own, new = "keep", "keep" if self._is_lower() else "upper"
        out: list[str] = []
        for first, end, words in self._parts(found.split()):
            if words is None or any(self.unwritable[first:end]):
                out += [to_case(word, own) for word in self.words[first:end]]
            else:
                out += [to_case(word, new) for word in words]
        # (Not even white space of a text that stayed is changed.)
        return self.text if out == self.words else " ".join(out)

    def _is_lower(self) -> bool:
        """Whether the words that the LM can write have lower-case letters."""
        words = zip(self.words, self.unwritable, strict=True)
        return any(word != word.upper() for word, alien in words if not alien)

    def _parts(self, found: list[str]) -> Iterator[tuple[int, int, list[str] | None]]:
        """Spans of the transcript's words and their replacement; None: unchanged."""
        pairs = align([word for shown in self.shown for word in shown], found)
        places = [n for n, (own, _) in enumerate(pairs) if own is not None]
        done = word = 0  # pairs and words that were dealt with
        for number, shown in enumerate(self.shown):
            here, places = places[: len(shown)], places[len(shown) :]
            if not here or pairs[here[0] : here[-1] + 1] != [(w, w) for w in shown]:
                continue
            between = [other for _, other in pairs[done : here[0]] if other is not None]
            yield word, number, between
            yield number, number + 1, None
            done, word = here[-1] + 1, number + 1
        rest = [other for _, other in pairs[done:] if other is not None]
        yield word, len(self.words), rest


@lru_cache(maxsize=1 << 16)
def _shown(word: str, tokenizer: LMTokenizer) -> tuple[tuple[str, ...], bool]:
    """The form of a word given to the LM, and whether it cannot write the word."""
    plain = to_case(word, tokenizer.text_case)
    if tokenizer.decode(tokenizer.encode(word)) == plain:
        return (plain,), False
    letters = unicodedata.normalize("NFKD", word.translate(_APOSTROPHES))
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    spoken = " ".join(_NOT_SPOKEN.sub(" ", letters).split())
    return tuple(tokenizer.decode(tokenizer.encode(spoken)).split()), True


def is_sayable(utt_id: str, waveform: np.ndarray, ids: Sequence[int]) -> bool:
    """Whether audio (T,) at 16 kHz can hold a first pass; warns where it cannot."""
    seconds = len(waveform) / SAMPLE_RATE
    if len(ids) <= _SLACK + _SPEED * seconds:
        return True
    logging.warning(
        f"{utt_id}: a first pass of {len(ids)} tokens over {seconds:.1f} s of audio is "
        "more than can be spoken; it is not changed"
    )
    return False
