"""Beam search with the causal LM (Whisper-LLaMA, the baseline); beam 1 is greedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.model import LMDecoder, last_valid
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.networks.cache import KVCache

NextToken = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor | None]
"""Rows of the batch and a text of each, N of them -> (N, V), what to add to the
log-probabilities of the next token; None for nothing."""


@dataclass(frozen=True)
class BeamResult(SamplerResult):
    """The best hypothesis of each row, and the others that have ended.

    Attributes:
        others: for each row tokens and log-probabilities of its other hypotheses, best
            first; at most ``beam_size`` or a few more.
    """

    others: Sequence[Sequence[tuple[tuple[int, ...], tuple[float, ...]]]] = ()


@torch.no_grad()
def beam_search(
    decoder: LMDecoder,
    prefix: Prefix,
    max_tokens: int,
    beam_size: int = 1,
    next_token: NextToken | None = None,
) -> BeamResult:
    """Continue each row with its most probable tokens until EOS, with a KV cache.

    Each step keeps the ``beam_size`` most probable continuations of a row's live
    hypotheses; those that end in EOS then leave the beam. The score of a hypothesis is
    the sum of its log-probabilities divided by the number of its tokens, EOS included;
    the highest among the ended ones and those cut off at ``max_tokens`` wins. Ties go
    to the hypothesis that ended first, then to the one of the better ranked parent,
    then to the lower token id.

    A row is over when nothing live can score higher than the best ended hypothesis,
    as log-probabilities only lower a sum and ``max_tokens`` bounds its length. Once
    ``beam_size`` hypotheses have ended, it is over when nothing live scores higher as
    it stands: a mean can rise with length, and an LM that repeats itself would go on to
    ``max_tokens`` and win. Counting alone would cut a sure hypothesis off when
    unlikely early ends have filled the count.

    Args:
        decoder: one with causal attention.
        prefix: prompt and audio of B rows; each is searched as if it were alone.
        max_tokens: longest response, EOS included.
        next_token: a second judge of what comes next. The search then goes by the sum
            of both; the result has the LM's own log-probabilities.
        beam_size: hypotheses that a row keeps; 1 is greedy decoding.

    Returns:
        The result as the sampler's: (B, <= max_tokens) tokens, EOS behind a row's
        end. A row has cost one LLM pass for each step in which it was live, however
        many hypotheses that pass carried; in greedy decoding that is one for each
        of its tokens, EOS included.
    """
    prefix = prefix.rows(range(len(prefix)))
    lm, eos = _CachedLM(decoder, prefix, next_token), decoder.special.eos
    rows = [_Row() for _ in range(len(prefix))]
    while True:
        continuations = enumerate(lm.most_probable(beam_size))
        for row in rows:
            row.advance(continuations, beam_size, max_tokens, eos)
        live = [hypothesis for row in rows for hypothesis in row.live]
        if not live:
            break
        lm.extend([h.parent for h in live], [h.tokens[-1] for h in live])
    best, device = [row.best for row in rows], prefix.valid.device
    tokens = [torch.tensor(h.tokens) for h in best]
    log_probs = [torch.tensor(h.log_probs) for h in best]
    return BeamResult(
        pad_sequence(tokens, batch_first=True, padding_value=eos).to(device),
        pad_sequence(log_probs, batch_first=True).to(device),
        torch.tensor([row.passes for row in rows], device=device),
        [[(h.tokens, h.log_probs) for h in row.others] for row in rows],
    )


class _Next(NamedTuple):
    """A token, what it adds to a hypothesis's total, and the LM's log-probability."""

    token: int
    value: float
    log_prob: float


@dataclass(frozen=True)
class _Hypothesis:
    """Tokens with their log-probabilities; ``parent`` is the LM row they continue."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0
    parent: int = 0

    def then(self, following: _Next, parent: int) -> _Hypothesis:
        return _Hypothesis(
            (*self.tokens, following.token),
            (*self.log_probs, following.log_prob),
            self.total + following.value,
            parent,
        )

    @property
    def score(self) -> float:
        return self.total / len(self.tokens)


@dataclass
class _Row:
    """The search of one row: live hypotheses, best first, and the best one ended."""

    live: list[_Hypothesis] = field(default_factory=lambda: [_Hypothesis()])
    best: _Hypothesis | None = None
    ended: int = 0
    passes: int = 0
    every: list[_Hypothesis] = field(default_factory=list)

    @property
    def others(self) -> list[_Hypothesis]:
        """Ended hypotheses but the best, best first."""
        rest = [h for h in self.every if h is not self.best]
        return sorted(rest, key=lambda h: h.score, reverse=True)

    def advance(
        self,
        continuations: Iterator[tuple[int, list[_Next]]],
        beam_size: int,
        max_tokens: int,
        eos: int,
    ) -> None:
        """Take one LM row's (number, continuations) for each live hypothesis."""
        if not self.live:
            return
        self.passes += 1
        grown = []
        for hypothesis in self.live:
            parent, following = next(continuations)
            grown += [hypothesis.then(one, parent) for one in following]
        grown.sort(key=lambda h: h.total, reverse=True)  # stable: ties keep their order
        kept = grown[:beam_size]
        length = len(kept[0].tokens)
        cut = length == max_tokens
        ended = [h for h in kept if cut or h.tokens[-1] == eos]
        self.ended += len(ended)
        self.every += ended
        known = [] if self.best is None else [self.best]
        self.best = max(known + ended, key=lambda h: h.score, default=None)
        self.live = [] if cut else [h for h in kept if h.tokens[-1] != eos]
        reach = length if self.ended >= beam_size else max_tokens
        if self.live and self.best and self.live[0].total / reach <= self.best.score:
            self.live = []


class _CachedLM:
    """The LM over a batch of hypotheses, whose keys and values it keeps."""

    def __init__(
        self, decoder: LMDecoder, prefix: Prefix, next_token: NextToken | None
    ):
        self._lm, self._cache, self._valid = decoder.lm, KVCache(), prefix.valid
        given = prefix.embeds, prefix.valid, self._cache, prefix.positions
        hidden = decoder.lm(*given)
        self._next, self._length = prefix.start, 0
        self._head = prefix.head.given(hidden)
        self._last = last_valid(hidden, prefix.valid)[:, None]
        self._second, self._rows = next_token, list(range(len(prefix)))
        self._texts: list[list[int]] = [[] for _ in self._rows]

    def most_probable(self, count: int) -> list[list[_Next]]:
        """For each row at most ``count`` continuations, best first.

        Of equally probable tokens, which bfloat16 makes common, the lowest id comes
        first; ``torch.topk`` leaves that open.
        """
        every = torch.ones_like(self._last[..., 0], dtype=torch.bool)
        logits = self._head.logits(self._last, every, self._length)
        log_probs = logits.float().log_softmax(dim=-1)
        values = log_probs.clone()
        second = self._second and self._second(self._rows, self._texts)
        if second is not None:
            values += second
        found = []
        for _ in range(min(count, values.shape[-1])):
            found.append(values.max(dim=-1))
            values.scatter_(-1, found[-1].indices[:, None], -math.inf)
        tokens = torch.stack([f.indices for f in found], dim=1)
        best = torch.stack([f.values for f in found], dim=1).tolist()
        rows = tokens.tolist(), best, log_probs.gather(-1, tokens).tolist()
        return [list(map(_Next, *row)) for row in zip(*rows, strict=True)]

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Make the batch row ``parents[i]``, followed by ``tokens[i]``, for each i."""
        device = self._valid.device
        self._rows = [self._rows[parent] for parent in parents]
        pairs = zip(parents, tokens, strict=True)
        self._texts = [[*self._texts[parent], token] for parent, token in pairs]
        if list(parents) != list(range(len(self._valid))):  # greedy seldom copies
            rows = torch.tensor(parents, device=device)
            self._cache.reorder_cache(rows)
            self._valid, self._next = self._valid[rows], self._next[rows]
            self._head = self._head.rows(rows)
        ones = torch.ones_like(self._valid[:, :1])
        self._valid = torch.cat([self._valid, ones], dim=1)
        embeds = self._lm.embed(torch.tensor(tokens, device=device)[:, None])
        place = self._next[:, None]
        self._last = self._lm(embeds, self._valid, self._cache, place)
        self._next, self._length = self._next + 1, self._length + 1
