"""Scores texts of a batch's audio; keys and values of shared prefixes are reused.

Imports ``extensions.ctc_alignment``, whose log-likelihood penalizes changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.whisper_scorer.network import WhisperScorer

Text = Sequence[int]

_ALIGNED = 0.3
"""Weight of the CTC penalties, added to the decoder's log-probabilities."""

_AT_ONCE = 2048
"""Tokens scored in one batch: 230 MB over a vocabulary of 28,000."""


@dataclass(frozen=True)
class Scored:
    """A scored text of an utterance.

    Attributes:
        row: index of the utterance in the batch.
        text: its token ids.
        log_probs: (T + 1, V), next-token log-probabilities, see
            ``WhisperScorer.forward``; fewer rows for a text that is too long.
        own: the log-probability of each scored token, and of the end.
        past: keys and values of the scored tokens, for texts with the same prefix.
    """

    row: int
    text: list[int]
    log_probs: Tensor
    own: list[float]
    past: Tensor

    @property
    def value(self) -> float:
        """The log-probability of the text and its end."""
        return math.fsum(self.own)


class Scorer:
    """A ``WhisperScorer`` with the audio of a batch.

    Args:
        network: the ``WhisperScorer``.
        frames: (U, F, d_model) of the encoder, for U utterances.
        words: (V, d_model), Whisper's embedding of each token.
        eos: id of the token that stands for the end.
        alignment: the CTC of the same batch, for ``objections``; or None.
    """

    def __init__(
        self,
        network: WhisperScorer,
        frames: Tensor,
        words: Tensor,
        eos: int,
        alignment: CTCAlignment | None = None,
    ):
        self.network, self.words, self.eos = network, words, eos
        self.alignment = alignment
        self.device = frames.device
        self.memory = network.projected(frames)
        self._last: dict[int, Scored] = {}

    def __call__(self, rows: Sequence[int], texts: Sequence[Text]) -> list[Scored]:
        """Score texts; the prefix shared with the utterance's last text is reused.

        Args:
            rows: the utterance of each text.
            texts: N rows of token ids.
        """
        new: dict[int, Text] = {}
        for row, text in zip(rows, texts, strict=True):
            if row not in self._last:
                new.setdefault(row, text)
        if new:
            self._last |= {s.row: s for s in self._whole(new)}
        found = self.again([self._last[row] for row in rows], texts)
        self._last |= {s.row: s for s in found}
        return found

    def _whole(self, texts: Mapping[int, Text]) -> list[Scored]:
        longest = self.network.longest
        rows = list(texts)
        found = self._along(rows, [text[:longest] for text in texts.values()])
        return [
            self._result(*given)
            for given in zip(rows, map(list, texts.values()), *found, strict=True)
        ]

    def behind(
        self,
        scored: Sequence[Scored],
        kept: Sequence[int],
        texts: Sequence[Text],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Next-token predictions along texts that continue others.

        Args:
            scored: N, the others.
            kept: how many of their tokens come before each text.
            texts: N rows of token ids.

        Returns:
            N tensors (T, V) of log-probabilities, shorter for too long texts; and the
            entries of ``Scored.past`` for these tokens.
        """
        longest, begin = self.network.longest, len(self.network.start)
        pairs = list(zip(kept, texts, strict=True))
        fitting = [list(text[: max(0, longest - size)]) for size, text in pairs]
        if not any(fitting):
            return [r.log_probs[:0] for r in scored], [r.past[:0] for r in scored]
        pasts = [r.past[: begin + n] for r, n in zip(scored, kept, strict=True)]
        return self._along([r.row for r in scored], fitting, pasts)

    def again(self, scored: Sequence[Scored], texts: Sequence[Text]) -> list[Scored]:
        """Score texts that share a prefix with others; only the rest is computed."""
        pairs = list(zip(scored, texts, strict=True))
        kept = _kept(scored, texts)
        more = [text[n:] for (_, text), n in zip(pairs, kept, strict=True)]
        found = self.behind(scored, kept, more)
        begin, whole = len(self.network.start), []
        for (known, text), n, *new in zip(pairs, kept, *found, strict=True):
            if list(text) == known.text:
                whole.append(known)
                continue
            log_probs = torch.cat([known.log_probs[: n + 1], new[0]])
            past = torch.cat([known.past[: begin + n], new[1]])
            whole.append(self._result(known.row, list(text), log_probs, past))
        return whole

    def values(
        self,
        scored: Sequence[Scored],
        kept: Sequence[int],
        following: Sequence[Text],
    ) -> list[float]:
        """The log-probability of tokens that continue texts.

        Args:
            scored: N, of the texts.
            kept: how many of their tokens come before what follows.
            following: N rows of token ids, at least one each; the last may be the end.
        """
        return list(map(math.fsum, self._following(scored, kept, following)))

    def likelihoods(self, texts: Sequence[tuple[int, Text]]) -> list[float]:
        """The log-probability of texts and their ends, each with its utterance.

        The prefix shared with the utterance's last scored text is reused; the results
        are not kept.
        """
        new = {row: text for row, text in reversed(texts) if row not in self._last}
        if new:
            self(list(new), list(new.values()))
        scored = [self._last[row] for row, _ in texts]
        kept = _kept(scored, [text for _, text in texts])
        following = [
            [*text[n:], self.eos] for (_, text), n in zip(texts, kept, strict=True)
        ]
        found = self._following(scored, kept, following)
        return [
            math.fsum([*known.own[:n], *own])
            for known, n, own in zip(scored, kept, found, strict=True)
        ]

    def objections(self, changes: Sequence[tuple[int, Text, Text]]) -> list[float]:
        """CTC penalties (<= 0 nats) for replacing texts by others.

        Only a decrease of the CTC log-likelihood counts: the CTC is worse than the
        scorer at telling similar words apart, and better at telling whether anything
        is spoken, so its weight is 1 where several tokens are deleted.

        Args:
            changes: N times the utterance, the old text and the new text.
        """
        if self.alignment is None:
            return [0.0] * len(changes)
        both = [(row, tuple(t)) for row, *texts in changes for t in texts]
        once = list(dict.fromkeys(both))
        known = dict(zip(once, self.alignment(once), strict=True))
        values = [known[key] for key in both]
        found = []
        for change, old, new in zip(changes, values[::2], values[1::2], strict=True):
            gone = len(change[1]) - len(change[2])
            found.append((1.0 if gone > 1 else _ALIGNED) * min(0.0, new - old))
        return found

    def _following(
        self, scored: Sequence[Scored], kept: Sequence[int], texts: Sequence[Text]
    ) -> list[list[float]]:
        """The log-probability of each token that continues texts; see ``values``.

        A few texts at a time, to limit the log-probabilities held over the vocabulary.
        """
        found: list[list[float]] = []
        for these in _groups([len(text) for text in texts]):
            group = scored[these], kept[these], texts[these]
            log_probs, _ = self.behind(*group[:2], [row[:-1] for row in group[2]])
            for known, n, row, behind in zip(*group, log_probs, strict=True):
                first = known.log_probs[n, row[0]].item()
                found.append([first, *log_probs_of(behind, row[1 : len(behind) + 1])])
        return found

    def _along(
        self,
        rows: Sequence[int],
        texts: Sequence[Text],
        pasts: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        here = torch.tensor(rows, dtype=torch.long, device=self.device)
        given = texts, self.words, self.eos, pasts
        return self.network.along(self.memory, here, *given)

    def _result(
        self, row: int, text: list[int], log_probs: Tensor, past: Tensor
    ) -> Scored:
        own = log_probs_of(log_probs, [*text[: len(log_probs) - 1], self.eos])
        return Scored(row, text, log_probs, own, past)


class NextToken:
    """Next-token scores of a scorer, for the search of an autoregressive LM.

    Args:
        scorer: of the batch.
        weight: weight of its log-probabilities.
    """

    def __init__(self, scorer: Scorer, weight: float):
        self.scorer, self.weight = scorer, weight
        self._known: dict[tuple[int, Text], Scored] = {}

    def __call__(self, rows: Sequence[int], texts: Sequence[Text]) -> Tensor:
        """(N, V): ``weight`` times the log-probability of each token behind texts.

        Args:
            rows: the utterance of each text.
            texts: N rows of token ids, each empty, or a text of the previous call with
                one more token.
        """
        keys = list(zip(rows, map(tuple, texts), strict=True))
        if not self._known:
            found = self.scorer(rows, texts)
        else:
            found = self._longer(
                [self._known[row, text[:-1]] for row, text in keys], texts
            )
        self._known = dict(zip(keys, found, strict=True))
        return self.weight * torch.stack([known.log_probs[-1] for known in found])

    def _longer(self, scored: Sequence[Scored], texts: Sequence[Text]) -> list[Scored]:
        """Extend by one token; only the last log-probabilities are kept."""
        kept = [len(text) - 1 for text in texts]
        new = self.scorer.behind(scored, kept, [text[-1:] for text in texts])
        found = []
        for known, text, log_probs, past in zip(scored, texts, *new, strict=True):
            # Beyond the longest text that is scored nothing new is computed.
            last = log_probs if len(log_probs) else known.log_probs
            past = torch.cat([known.past, past])
            found.append(replace(known, text=list(text), log_probs=last, past=past))
        return found


def transcribed(
    scorer: Scorer, rows: int, longest: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Transcribe with the scorer alone (greedy).

    Args:
        scorer: of a batch.
        rows: utterances of the batch.
        longest: maximum tokens of a text.

    Returns:
        Token ids without the end, and the log-probability of each.
    """
    return continued(scorer, [(row, ()) for row in range(rows)], longest)


def continued(
    scorer: Scorer, begun: Sequence[tuple[int, Text]], longest: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Continue texts with the scorer alone (greedy).

    Args:
        scorer: of a batch.
        begun: N times an utterance and the first token ids of a text.
        longest: maximum tokens of a text.

    Returns:
        N rows of token ids without the end, and the log-probability of each new one.
    """
    following, live = NextToken(scorer, 1.0), list(range(len(begun)))
    texts = [list(text) for _, text in begun]
    sure: list[list[float]] = [[] for _ in live]
    while live:
        given = [begun[n][0] for n in live], [texts[n] for n in live]
        values, tokens = following(*given).max(dim=1)
        going = []
        for n, token, value in zip(live, tokens.tolist(), values.tolist(), strict=True):
            if token == scorer.eos:
                continue
            texts[n].append(token)
            sure[n].append(value)
            if len(texts[n]) < longest:
                going.append(n)
        live = going
    return texts, sure


def log_probs_of(log_probs: Tensor, tokens: Text) -> list[float]:
    """The log-probabilities of T tokens in (T, V)."""
    ids = torch.tensor(tokens, dtype=torch.long, device=log_probs.device)
    return log_probs.gather(1, ids[:, None])[:, 0].tolist()


def _groups(sizes: Sequence[int]) -> Iterator[slice]:
    """Slices of neighbours with at most ``_AT_ONCE`` tokens, or single ones."""
    start = taken = 0
    for end, size in enumerate(sizes):
        if taken and taken + size > _AT_ONCE:
            yield slice(start, end)
            start, taken = end, 0
        taken += size
    if taken:
        yield slice(start, len(sizes))


def _kept(scored: Sequence[Scored], texts: Sequence[Text]) -> list[int]:
    """How many tokens of each text were scored already."""
    return [
        min(_alike(known.text, text), len(known.log_probs) - 1)
        for known, text in zip(scored, texts, strict=True)
    ]


def _alike(first: Text, second: Text) -> int:
    """Length of the common prefix of two texts."""
    pairs = zip(first, second, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second))
    )
