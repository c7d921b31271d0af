"""Joint decoding: LM and scorer log-probabilities are added in each pass.

The scorer is autoregressive, so of the masked positions of a row it can score the first
only. If LM and scorer have the same best token there, it is committed. Otherwise the
candidates are the best token of either, the token of the first pass and no token; each
is scored by the scorer with the tokens behind the position, and the weighted sum of
both log-probabilities decides. All other positions are the LM's alone. With an
autoregressive LM the scorer's log-probabilities are added for each token.

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
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.extensions.requirements import need_scorer
from espnet_llada.extensions.whisper_scorer.scorer import NextToken, Scored, Scorer
from espnet_llada.io.schema import Weight
from espnet_llada.types import SpecialTokens

AHEAD = 2
"""Known tokens behind a position that its score includes; more change nothing."""


@dataclass(frozen=True)
class Options:
    """``joint``: joint decoding of LM and scorer."""

    weight: Annotated[Weight, Meta(description="of the scorer; the LM's is 1")] = 0.5


class Hook(DecodingHook):
    """Adds the scorer's log-probabilities in every pass, or for every token."""

    _joint: JointScorer | None = None
    _next: NextToken | None = None

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_scorer(self.decoder, "joint")

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
    """Scores the first masked position of each row; one object per sampler run.

    Args:
        scorer: of the batch.
        weight: weight of its log-probabilities; the LM's is 1.
        special: mask and EOS ids.
        before: (B, L) int64, the canvas before masking; its token at a position is
            one of the candidates.
        gaps: EOS is an empty position, not the end.
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
        """(R, 4) int64: best of LM, best of scorer, former token, none; may repeat."""
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
        """(R, K): scorer log-probability of each candidate and the tokens behind."""
        eos, following = self.special.eos, []
        for row, ahead in zip(tried.tolist(), behind, strict=True):
            if self.gaps:
                following += [[*([] if t == eos else [t]), *ahead] for t in row]
            else:
                following += [[t] if t == eos else [t, *ahead] for t in row]
        count = tried.shape[1]
        # Behind an empty position without known tokens: the most probable token.
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
        """Up to ``AHEAD`` known tokens behind a position, and EOS if reached."""
        found: list[int] = []
        for token in canvas:
            if token == self.special.mask or len(found) == AHEAD:
                return found
            if token != self.special.eos:
                found.append(token)
            elif not self.gaps:
                break
        return [*found, self.special.eos]
