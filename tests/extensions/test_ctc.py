"""The auxiliary CTC loss of the adapter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from espnet_llada.extensions.ctc import AlignmentCTC, Windows, best_path
from espnet_llada.networks import frozen

WIDTH, TOKENS = 16, 7


def certain(path: list[int]) -> torch.Tensor:
    """(1, A, 1 + TOKENS): -1 is the blank."""
    logits = torch.zeros(1, len(path), 1 + TOKENS)
    for place, token in enumerate(path):
        logits[0, place, token + 1] = 30.0
    return logits.log_softmax(dim=-1)


@pytest.fixture
def ctc() -> AlignmentCTC:
    torch.manual_seed(0)
    return AlignmentCTC(torch.randn(TOKENS, 8), WIDTH)


def loss_of(ctc: AlignmentCTC, text: list[list[int]], lengths: list[int]):
    """Ours, and torch's CTC over all tokens."""
    torch.manual_seed(1)
    embedding = torch.randn(TOKENS, 8)
    audio = torch.randn(len(text), max(lengths), WIDTH)
    projected = torch.randn(len(text), max(lengths), 8, requires_grad=True)
    sizes = torch.tensor([len(row) for row in text])
    rows = [row + [-1] * (int(sizes.max()) - len(row)) for row in text]
    given = torch.tensor(lengths), torch.tensor(rows), sizes
    ours = ctc(audio, projected, embedding, *given)
    log_probs = ctc.log_probs(audio, projected, embedding).transpose(0, 1)
    targets = torch.tensor(rows).clamp(min=0) + 1
    theirs = F.ctc_loss(log_probs, targets, given[0], sizes, reduction="none")
    return ours, theirs / sizes.clamp(min=1), projected


def test_loss_and_gradient_are_those_of_a_ctc_over_all_tokens(ctc):
    ours, theirs, projected = loss_of(ctc, [[4, 4, 2], [1], []], [9, 4, 6])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    inputs = [projected, ctc.scale, ctc.blank.weight]
    got = torch.autograd.grad((ours * weights).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((theirs * weights).sum(), inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_more_tokens_than_vectors_is_zero_and_no_nan(ctc):
    ours, _, projected = loss_of(ctc, [[1, 2, 3]], [2])
    assert float(ours.detach()) == 0
    (gradient,) = torch.autograd.grad(ours.sum(), projected)
    assert torch.equal(gradient, torch.zeros_like(projected))


def windows_of(log_probs: torch.Tensor, *lengths: int) -> Windows:
    top = log_probs.max(dim=-1)
    speaking = torch.zeros_like(top.indices, dtype=torch.bool)
    none = log_probs[speaking]
    each = top.indices, top.values, log_probs[..., 0], speaking
    return Windows(*each, none, torch.tensor(lengths))


@torch.no_grad()
def test_few_windows_at_a_time_say_what_all_of_them_say(ctc, monkeypatch):
    monkeypatch.setitem(frozen.ELEMENTS, "cpu", 4 * TOKENS)
    embedding, lengths = torch.randn(TOKENS, 8), torch.tensor([9, 0, 5, 7])
    audio, projected = torch.randn(4, 9, WIDTH), torch.randn(4, 9, 8)
    log_probs = ctc.log_probs(audio, projected, embedding)
    windows = ctc.windows(audio, projected, embedding, lengths, silent=0.5)
    texts, sure = best_path(windows)
    expected = best_path(windows_of(log_probs, 9, 0, 5, 7))
    assert texts == expected[0]
    for row, values in zip(sure, expected[1], strict=True):
        assert row == pytest.approx(values, abs=1e-5)
    there = torch.arange(9) < lengths[:, None]
    speaking = there & (log_probs[..., 0].exp() < 0.5)
    assert torch.equal(windows.speaking, speaking) and 4 < speaking.sum() < there.sum()
    torch.testing.assert_close(windows.log_probs, log_probs[speaking])
    chosen = torch.tensor([3, 0])
    some = windows.rows(chosen)
    assert best_path(some)[0] == [best_path(windows)[0][row] for row in (3, 0)]
    expected = log_probs[chosen][speaking[chosen]]
    torch.testing.assert_close(some.log_probs, expected)


def test_the_best_path_says_how_sure_it_is():
    log_probs = certain([-1, 4, 4, -1, 4, 2])
    log_probs[0, 1, 5] = -0.5  # the surer of the two vectors counts
    ids, confidence = best_path(windows_of(log_probs, 5))
    assert ids == [[4, 4]]
    assert confidence[0] == pytest.approx([0.0, 0.0], abs=1e-3)
    log_probs[0, 2] -= 0.25
    assert best_path(windows_of(log_probs, 5))[1][0][0] == pytest.approx(-0.25)


def test_a_vector_like_an_embedding_stands_for_its_token(ctc):
    embedding = torch.randn(TOKENS, 8)
    audio = torch.zeros(1, TOKENS, WIDTH)
    log_probs = ctc.log_probs(audio, 50 * embedding[None], embedding)
    assert log_probs[..., 1:].argmax(dim=-1).tolist() == [list(range(TOKENS))]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, TOKENS))
