"""Which words are wrong, and which ones deliberation has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from espnet_llada.alignment import align
from espnet_llada.scoring.normalize import normalize_all
from espnet_llada.scoring.wer import score_pairs


@dataclass(frozen=True)
class Chosen:
    """An utterance worth showing.

    Attributes:
        why: ``better``, ``worse``, ``right`` or ``wrong``.
        before, after: errors of the first pass (None in decoding) and of the result,
            after the normaliser.
    """

    utt_id: str
    why: str
    before: int | None
    after: int


def choose(
    refs: Mapping[str, str],
    results: Mapping[str, str],
    first: Mapping[str, str] | None = None,
) -> list[Chosen]:
    """A few utterances of a set, the same ones in every run.

    With a first pass: the two that it improved most, and the one that it spoilt most.
    Otherwise the longest without an error, and the one with the highest error rate.
    """
    after = _errors(refs, results)
    if first is None:
        length = {u: len(refs[u].split()) for u in refs}
        right = sorted((u for u in refs if not after[u]), key=lambda u: (-length[u], u))
        wrong = sorted(
            (u for u in refs if after[u]), key=lambda u: (-after[u] / length[u], u)
        )
        found = [(u, "right") for u in right[:1]] + [(u, "wrong") for u in wrong[:1]]
        return [Chosen(u, why, None, after[u]) for u, why in found]
    before = _errors(refs, first)
    change = {u: after[u] - before[u] for u in refs}
    order = sorted(refs, key=lambda u: (change[u], u))
    found = [(u, "better") for u in order[:2] if change[u] < 0]
    found += [(u, "worse") for u in order[-1:] if change[u] > 0]
    return [Chosen(u, why, before[u], after[u]) for u, why in found]


def _errors(refs: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, int]:
    score = score_pairs(normalize_all(refs), normalize_all(texts))
    return {utt: counts.errors for utt, counts in score.utterances.items()}


class Word(NamedTuple):
    """A word as it is shown.

    Attributes:
        kinds: ``new`` where deliberation has changed it, ``bad`` where it is wrong.
        title: says more.
        missing: was said, and not recognised.
    """

    text: str
    kinds: list[str]
    title: str = ""
    missing: bool = False


def marked(ref: str, hyp: str, first: str | None = None) -> list[Word]:
    """A hypothesis whose wrong, missing and changed words are marked.

    Args:
        ref: what was said.
        hyp: what was recognised.
        first: the first pass that ``hyp`` came from, to mark what is new.
    """
    new = _changed(first.split(), hyp.split()) if first is not None else set()
    place, words = 0, []
    for said, word in align(ref.split(), hyp.split()):
        if word is None:
            words.append(Word(said, [], "missing", missing=True))
            continue
        kinds, title = ["new"] if place in new else [], ""
        if said != word:
            kinds.append("bad")
            title = f"said: {said}" if said else "nothing was said here"
        place += 1
        words.append(Word(word, kinds, title))
    return words


def _changed(old: list[str], new: list[str]) -> set[int]:
    """Places in ``new`` of the words that ``old`` does not have there."""
    pairs = [pair for pair in align(old, new) if pair[1] is not None]
    return {place for place, (before, after) in enumerate(pairs) if before != after}
