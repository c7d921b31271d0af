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
    ece = sum(n * abs(mean - share) for mean, share, n in bins(sure, true)) / len(sure)
    share, cut = true.mean(), np.clip(sure, FLOOR, 1 - FLOOR)
    own = -(np.log(cut[true]).sum() + np.log1p(-cut[~true]).sum())
    nce = float("nan")
    if 0 < share < 1:
        highest = -len(true) * (share * np.log(share) + (1 - share) * np.log(1 - share))
        nce = float((highest - own) / highest)
    return Reliability(len(true), int((~true).sum()), float(ece), nce)


def bins(
    confidences: Sequence[float], right: Sequence[bool]
) -> list[tuple[float, float, int]]:
    """Mean confidence, share of right ones and number of words of each bin."""
    sure, true = np.asarray(confidences, float), np.asarray(right, bool)
    index = np.minimum((sure * BINS).astype(int), BINS - 1)
    chosen = [index == number for number in np.unique(index)]
    return [
        (float(sure[c].mean()), float(true[c].mean()), int(c.sum())) for c in chosen
    ]


def right_ones(reference: Sequence[str], found: Sequence[str]) -> list[bool]:
    """Which words (or tokens) of a hypothesis its reference has, as sclite aligns."""
    pairs = align(reference, found)
    return [own == other for own, other in pairs if other is not None]


def fitted(
    features: Sequence[Sequence[float]],
    right: Sequence[bool],
    counts: Sequence[float] | None = None,
    penalty: float = _PENALTY,
    least: float | None = 0.0,
) -> list[float]:
    """Logistic regression: the bias, and a weight for each feature.

    Args:
        features: (N, F) of words, or of changes.
        right: (N,), whether they are right.
        counts: (N,), how often each counts; once by default.
        penalty: of squared weights, against the sum of the N losses (nats).
        least: of each weight: with 0 more of a feature never means less sure; None for
            weights of either sign.
    """
    from scipy.optimize import minimize

    table = np.c_[np.ones(len(features)), np.asarray(features, float)]
    signs = np.where(right, 1.0, -1.0)
    each = np.ones(len(table)) if counts is None else np.asarray(counts, float)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (table @ weights)
        value = (each * np.logaddexp(0, -margins)).sum()
        slope = table.T @ (-each * signs / (1 + np.exp(margins)))
        slope[1:] += 2 * penalty * weights[1:]
        return value + penalty * (weights[1:] ** 2).sum(), slope

    bounds = [(None, None)] + [(least, None)] * (table.shape[1] - 1)
    start = np.zeros(table.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x.tolist()
