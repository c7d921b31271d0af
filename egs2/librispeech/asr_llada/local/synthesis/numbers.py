"""Numbers as the words that say them."""

from __future__ import annotations

from functools import lru_cache

import inflect


@lru_cache(maxsize=1)
def _engine() -> inflect.engine:
    return inflect.engine()


@lru_cache(maxsize=10_000)
def cardinal(number: int | str) -> str:
    """``1250`` as "one thousand two hundred fifty"; "2.5" as "two point five"."""
    words = _engine().number_to_words(str(number), andword="")
    return str(words).replace(",", "").replace("-", " ")


@lru_cache(maxsize=1_000)
def ordinal(number: int | str) -> str:
    """``21`` as "twenty first"."""
    return str(_engine().ordinal(cardinal(number)))


def year(number: int) -> str:
    """``1905`` as "nineteen oh five"."""
    century, rest = divmod(number, 100)
    if century % 10 == 0:  # two thousand and what follows it
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"
