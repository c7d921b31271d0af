"""The copy mechanism: pointing at the audio's tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from espnet_llada.extensions.copy_head import FLOOR, CopyHead, CopyMechanism
from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.networks.backbone import Backbone, OutputHead

ROWS, LENGTH, VECTORS, TOKENS = 3, 6, 4, 2


@pytest.fixture
def lm(tiny_lm) -> Backbone:
    return Backbone.from_pretrained(tiny_lm, "causal")


@pytest.fixture
def head(lm) -> CopyHead:
    """One that has learnt something, over tokens of which some are alike."""
    torch.manual_seed(0)
    copy = CopyMechanism(lm.width)
    for parameter in copy.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(5, 12, (ROWS, VECTORS, TOKENS))
    shares = torch.rand(ROWS, VECTORS, TOKENS) / TOKENS
    shares[1, 2:] = 0.0
    vectors = torch.randn(ROWS, VECTORS, lm.width)
    audio = AudioEmbeddings(vectors, torch.tensor([4, 2, 3]), tokens, shares)
    return CopyHead(lm, copy, audio, 0, torch.randn(ROWS, VECTORS, lm.width))


def hidden_states(lm) -> torch.Tensor:
    return torch.randn(ROWS, LENGTH, lm.width)


def test_loss_and_gradients_are_those_of_the_logits(lm, head):
    hidden = hidden_states(lm).requires_grad_()
    counted = torch.rand(ROWS, LENGTH) < 0.7
    logits = head.logits(hidden, counted)
    targets = torch.randint(3, 14, (ROWS, LENGTH))
    targets[counted] = targets[counted].where(
        torch.rand(len(logits)) < 0.5, logits.argmax(dim=1)
    )
    nll, right = head.nll(hidden, targets, counted)
    expected = F.cross_entropy(logits, targets[counted], reduction="none")
    torch.testing.assert_close(nll, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(right, logits.argmax(dim=1) == targets[counted])
    assert 0 < right.sum() < len(right)
    trained = [hidden, *head._copy.parameters()]
    got = torch.autograd.grad(nll.sum(), trained)
    for a, b in zip(got, torch.autograd.grad(expected.sum(), trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_only_the_audios_tokens_gain(lm, head):
    hidden = hidden_states(lm)
    everywhere = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    plain = OutputHead(lm).logits(hidden, everywhere).unflatten(0, (ROWS, LENGTH))
    gained = head.logits(hidden, everywhere).unflatten(0, (ROWS, LENGTH)) - plain
    for row in range(ROWS):
        real = int(head._audio.counts[row])
        audio = head._audio.tokens[row, :real].flatten().unique()
        assert (gained[row][:, audio].amax(dim=0) > 0).all()
        gained[row][:, audio] = 0.0
    assert gained.abs().max() == 0


@torch.no_grad()
def test_a_row_and_a_position_are_what_they_are_alone(lm, head):
    hidden = hidden_states(lm)
    wanted = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    together = head.logits(hidden, wanted).unflatten(0, (ROWS, LENGTH))
    for row in (1, 2):
        alone = head.rows(torch.tensor([row, row]))
        for place in range(LENGTH):
            state = hidden[row, place].expand(2, 1, -1)
            got = alone.logits(state, wanted[:2, :1], begins=place)
            torch.testing.assert_close(got[1], together[row, place])


@torch.no_grad()
def test_untrained_it_points_at_the_vector_of_its_own_number(lm):
    """And a token of two vectors has the chances of both."""
    tokens = torch.tensor([[[5], [6], [5], [7]]])
    audio = AudioEmbeddings(
        torch.zeros(1, 4, lm.width), torch.tensor([4]), tokens, tokens / 7
    )
    copy, nothing = CopyMechanism(lm.width), torch.zeros(1, 4, lm.width)
    added = copy(nothing, nothing, audio)[0]
    weights = torch.tensor([0.0, -1, -2, -3, -2]).softmax(dim=0)
    chance = (weights[0] + weights[2]) * 5 / 7
    torch.testing.assert_close(added[0, 0], (chance / FLOOR).log1p())
    assert added[:, 2].abs().max() == 0, "counted where the token stands first"
    assert added[1].argmax() == 1 and added[3].argmax() == 3


@torch.no_grad()
def test_where_there_is_no_vector_nothing_is_added(lm):
    audio = AudioEmbeddings(
        torch.zeros(2, 0, lm.width),
        torch.zeros(2, dtype=torch.long),
        torch.zeros(2, 0, 8, dtype=torch.long),
        torch.zeros(2, 0, 8),
    )
    hidden = torch.randn(2, 3, lm.width)
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    head = CopyHead(lm, CopyMechanism(lm.width), audio, 0, audio.vectors)
    plain = OutputHead(lm)
    expected = plain.logits(hidden, everywhere)
    assert torch.equal(head.logits(hidden, everywhere), expected)
    targets = torch.full((2, 3), 5)
    nll, _ = head.nll(hidden, targets, everywhere)
    torch.testing.assert_close(nll, plain.nll(hidden, targets, everywhere)[0])
