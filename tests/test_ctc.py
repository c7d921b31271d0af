"""The auxiliary CTC loss of the adapter."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.ctc import AlignmentCTC
from espnet_llada.types import UserError

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


def loss_of(ctc: AlignmentCTC, path: list[int], text: list[int]) -> float:
    log_probs = certain(path)
    sizes = torch.tensor([len(path)]), torch.tensor([len(text)])
    return float(ctc(log_probs, sizes[0], torch.tensor([text]), sizes[1]).detach())


def test_repeats_and_blanks_are_no_tokens(ctc):
    assert loss_of(ctc, [-1, 4, 4, -1, 4, 2], [4, 4, 2]) < 1e-3
    assert loss_of(ctc, [-1, 4, 4, -1, 4, 2], [4, 2]) > 1


def test_more_tokens_than_vectors_is_zero_and_no_nan(ctc):
    assert loss_of(ctc, [1, 1], [1, 2, 3]) == 0


def test_a_vector_like_an_embedding_stands_for_its_token(ctc):
    embedding = torch.randn(TOKENS, 8)
    audio = torch.zeros(1, TOKENS, WIDTH)
    log_probs = ctc.log_probs(audio, 50 * embedding[None], embedding)
    assert log_probs[..., 1:].argmax(dim=-1).tolist() == [list(range(TOKENS))]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, TOKENS))


def test_a_row_does_not_depend_on_the_batch(ctc):
    log_probs = torch.randn(3, 9, 1 + TOKENS).log_softmax(dim=-1)
    lengths, text_lengths = torch.tensor([9, 4, 7]), torch.tensor([4, 2, 0])
    text = torch.tensor([[1, 2, 3, 4], [5, 5, -1, -1], [-1, -1, -1, -1]])
    rows = ctc(log_probs, lengths, text, text_lengths)
    for i, n in enumerate(lengths.tolist()):
        one = slice(i, i + 1)
        alone = ctc(log_probs[one, :n], lengths[one], text[one], text_lengths[one])
        torch.testing.assert_close(alone[0], rows[i])


def test_a_weight_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="ctc: weight 0"):
        AlignmentCTC(torch.randn(TOKENS, 8), WIDTH, weight=0.0)
