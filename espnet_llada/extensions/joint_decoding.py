"""Joint decoding: LM and scorer decide together what a canvas gets.

The scorer goes from left to right: it says what comes behind a text that is complete.
So of the masked positions of a row there is one that it can speak to, the first. Where
both name the same token there, that is it. Else the likeliest by either of the two, the
one that stood there and none at all are each scored with what stands behind the
position; the sum of both log-probabilities decides. The LM knows both sides of a
position, the scorer attends to all of the audio; the other positions are the LM's
alone. An autoregressive LM has the scorer's log-probabilities added for each token.

Imports ``extensions.whisper_scorer``.

Source: joint decoding of attention and CTC (Watanabe et al. 2017), where two models
that look at the audio differently add their scores, carried over to a canvas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.extensions.requirements import need_scorer
from espnet_llada.extensions.whisper_scorer.scorer import NextToken, Scored, Scorer
from espnet_llada.io.schema import Weight
from espnet_llada.types import SpecialTokens

AHEAD = 2
"""Known tokens behind a position by which it is judged; more change nothing."""


@dataclass(frozen=True)
class Options:
    """``joint``: LM and scorer decide together."""

    weight: Annotated[Weight, Meta(description="of the scorer; the LM's is 1")] = 0.5


class Hook(DecodingHook):
    """Adds the scorer's say to every pass, or to every token of a search."""

    _joint: JointScorer | None = None
    _next: NextToken | None = None

    @classmethod
    def check(
        cls,
        options: Options,
        decoder: LMDecoder,
        sampler: SamplerOptions,
        others: Mapping[str, Any],
    ) -> None:
        """See ``DecodingHook``."""
        need_scorer(decoder, "joint")

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        weight, special = self.options.weight, self.decoder.special
        if weight:
            given = special, canvas.tokens, canvas.gaps
            self._joint = JointScorer(prefix.scorer, weight, *given)
            self._next = NextToken(prefix.scorer, weight)
        return prefix, canvas

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See ``DecodingHook``."""
        if self._joint is None:
            return log_probs, None
        return self._joint(tokens, masked, log_probs)

    def next_token(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor | None:
        """See ``DecodingHook``."""
        return None if self._next is None else self._next(rows, texts)


class JointScorer:
    """Decides the first masked position of each row; one for each run of the sampler.

    Args:
        scorer: of the batch.
        weight: of its log-probabilities; the LM's have 1.
        special: mask and EOS ids.
        before: (B, L) int64, the canvas before anything was masked: the token that
            stood at a position is among those that are tried.
        gaps: EOS is an empty position, and no end.
    """

    def __init__(
        self,
        scorer: Scorer,
        weight: float,
        special: SpecialTokens,
        before: Tensor,
        gaps: bool,
    ):
        self.scorer, self.weight, self.special = scorer, weight, special
        self.before, self.gaps = before, gaps

    def __call__(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``core.sampler.Process``."""
        first = masked & (masked.cumsum(dim=1) == 1)
        rows, places = (found.tolist() for found in first.nonzero(as_tuple=True))
        if not rows:
            return log_probs, first
        numbers = (masked.flatten().cumsum(dim=0) - 1)[first.flatten()]
        own, canvas = log_probs[numbers], tokens.tolist()
        texts = [
            self._words(canvas[row][:end])
            for row, end in zip(rows, places, strict=True)
        ]
        scored = self.scorer(rows, texts)
        other = torch.stack([s.log_probs[-1] for s in scored])
        tried = self._candidates(own, other, self.before[first])
        at_odds = (tried[:, 0] != tried[:, 1]).nonzero()[:, 0]
        if not len(at_odds):
            return log_probs, first
        asked = at_odds.tolist()
        behind = [self._behind(canvas[rows[n]][places[n] + 1 :]) for n in asked]
        own, other, tried = own[at_odds], other[at_odds], tried[at_odds]
        likely = self._likely([scored[n] for n in asked], other, tried, behind)
        together = own.gather(1, tried) + self.weight * likely
        twice = (tried[:, :, None] == tried[:, None]).tril(diagonal=-1).any(dim=2)
        together = together.masked_fill(twice, -torch.inf).log_softmax(dim=1)
        joint = torch.full_like(own, -torch.inf)
        joint.scatter_reduce_(1, tried, together, "amax")
        return log_probs.index_copy(0, numbers[at_odds], joint), first

    def _candidates(self, own: Tensor, other: Tensor, before: Tensor) -> Tensor:
        """(R, 4) int64, the LM's and the scorer's first; some come twice."""
        lms, scorers = own.argmax(dim=1), other.argmax(dim=1)
        before = torch.where(before == self.special.mask, lms, before)
        nothing = torch.full_like(before, self.special.eos)
        return torch.stack([lms, scorers, before, nothing], dim=1)

    def _likely(
        self,
        scored: list[Scored],
        other: Tensor,
        tried: Tensor,
        behind: list[list[int]],
    ) -> Tensor:
        """(R, K): what the scorer gives to each candidate and to what follows it."""
        eos, following = self.special.eos, []
        for row, ahead in zip(tried.tolist(), behind, strict=True):
            if self.gaps:
                following += [[*([] if t == eos else [t]), *ahead] for t in row]
            else:
                following += [[t] if t == eos else [t, *ahead] for t in row]
        count = tried.shape[1]
        # Where nothing is known to follow an empty position, something likely does.
        best = other.argmax(dim=1).tolist()
        pairs = [
            (number // count, tuple(row or [best[number // count]]))
            for number, row in enumerate(following)
        ]
        once = list(dict.fromkeys(pairs))  # both often propose the same
        before = [scored[number] for number, _ in once]
        kept = [len(s.log_probs) - 1 for s in before]
        values = self.scorer.values(before, kept, [row for _, row in once])
        known = dict(zip(once, values, strict=True))
        likely = [known[pair] for pair in pairs]
        return torch.tensor(likely, device=tried.device).reshape(tried.shape)

    def _words(self, canvas: list[int]) -> list[int]:
        nothing = self.special.mask, self.special.eos
        return [token for token in canvas if token not in nothing]

    def _behind(self, canvas: list[int]) -> list[int]:
        """The known tokens next to a position, and the end if it is near."""
        found: list[int] = []
        for token in canvas:
            if token == self.special.mask or len(found) == AHEAD:
                return found
            if token != self.special.eos:
                found.append(token)
            elif not self.gaps:
                break
        return [*found, self.special.eos]
