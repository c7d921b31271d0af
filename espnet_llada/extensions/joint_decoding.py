"""Masked diffusion and the adapter decide together what a canvas gets.

A reading goes from left to right: it says what comes behind a text that is complete. So
of the masked positions of a row there is one that it can speak to, the first. Where
both name the same token there, that is it. Else the likeliest by either of the two, the
one that stood there and none at all are each read with what stands behind the position;
the sum of both log-probabilities decides. The LM knows both sides of a position, the
reader hears all of the audio; the other positions are the LM's alone.

Source: joint decoding of attention and CTC (Watanabe et al. 2017), where two models
that look at the audio differently add their scores, carried over to a canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_llada.extensions.whisper_scorer.reader import Reader, Reading
from espnet_llada.types import SpecialTokens

AHEAD = 2
"""Known tokens behind a position by which it is judged; more change nothing."""


class Leading:
    """Decides the first masked position of each row; one for each run of the sampler.

    Args:
        reader: of the batch.
        weight: of its log-probabilities, beside the LM's.
        special: mask and EOS ids.
        before: (B, L) int64, the canvas before anything was masked: the token that
            stood at a position is among those that are tried.
        resizes: EOS is an empty position, and no end.
    """

    def __init__(
        self,
        reader: Reader,
        weight: float,
        special: SpecialTokens,
        before: Tensor,
        resizes: bool,
    ):
        self.reader, self.weight, self.special = reader, weight, special
        self.before, self.resizes = before, resizes

    def __call__(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``core.sampler.LogitsProcessor``."""
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
        readings = self.reader(rows, texts)
        heard = torch.stack([read.log_probs[-1] for read in readings])
        tried = self._candidates(own, heard, self.before[first])
        at_odds = (tried[:, 0] != tried[:, 1]).nonzero()[:, 0]
        if not len(at_odds):
            return log_probs, first
        asked = at_odds.tolist()
        behind = [self._behind(canvas[rows[n]][places[n] + 1 :]) for n in asked]
        own, heard, tried = own[at_odds], heard[at_odds], tried[at_odds]
        likely = self._likely([readings[n] for n in asked], heard, tried, behind)
        together = own.gather(1, tried) + self.weight * likely
        twice = (tried[:, :, None] == tried[:, None]).tril(diagonal=-1).any(dim=2)
        together = together.masked_fill(twice, -torch.inf).log_softmax(dim=1)
        joint = torch.full_like(own, -torch.inf)
        joint.scatter_reduce_(1, tried, together, "amax")
        return log_probs.index_copy(0, numbers[at_odds], joint), first

    def _candidates(self, own: Tensor, heard: Tensor, before: Tensor) -> Tensor:
        """(R, 4) int64, the LM's and the reader's first; some come twice."""
        lms, readers = own.argmax(dim=1), heard.argmax(dim=1)
        before = torch.where(before == self.special.mask, lms, before)
        nothing = torch.full_like(before, self.special.eos)
        return torch.stack([lms, readers, before, nothing], dim=1)

    def _likely(
        self,
        readings: list[Reading],
        heard: Tensor,
        tried: Tensor,
        behind: list[list[int]],
    ) -> Tensor:
        """(R, K): what reading along gives to each candidate and to what follows it."""
        eos, following = self.special.eos, []
        for row, ahead in zip(tried.tolist(), behind, strict=True):
            if self.resizes:
                following += [[*([] if t == eos else [t]), *ahead] for t in row]
            else:
                following += [[t] if t == eos else [t, *ahead] for t in row]
        count = tried.shape[1]
        # Where nothing is known to follow an empty position, something likely does.
        best = heard.argmax(dim=1).tolist()
        pairs = [
            (number // count, tuple(row or [best[number // count]]))
            for number, row in enumerate(following)
        ]
        once = list(dict.fromkeys(pairs))  # both often propose the same
        before = [readings[number] for number, _ in once]
        kept = [len(read.log_probs) - 1 for read in before]
        values = self.reader.values(before, kept, [row for _, row in once])
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
            elif not self.resizes:
                break
        return [*found, self.special.eos]
