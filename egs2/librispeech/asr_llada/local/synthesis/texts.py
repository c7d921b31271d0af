"""Where the sentences come from, and how they become words that are spoken.

A text has two forms: what an engine reads (`spoken`: words and sentence punctuation,
no digits, no abbreviations) and the transcript (`transcript`: upper case, A-Z,
apostrophe and space). The second follows from the first, so they cannot disagree.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import cycle

import numpy as np
import yaml
from synthesis.numbers import cardinal, ordinal, year
from synthesis.packages import importable, package
from synthesis.prompts import prompts

HELD_OUT_BOOKS = ("austen-sense", "chesterton-thursday")
"""Quoted in real_read, and the book of the synthetic test set."""

OLD_SPELLING = ("shakespeare-caesar", "shakespeare-hamlet", "shakespeare-macbeth")

SHORT, LONG = 3, 28
"""Words in a text: about 1.5 s to 11 s."""

LENGTHS = (14, 20, 8, 17, 23, 11, 19)
"""Words in the pieces of a book, in turn, as far as its punctuation allows."""

LARGE_BOOK = 10_000
"""Pieces; a larger book is drawn from as if it had this many."""

OVERLAP = 6
"""Words in a row that a text may not share with an excluded transcript."""

ABBREVIATIONS = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Dr": "Doctor",
    "St": "Saint",
    "etc": "et cetera",
    "e.g": "for example",
    "i.e": "that is",
    "vs": "versus",
}
FOLDED = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "—": ", ", "–": ", ", "…": ".", "*": ""}
)
TITLE = re.compile(r"\b(Mr|Mrs|Dr|St)\b\.?")
SHORT_FORM = re.compile(r"\b(etc|e\.g|i\.e|vs)\.(?=\W|$)")
OPENING = re.compile(r"(?<![A-Za-z])'(?!(?:tis|twas|twere|em|ll)\b)", re.I)
WORD = re.compile(r"(?<![\w'])[a-z]{3,}(?![\w'])")
ELISIONS = {"'TIS", "'TWAS", "'TWERE", "'EM", "O'", "TH'", "'LL"}


def spoken(text: str) -> str | None:
    """The form an engine reads; None where it is not plain how to read it aloud."""
    text = text.translate(FOLDED).replace("--", ", ").replace("_", "")
    text = SHORT_FORM.sub(lambda m: ABBREVIATIONS[m[1]], text)
    text = TITLE.sub(lambda m: ABBREVIATIONS[m[1]], text)
    text = _numbers(text) if re.search(r"\d", text) else text
    text = text.replace('"', " ").replace("-", " ").replace("&", " and ")
    text = OPENING.sub(" ", text)
    text = re.sub(r"'(?![A-Za-z])", " ", text)
    if not re.fullmatch(r"[A-Za-z' ,.;:?!\s]+", text):
        return None
    text = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(text.split()))
    text = re.sub(r"([,.;:?!])[,.;:?!]+", r"\1", text).lstrip(",.;:?! ")
    if re.search(r"\b[A-Z]{2,}\b", text) or not text:
        return None  # shouted, a roman numeral, or letters to be spelt
    return text


def transcript(text: str) -> str:
    """A spoken text as it is written in a transcript."""
    words = re.sub(r"[^A-Z' ]", " ", text.upper()).split()
    return " ".join(w if w in ELISIONS else w.strip("'") for w in words)


def _numbers(text: str) -> str:
    """Digits as words; what is left (times, codes) makes `spoken` refuse the text."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\$(\d+)\b(?!\.\d)", lambda m: f"{cardinal(m[1])} dollars", text)
    text = re.sub(r"(\d)\s?%", r"\1 percent", text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: ordinal(m[1]), text)
    dates = r"\b(1[1-9]\d\d|20\d\d)\b(?![.:]\d)"
    text = re.sub(dates, lambda m: year(int(m[1])), text)
    plain = r"(?<![\d:.])\d+(\.\d+)?(?![\d:.]\d)"
    return re.sub(plain, lambda m: cardinal(m[0]), text)


def chunks(text: str) -> Iterable[str]:
    """Running prose in pieces of about `LENGTHS` words, cut where a reader pauses."""
    text = " ".join(text.translate(FOLDED).split())
    text = TITLE.sub(lambda m: ABBREVIATIONS[m[1]], text)
    parts, count, lengths = [], 0, cycle(LENGTHS)
    wanted = next(lengths)
    for part in re.split(r"(?<=[,;:.?!])[\"')]*\s+", text):
        words = len(part.split())
        if parts and count + words > LONG:
            yield " ".join(parts)
            parts, count, wanted = [], 0, next(lengths)
        parts, count = [*parts, part], count + words
        if count >= wanted:
            yield " ".join(parts)
            parts, count, wanted = [], 0, next(lengths)
    yield " ".join(parts)


def books() -> dict[str, list[str]]:
    """Pieces of each book that may be used."""
    found = {}
    for path in sorted((package("gutenberg") / "package/gutenberg").glob("*.txt")):
        if path.stem in HELD_OUT_BOOKS + OLD_SPELLING:
            continue
        text = path.read_text(encoding="latin-1")
        text = re.sub(r"\b\d+:\d+\b|^.*\bCHAPTER\b.*$|\[.*?\]", " ", text, flags=re.M)
        found[path.stem] = list(chunks(text))
    return found


def definitions() -> list[str]:
    """WordNet's example sentences, and its shorter glosses."""
    found = []
    for kind in ("noun", "verb", "adj", "adv"):
        path = package("wordnet") / "package" / "dict" / f"data.{kind}"
        for line in path.read_text(encoding="latin-1").splitlines():
            gloss = line.partition(" | ")[2]
            found += re.findall(r'"([^"]+)"', gloss)
            found += [g for g in gloss.split(";")[:1] if '"' not in g and "(" not in g]
    return [f for f in found if not f.startswith("-")]


def dialogue() -> list[str]:
    """Both sides of the ChatterBot corpus."""
    folder = package("chatterbot") / "chatterbot_corpus" / "data" / "english"
    found = []
    for path in sorted(folder.glob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        turns = [t for c in content["conversations"] for t in c if isinstance(t, str)]
        found += [chunk for turn in turns for chunk in chunks(turn)]
    return found


def names() -> tuple[list[str], list[str]]:
    """First and last names."""
    importable("faker")
    provider = importlib.import_module("faker.providers.person.en_US").Provider
    return sorted(provider.first_names), sorted(provider.last_names)


def words(pool: Iterable[str]) -> list[str]:
    """Lists of one to seven words in no grammar, rare words as likely as others."""
    counts = Counter(w for text in pool for w in WORD.findall(text))
    known = np.array(sorted(w for w, n in counts.items() if n > 2))
    rng, found = np.random.default_rng(11), []
    for _ in range(20_000):
        chosen = known[rng.integers(len(known), size=rng.integers(1, 8))]
        found.append(", ".join(chosen).capitalize() + ".")
    return found


SHARES: dict[str, float] = {
    "books": 0.55,
    "definitions": 0.15,
    "dialogue": 0.05,
    "prompts": 0.18,
    "words": 0.07,
}


class Excluded:
    """Transcripts that no text may repeat or quote."""

    def __init__(self, transcripts: Iterable[str] = ()):
        lines = [t.split() for t in transcripts]
        self.whole = {" ".join(t) for t in lines}
        self.runs = {run for t in lines for run in _runs(t)}

    def __contains__(self, text: str) -> bool:
        return text in self.whole or not self.runs.isdisjoint(_runs(text.split()))


def _runs(tokens: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(OVERLAP)), strict=False)


def usable(texts: Iterable[str], excluded: Excluded, shortest: int = SHORT) -> list:
    """The spoken forms of what can be read aloud, without repeats, in their order."""
    found: dict[str, str] = {}
    for text in texts:
        read = spoken(text)
        key = transcript(read) if read else ""
        if shortest <= len(key.split()) <= LONG and key not in excluded:
            found.setdefault(key, read)
    return list(found.values())


def sources(excluded: Excluded) -> dict[str, list[list[str]]]:
    """Every source as a list of parts (books) of spoken texts."""
    parts = [usable(b, excluded) for b in books().values()]
    flat: dict[str, Callable[[], Iterable[str]]] = {
        "definitions": definitions,
        "dialogue": dialogue,
        "prompts": lambda: prompts(*names()),
        "words": lambda: words(t for part in parts for t in part),
    }
    shortest = {"prompts": 2, "words": 1}
    found = {"books": [p for p in parts if p]}
    for name, read in flat.items():
        found[name] = [usable(read(), excluded, shortest.get(name, SHORT))]
    return found


def draw(pool: dict[str, list[list[str]]], rng: np.random.Generator) -> tuple[str, str]:
    """A source and a text; large books come more often, by the root of their size."""
    shares = np.array([SHARES[name] for name in pool])
    source = str(rng.choice(list(pool), p=shares / shares.sum()))
    parts = pool[source]
    sizes = np.sqrt([min(len(p), LARGE_BOOK) for p in parts])
    part = parts[rng.choice(len(parts), p=sizes / sizes.sum())]
    return source, part[rng.integers(len(part))]
