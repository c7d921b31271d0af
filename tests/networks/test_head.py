"""The head's loss, a few rows at a time, against torch's cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from espnet_llada.networks import frozen
from espnet_llada.networks.head import head_nll

ROWS, WIDTH, VOCABULARY = 37, 8, 50


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setitem(frozen.ELEMENTS, "cpu", 10 * VOCABULARY)  # several steps
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    head = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden.requires_grad_(), head, targets


def test_loss_and_gradient_are_those_of_cross_entropy(case):
    hidden, head, targets = case
    upstream = torch.rand(ROWS) - 0.5
    nll, behind = head_nll(hidden.float(), head.float(), targets)
    (got,) = torch.autograd.grad((nll * upstream).sum(), hidden)
    logits = hidden @ head.T
    expected = F.cross_entropy(logits, targets, reduction="none")
    (wanted,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    torch.testing.assert_close(nll.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    top = logits.amax(dim=1)
    expected = (top - logits.gather(1, targets[:, None])[:, 0]).detach()
    torch.testing.assert_close(behind.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(behind == 0, logits.argmax(dim=1) == targets)


def test_bfloat16_is_near(case):
    hidden, head, targets = case
    nll, _ = head_nll(hidden.bfloat16(), head.float(), targets)
    expected = F.cross_entropy(hidden @ head.T, targets, reduction="none")
    assert (nll - expected).abs().max() < 0.1


def test_no_row_is_a_zero_gradient(case):
    hidden, head, targets = case
    nll, _ = head_nll(hidden[:0], head, targets[:0])
    (gradient,) = torch.autograd.grad(nll.sum(), hidden)
    assert nll.shape == (0,)
    assert torch.equal(gradient, torch.zeros_like(hidden))


def test_without_gradients_nothing_is_kept(case):
    hidden, head, targets = case
    with torch.no_grad():
        nll, _ = head_nll(hidden, head, targets)
    assert not nll.requires_grad
