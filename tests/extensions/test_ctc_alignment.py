"""The CTC's log-likelihood of texts, against a sum over all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from espnet_llada.extensions import ctc_alignment as module
from espnet_llada.extensions.ctc import AlignmentCTC, Options
from espnet_llada.extensions.ctc_alignment import CTCAlignment

TOKENS, WIDTH, VECTORS = 5, 6, 4


@pytest.fixture
def made() -> tuple[CTCAlignment, torch.Tensor]:
    """Of two utterances, and the log-probabilities of all tokens, blank first."""
    torch.manual_seed(0)
    table = torch.randn(TOKENS, 8)
    ctc = AlignmentCTC(table, WIDTH, Options(scale=0.7))
    audio = torch.randn(2, VECTORS, WIDTH)
    layer = audio, torch.randn(2, VECTORS, 8), table
    with torch.no_grad():
        windows = ctc.windows(*layer, torch.tensor([VECTORS, 3]))
        return CTCAlignment(ctc, *layer, windows), ctc.log_probs(*layer)


def summed(log_probs: torch.Tensor, text: list[int]) -> float:
    total = 0.0
    for path in itertools.product(range(TOKENS + 1), repeat=len(log_probs)):
        said = [key for key, _ in itertools.groupby(path)]
        if [t - 1 for t in said if t] == text:
            total += math.exp(sum(log_probs[i, t].item() for i, t in enumerate(path)))
    return math.log(total)


@torch.no_grad()
def test_it_is_that_of_all_paths(made):
    align, log_probs = made
    texts = [(0, [1, 2]), (1, [3]), (0, [4, 4]), (1, []), (0, [1, 2, 1])]
    sizes = [VECTORS, 3]
    expected = [summed(log_probs[row, : sizes[row]], text) for row, text in texts]
    assert align(texts) == pytest.approx(expected, abs=1e-4)
    assert align(texts[::-1]) == pytest.approx(expected[::-1], abs=1e-4)
    assert align([]) == []


@torch.no_grad()
def test_it_depends_on_its_utterance_alone(made, monkeypatch):
    align, _ = made
    texts = [(1, [3]), (1, [0, 2])]
    together = align(texts)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    assert align(texts) == pytest.approx(together)
    alone = align.rows(torch.tensor([1]))
    assert alone([(0, text) for _, text in texts]) == pytest.approx(together)


@torch.no_grad()
def test_a_text_that_does_not_fit_is_as_good_as_impossible(made):
    align, _ = made
    (value,) = align([(1, [1, 1, 1])])
    assert value == -1e4
