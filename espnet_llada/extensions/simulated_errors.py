"""Simulated ASR errors for training a scorer alone: sampled from its own predictions.

At test time the scorer is conditioned on its own earlier predictions and their errors:
scheduled sampling (Bengio et al. 2015, arXiv 1506.03099).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.networks.rows import RowRandom


@dataclass(frozen=True)
class Errors:
    """Shares of a text's tokens: substitutions, deletions, insertions."""

    replaced: float = 0.0
    lost: float = 0.0
    extra: float = 0.0


KINDS = ((0.35, Errors()), (0.25, Errors(0.15)), (0.4, Errors(0.06, 0.03, 0.03)))
"""Shares of the training texts, and the errors put into them."""


def with_simulated_errors(
    texts: Sequence[Sequence[int]], log_probs: Tensor, eos: int, seeds: Sequence[int]
) -> list[list[int]]:
    """Texts with errors sampled from the scorer's predictions.

    Args:
        texts: B rows of token ids.
        log_probs: (B, T + 1, V), its next-token predictions along them.
        eos: id, never sampled.
        seeds: one for each row; a row's draws depend on nothing else.
    """
    random, found = RowRandom(seeds), []
    for row, text in enumerate(texts):
        kind, *draws = random.row(row, 1 + 3 * len(text))
        errors = _kind(kind)
        others = _drawn(log_probs[row, : len(text)], text, eos, draws[0::3])
        fates = zip(text, others, draws[1::3], draws[2::3], strict=True)
        found.append([t for fate in fates for t in _with_error(errors, *fate)])
    return found


def _kind(draw: float) -> Errors:
    for share, errors in KINDS[:-1]:
        if draw < share:
            return errors
        draw -= share
    return KINDS[-1][1]


def _with_error(
    errors: Errors, token: int, other: int, fate: float, side: float
) -> list[int]:
    if fate < errors.replaced:
        return [other]
    if fate < errors.replaced + errors.lost:
        return []
    if fate < errors.replaced + errors.lost + errors.extra:
        return [token, other] if side < 0.5 else [other, token]
    return [token]


def _drawn(
    log_probs: Tensor, text: Sequence[int], eos: int, draws: Sequence[float]
) -> list[int]:
    """For each token another one, drawn from the predictions (T, V)."""
    count = min(len(text), len(log_probs))  # what is behind the longest is not scored
    chances = log_probs[:count].exp()
    chances[:, eos] = 0.0
    chances[range(count), list(text[:count])] = 0.0
    levels = chances.cumsum(dim=1)
    aims = torch.tensor(draws[:count], device=levels.device) * levels[:, -1]
    drawn = torch.searchsorted(levels, aims[:, None], right=True)[:, 0]
    return [*drawn.clamp(max=levels.shape[1] - 1).tolist(), *text[count:]]
