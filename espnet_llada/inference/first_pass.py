"""A first pass is its owner's: what the LM cannot write of it comes back as it was.

An LM's vocabulary may lack letters, digits and signs. It is shown the nearest thing to
such a word that it can write, or nothing; what it then makes of that place is undone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from espnet_llada.alignment import align
from espnet_llada.networks.tokenizer import LMTokenizer, to_case

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))
_NOT_SPOKEN = re.compile(r"<[^<>]*>|[^\w']+|_")


class FirstPass:
    """The transcript of another recogniser, word by word.

    Args:
        text: the transcript.
        tokenizer: of the LM that deliberates over it.

    Attributes:
        words: of the transcript.
        shown: of each word, what the LM is shown in its place: one word, several, or
            none.
        unwritable: of each word, whether the LM cannot write it.
    """

    def __init__(self, text: str, tokenizer: LMTokenizer):
        self.text, self.words = text, text.split()
        forms = [_shown(word, tokenizer) for word in self.words]
        self.shown = [shown for shown, _ in forms]
        self.unwritable = [unwritable for _, unwritable in forms]

    @property
    def visible(self) -> str:
        """What the LM is shown."""
        return " ".join(word for shown in self.shown for word in shown)

    def restored(self, found: str, case: str) -> str:
        """What was made of the visible text, with the transcript's own words.

        A word that stayed is written as the transcript has it. Where something changed
        next to a word that the LM cannot write, the transcript stays as it was: most
        likely that is how the word is spoken.

        Args:
            found: what the LM has written.
            case: ``upper`` or ``lower`` for all words, ``keep`` for the LM's own; with
                ``auto`` words that stayed are left alone, and others are in capitals
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
        """Whether words that the LM can write have letters in lower case."""
        words = zip(self.words, self.unwritable, strict=True)
        return any(word != word.upper() for word, alien in words if not alien)

    def _parts(self, found: list[str]) -> Iterator[tuple[int, int, list[str] | None]]:
        """The transcript's words in runs, and what stands there; None: they stayed."""
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
    """What the LM is shown of a word, and whether it cannot write the word itself."""
    plain = to_case(word, tokenizer.text_case)
    if tokenizer.decode(tokenizer.encode(word)) == plain:
        return (plain,), False
    letters = unicodedata.normalize("NFKD", word.translate(_APOSTROPHES))
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    spoken = " ".join(_NOT_SPOKEN.sub(" ", letters).split())
    return tuple(tokenizer.decode(tokenizer.encode(spoken)).split()), True
