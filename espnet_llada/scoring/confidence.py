"""How far confidences can be relied on, and their calibration on other speech.

Sources: expected calibration error (Naeini et al. 2015), in ten bins of equal width;
normalised cross entropy as NIST's sclite reports it (Siu et al. 1997); Platt scaling
(Platt 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espnet_llada.alignment import align

BINS = 10
FLOOR = 1e-4
"""Confidences are cut to [FLOOR, 1 - FLOOR] for the cross entropy: one wrong word with
a confidence of 1 would make it infinite."""

_PENALTY = 0.01  # of squared weights: keeps them finite where nothing is wrong


@dataclass(frozen=True)
class Reliability:
    """Of some words, or tokens.

    Attributes:
        count, wrong: how many there are, and how many of them are wrong.
        ece: expected calibration error: the mean distance between confidence and share
            of right ones, in [0, 1].
        nce: normalised cross entropy: 1 is perfect, 0 as good as the mean for all.
    """

    count: int
    wrong: int
    ece: float
    nce: float


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> Reliability:
    """Measure confidences (in [0, 1]) of words that are right or not."""
    sure, true = np.asarray(confidences, float), np.asarray(right, bool)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    ece = 0.0
    for number in np.unique(bins):
        own = bins == number
        ece += own.mean() * abs(sure[own].mean() - true[own].mean())
    share, cut = true.mean(), np.clip(sure, FLOOR, 1 - FLOOR)
    own = -(np.log(cut[true]).sum() + np.log1p(-cut[~true]).sum())
    nce = float("nan")
    if 0 < share < 1:
        highest = -len(true) * (share * np.log(share) + (1 - share) * np.log(1 - share))
        nce = float((highest - own) / highest)
    return Reliability(len(true), int((~true).sum()), float(ece), nce)


def right_ones(reference: Sequence[str], found: Sequence[str]) -> list[bool]:
    """Which words (or tokens) of a hypothesis its reference has, as sclite aligns."""
    pairs = align(reference, found)
    return [own == other for own, other in pairs if other is not None]


def fitted(features: Sequence[Sequence[float]], right: Sequence[bool]) -> list[float]:
    """Logistic regression: the bias, and a weight (>= 0) for each feature.

    Args:
        features: (N, F) of words; more of each shall never mean less sure.
        right: (N,), whether they are right.
    """
    from scipy.optimize import minimize

    table = np.c_[np.ones(len(features)), np.asarray(features, float)]
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (table @ weights)
        value = np.logaddexp(0, -margins).sum() + _PENALTY * (weights[1:] ** 2).sum()
        slope = table.T @ (-signs / (1 + np.exp(margins)))
        slope[1:] += 2 * _PENALTY * weights[1:]
        return value, slope

    bounds = [(None, None)] + [(0, None)] * (table.shape[1] - 1)
    start = np.zeros(table.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x.tolist()
