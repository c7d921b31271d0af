"""Rescoring: a change is kept only if the scorer finds the text more likely.

*Accept if better*: a change to a first pass or a draft is undone unless it makes the
text more likely. *Combination*: the scorer also transcribes the utterance by itself;
where the two differ, its words are taken if they are more likely by twice the margin.
The CTC's alignment may veto either. No LM pass is needed.

With ``min_probability`` it is not the margin that decides, but the probability that a
change mends the text (``change_evidence``).

Imports ``extensions.change_evidence``, ``extensions.whisper_scorer`` and
``extensions.posterior_prefix.alignment``.

Source: rescoring by an attention decoder (Sainath et al. 2019, arXiv 1908.10992), here
change by change; combination is ROVER's (Fiscus 1997) with a scorer for the vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.canvas import Canvas, transcript_canvas, word_places
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.extensions.change_evidence import Change, Evidence, features_of
from espnet_llada.extensions.posterior_prefix.alignment import corrections
from espnet_llada.extensions.requirements import need_scorer
from espnet_llada.extensions.whisper_scorer.scorer import transcribed
from espnet_llada.types import SpecialTokens

MARGIN, OWN_MARGIN = 1.0, 2.0
"""Nats that a change has to gain: most changes that gain less make the text worse.
Twice as many where the scorer rates its own text. Chosen on the mini models' synthetic
speech."""


@dataclass(frozen=True)
class Options(Evidence):
    """``rescoring`` by the scorer."""

    accept_if_better: Annotated[
        bool, Meta(description="undo changes that gain no likelihood")
    ] = True
    combination: Annotated[
        bool, Meta(description="take the scorer's own words if likelier")
    ] = False


class Hook(DecodingHook):
    """Rescores the result."""

    _prefix: Any = None

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_scorer(self.decoder, "rescoring")

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        self._prefix = prefix
        return prefix, canvas

    def accept(self, canvas: Canvas, result: SamplerResult) -> SamplerResult:
        """See ``DecodingHook``."""
        if self.options.accept_if_better and self._has_text(canvas):
            given = torch.zeros_like(result.log_probs)
            none = torch.zeros_like(result.passes)
            before = SamplerResult(canvas.tokens, given, none)
            result = self._accepted(before, result, MARGIN)
        return self._combined(result) if self.options.combination else result

    def _has_text(self, canvas: Canvas) -> bool:
        masked = canvas.tokens == self.decoder.special.mask
        return self.decoder.diffuses and not bool((masked & canvas.valid).any())

    @property
    def scorer(self):
        """The scorer of this batch."""
        return self._prefix.scorer

    def _combined(self, result: SamplerResult) -> SamplerResult:
        """Combine the result with the scorer's own transcript."""
        special, device = self.decoder.special, result.tokens.device
        places, longest = partial(_places, special=special), self.sampler.canvas_length
        texts, sure = transcribed(self.scorer, len(result.tokens), longest)
        there = places(result.tokens)
        given = _chosen(result.tokens, there)
        for row, text in enumerate(texts):
            if len(text) == longest:  # truncated, so it is not used
                texts[row], sure[row] = given[row], [0.0] * len(given[row])
        canvas = transcript_canvas(texts, special, 0, device, sure)
        none = torch.zeros_like(result.passes)
        own = SamplerResult(canvas.tokens, canvas.confidence, none)
        pair = result, there, own, places(own.tokens)
        old, new = _aligned(*pair, special.eos)
        agreed = old.tokens == new.tokens  # and as sure as before
        new = replace(new, log_probs=new.log_probs.masked_fill(agreed, 0.0))
        return self._accepted(old, new, OWN_MARGIN)

    def _accepted(
        self, old: SamplerResult, new: SamplerResult, margin: float
    ) -> SamplerResult:
        """The old text with the changes that make it more likely, judged one by one.

        Args:
            old: (B, L) tokens, EOS where the new text has a token more.
            new: (B, L), likewise; its passes are added.
            margin: nats, see ``MARGIN``.
        """
        changed = old.tokens != new.tokens
        undone = self._unlikely(old.tokens, new.tokens, changed, margin)
        # Tokens that did not change keep their log-probability.
        kept = undone | ~changed & (new.log_probs == 0.0)
        return SamplerResult(
            torch.where(undone, old.tokens, new.tokens),
            torch.where(kept, old.log_probs, new.log_probs),
            old.passes + new.passes,
        )

    def _unlikely(
        self, old: Tensor, new: Tensor, changed: Tensor, margin: float
    ) -> Tensor:
        """(B, L) bool: changes that do not make their text more likely."""
        places = partial(_places, special=self.decoder.special)
        begins = changed & ~F.pad(changed, (1, 0))[:, :-1]
        # Adjacent positions are one change; 0: no change.
        numbers = begins.cumsum(dim=1).masked_fill(~changed, 0)
        counts = numbers.amax(dim=1).tolist() if numbers.shape[1] else []
        tries = [(r, k) for r, count in enumerate(counts) for k in range(1, count + 1)]
        if not tries:
            return torch.zeros_like(changed)
        rows, tried = torch.tensor(tries, device=old.device).T
        one = changed[rows] & (numbers[rows] == tried[:, None])
        tokens = torch.where(one, new[rows], old[rows])
        texts, given = _chosen(tokens, places(tokens)), _chosen(old, places(old))
        changes = [
            (row, given[row], text)
            for row, text in zip(rows.tolist(), texts, strict=True)
        ]
        worse = one & ~self._mends(changes, margin)[:, None]
        return torch.zeros_like(changed).long().index_add(0, rows, worse.long()) > 0

    def _mends(self, changes: Sequence[Change], margin: float) -> Tensor:
        """(N,) bool: changes to keep."""
        if self.options.min_probability:
            found = self.options.probabilities(features_of(self.scorer, changes))
            kept = found >= self.options.min_probability
        else:
            before = [(row, old) for row, old, _ in changes]
            after = [(row, new) for row, _, new in changes]
            likely = torch.tensor(self.scorer.likelihoods(before + after)).view(2, -1)
            objections = torch.tensor(self.scorer.objections(changes))
            kept = likely[1] + objections >= likely[0] + margin
        return kept.to(self._prefix.scorer.device)


def _places(tokens: Tensor, special: SpecialTokens) -> list[list[int]]:
    return [word_places(row, special) for row in tokens.tolist()]


def _chosen(tokens: Tensor, places: list[list[int]]) -> list[list[int]]:
    rows = zip(tokens.tolist(), places, strict=True)
    return [[row[i] for i in there] for row, there in rows]


def _aligned(
    old: SamplerResult,
    old_places: list[list[int]],
    new: SamplerResult,
    new_places: list[list[int]],
    eos: int,
) -> tuple[SamplerResult, SamplerResult]:
    """Align two texts of each row; EOS where one has no token."""
    texts = _chosen(old.tokens, old_places), _chosen(new.tokens, new_places)
    rows = [corrections(*pair, eos) for pair in zip(*texts, strict=True)]
    sides = [[before for _, before in row] for row in rows]
    others = [[after for after, _ in row] for row in rows]
    return _spread(old, old_places, sides, eos), _spread(new, new_places, others, eos)


def _spread(
    result: SamplerResult, places: list[list[int]], rows: list[list[int]], eos: int
) -> SamplerResult:
    """The same texts on a longer canvas: rows of their tokens and EOS."""
    sure = []
    for row, there, log_probs in zip(rows, places, result.log_probs, strict=True):
        values = iter(log_probs[there].tolist())
        sure.append([0.0 if token == eos else next(values) for token in row])
    tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
    log_probs = [torch.tensor(row) for row in sure]
    device = result.tokens.device
    return SamplerResult(
        pad_sequence(tokens, batch_first=True, padding_value=eos).to(device),
        pad_sequence(log_probs, batch_first=True).to(device),
        result.passes,
    )
