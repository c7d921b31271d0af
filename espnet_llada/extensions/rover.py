"""Word ROVER: the words of several hypotheses are aligned, and each place is voted on.

The hypotheses are merged one by one into a word transition network, a row of
correspondence sets: the words that they have at the same place, or NULL where one has
none. Of each set the word (or NULL) with the highest score is taken.

Source: Fiscus 1997 (ROVER). Costs of the alignment are those of ``rover`` in NIST's
SCTK, whose texts these are but for ties (``tests/extensions/test_rover.py``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from espnet_llada.alignment import align, cheapest_path
from espnet_llada.networks.tokenizer import LMTokenizer, to_case
from espnet_llada.types import Hypothesis, Word

_SUBSTITUTION, _BESIDE_NULL, _GAP, _NULL = 4000, 1000, 3000, 1
"""Costs of a word that a set has not; of one that a set with NULL has not; of a word of
one side alone; of passing over a set with NULL. A word that the set has costs 0."""

CorrespondenceSet = tuple[int | None, ...]
"""For each text the number of its word at a place; None is NULL."""

Form = tuple[str, float]
"""A word as the LM writes it (or nothing), and the probability of its tokens."""


@dataclass(frozen=True)
class Vote:
    """How a correspondence set is decided.

    A word's score is alpha * (share of the votes) + (1 - alpha) * (its confidence).

    Attributes:
        alpha: in [0, 1]; 1 is by frequency alone.
        null_confidence: confidence of NULL, in [0, 1].
        highest: confidence is the highest of those that have the word, not the mean.
    """

    alpha: float = 1.0
    null_confidence: float = 0.0
    highest: bool = False


def combined(
    found: Sequence[Hypothesis],
    weights: Sequence[float],
    vote: Vote,
    tokenizer: LMTokenizer,
) -> Hypothesis:
    """The hypothesis that the words of several make.

    One of them where it has the same words; otherwise a new one. A new one's tokens are
    those of its text, the probability of each word spread evenly over them; its score
    is that of these words, and it has no ``evidence``.

    Args:
        found: at least one.
        weights: of their votes, summing to 1.
        vote: how words win.
        tokenizer: of the LM that found them.
    """
    texts = [h.text.split() for h in found]
    if all(words == texts[0] for words in texts):
        return found[0]
    forms = [_forms(h, words, tokenizer) for h, words in zip(found, texts, strict=True)]
    sure = [_confidences(h, own) for h, own in zip(found, forms, strict=True)]
    chosen = elect(texts, weights, sure, vote)
    words = [texts[k][i] for k, i in chosen]
    if words in texts:
        return found[texts.index(words)]
    own = [forms[k][i] for k, i in chosen]
    is_timed = all(found[k].words for k, _ in chosen)
    timed = [found[k].words[i] for k, i in chosen] if is_timed else []
    made = replace(found[0], text=" ".join(words), words=_in_order(timed), evidence=())
    return _with_tokens(made, [form for form in own if form[0]], tokenizer)


def elect(
    texts: Sequence[Sequence[str]],
    weights: Sequence[float],
    confidences: Sequence[Sequence[float]],
    vote: Vote,
) -> list[tuple[int, int]]:
    """The words that win, in order; of equal scores that of the first text wins.

    Args:
        texts: the words of each.
        weights: of the texts' votes, summing to 1; all the same in Fiscus 1997.
        confidences: of each word, in [0, 1].
        vote: how.

    Returns:
        For each word the first text that has it, and its number there.
    """
    found = []
    for own in word_network(texts):
        voters: dict[str | None, list[int]] = {}
        for k, number in enumerate(own):
            word = None if number is None else texts[k][number]
            voters.setdefault(word, []).append(k)
        scores = {}
        for word, of in voters.items():
            sure = [vote.null_confidence]
            if word is not None:
                sure = [confidences[k][own[k]] for k in of]
            level = max(sure) if vote.highest else math.fsum(sure) / len(sure)
            share = math.fsum(weights[k] for k in of)
            scores[word] = vote.alpha * share + (1 - vote.alpha) * level
        best = max(scores, key=scores.__getitem__)
        if best is not None:
            first = voters[best][0]
            found.append((first, own[first]))
    return found


def word_network(texts: Sequence[Sequence[str]]) -> list[CorrespondenceSet]:
    """The word transition network of several texts; the first one is the base.

    Args:
        texts: the words of each; at least one text.
    """
    numbers: dict[str, int] = {}
    ids = [
        np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=int)
        for words in texts
    ]
    network: list[CorrespondenceSet] = [(i,) for i in range(len(texts[0]))]
    for k, words in enumerate(ids[1:], 1):
        null = np.array([None in own for own in network], dtype=bool)
        cost = np.where(null, _BESIDE_NULL, _SUBSTITUTION).astype(np.int16)
        cost = np.repeat(cost[:, None], len(words), axis=1)
        for other, known in enumerate(ids[:k]):
            rows = [row for row, own in enumerate(network) if own[other] is not None]
            there = known[[network[row][other] for row in rows]]
            cost[rows] *= there[:, None] != words
        path = cheapest_path(cost, np.where(null, _NULL, _GAP), _GAP)
        absent = (None,) * k
        network = [(absent if i is None else network[i]) + (j,) for i, j in path]
    return network


def _forms(h: Hypothesis, words: Sequence[str], tokenizer: LMTokenizer) -> list[Form]:
    """Of each word; one that the LM has not written has no tokens, and is sure.

    (A first pass may have words that the LM is shown in another form, or not at all.)
    """
    said = tokenizer.decode(h.token_ids).split()
    sure = [1.0] * len(said)
    owners = tokenizer.word_numbers(h.token_ids)
    for owner, probability in zip(owners, h.confidence, strict=True):
        if owner < len(said):
            sure[owner] *= probability
    own, forms = iter(zip(said, sure, strict=True)), []
    for word, other in align([to_case(w, tokenizer.text_case) for w in words], said):
        form = ("", 1.0) if other is None else next(own)
        if word is not None:
            forms.append(form)
    return forms


def _confidences(h: Hypothesis, forms: Sequence[Form]) -> list[float]:
    """Of each word: what is measured of it, or else the probability of its tokens."""
    if not h.words:
        return [probability for _, probability in forms]
    pairs = zip(h.words, forms, strict=True)
    return [p if w.confidence is None else w.confidence for w, (_, p) in pairs]


def _in_order(words: Sequence[Word]) -> tuple[Word, ...]:
    """A word of one hypothesis ends where the next, of another, begins."""
    made: list[Word] = []
    behind = math.inf
    for word in reversed(words):
        if word.start is not None:
            start, end = min(word.start, behind), min(word.end, behind)
            word, behind = replace(word, start=start, end=end), start
        made.append(word)
    return tuple(made[::-1])


def _with_tokens(
    h: Hypothesis, forms: Sequence[Form], tokenizer: LMTokenizer
) -> Hypothesis:
    """With tokens, their confidences and the score, by the words as the LM writes them.

    Tokens of the hypotheses themselves would not do: a first word's may lack the space
    before it.
    """
    ids = tokenizer.encode(" ".join(word for word, _ in forms))
    owners = [min(n, len(forms) - 1) for n in tokenizer.word_numbers(ids)]
    counts = Counter(owners)
    return replace(
        h,
        tokens=tuple(tokenizer.tokens(ids)),
        token_ids=tuple(ids),
        confidence=tuple(forms[n][1] ** (1 / counts[n]) for n in owners),
        score=math.fsum(math.log(max(p, 1e-30)) for _, p in forms),
    )
