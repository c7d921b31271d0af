"""The probability that a change of a text mends it, from several scores.

A scorer alone is too sure of common words: it takes *cavil* for *cavalry* in a correct
text as readily as it mends a wrong word. Its *internal language model*, measured by
the same network without audio, says how much of a gain is due to the text alone. A
logistic regression, fitted on development speech by the recipe's
``local/fit_rescoring.py``, weighs both with the CTC's alignment.

Imports ``extensions.whisper_scorer``.

Source: the internal LM of an attention decoder, by zeroing what it attends to (Meng et
al. 2021, arXiv 2011.01991); logistic regression as calibration is Platt's (1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta

from espnet_llada.extensions.whisper_scorer.scorer import Scorer
from espnet_llada.io.schema import Share

FEATURES = ("scorer", "internal_lm", "ctc_loss", "ctc_gain")

_MOST = 15.0
"""Nats that a score counts at most: beyond it nothing is learned from rare cases."""

Change = tuple[int, Sequence[int], Sequence[int]]
"""The utterance (its row in the batch), the old text and the new one, token ids."""


@dataclass(frozen=True)
class Evidence:
    """A logistic regression over ``FEATURES``, each a difference in nats, new - old.

    ``ctc_loss`` and ``ctc_gain`` are the negative and the positive part of the CTC's.
    """

    min_probability: Annotated[
        Share,
        Meta(description="that a change mends; 0: by margin"),
    ] = 0.0
    bias: Annotated[float, Meta(description="of that probability's logit")] = 0.0
    scorer: Annotated[float, Meta(description="weight of the scorer")] = 1.0
    internal_lm: Annotated[
        float, Meta(description="weight of the scorer without audio")
    ] = 0.0
    ctc_loss: Annotated[float, Meta(description="weight of what the CTC loses")] = 0.0
    ctc_gain: Annotated[float, Meta(description="weight of what the CTC gains")] = 0.0

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """(N,) from (N, 4) of ``features_of``: that a change mends the text."""
        weights = [getattr(self, name) for name in FEATURES]
        return (features @ features.new_tensor(weights) + self.bias).sigmoid()


def features_of(scorer: Scorer, changes: Sequence[Change]) -> torch.Tensor:
    """(N, 4) float32, ``FEATURES`` of each change."""
    silent = Scorer(
        scorer.network,
        # One vector of zeros: attention over many of them gives the same.
        scorer.words.new_zeros(len(scorer.memory[0]), 1, scorer.words.shape[1]),
        scorer.words,
        scorer.eos,
    )
    audible, internal = (_gains(s.likelihoods, changes) for s in (scorer, silent))
    if scorer.alignment is None:
        aligned = [0.0] * len(changes)
    else:
        aligned = _gains(scorer.alignment, changes)
    ctc = torch.tensor(aligned)
    columns = torch.tensor(audible), torch.tensor(internal), ctc.clamp(max=0), ctc
    return torch.stack([*columns[:3], ctc.clamp(min=0)], dim=1).clamp(-_MOST, _MOST)


def _gains(score, changes: Sequence[Change]) -> list[float]:
    """What each change gains by ``score``; each text is scored once."""
    both = [(row, tuple(text)) for row, *pair in changes for text in pair]
    once = list(dict.fromkeys(both))
    known = dict(zip(once, score(once), strict=True))
    values = [known[key] for key in both]
    return [b - a for a, b in zip(values[::2], values[1::2], strict=True)]
