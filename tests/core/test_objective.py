"""The objectives against a plain re-computation in float64."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_llada.core.objective import (
    NoisyCanvas,
    Objective,
    Targets,
    causal_loss,
    diffusion_loss,
    noisy_canvas,
)
from espnet_llada.networks.head import logits_nll
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=9, eos=8)
TEXT = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
LENGTHS = torch.tensor([4, 2, 0])


def canvas(loss: str, seed: int = 3) -> NoisyCanvas:
    seeds = [1000 * seed + row for row in range(3)]
    return noisy_canvas(Targets(TEXT, LENGTHS), SPECIAL, Objective(loss, 5), seeds)


def nll(logits: torch.Tensor, row: int, place: int, target: int) -> float:
    values = logits[row, place].double().tolist()
    return math.log(sum(math.exp(v) for v in values)) - values[target]


@pytest.mark.parametrize("loss", ["llada", "flat", "release"])
def test_loss_in_plain_float64(loss):
    noisy = canvas(loss)
    assert noisy.masked.any()
    logits = torch.randn(*noisy.tokens.shape, 10)
    total, count, weighted = 0.0, 0, 0.0
    for row in range(3):
        for place in range(noisy.tokens.shape[1]):
            if not noisy.masked[row, place]:
                continue
            value = nll(logits, row, place, int(noisy.targets[row, place]))
            total, count = total + value, count + 1
            t, n = float(noisy.mask_probability[row]), int(noisy.lengths[row])
            weighted += value / t / n / 3
    expected = weighted if loss == "llada" else total / count
    value = diffusion_loss(logits, noisy, loss, logits_nll)
    assert float(value.mean) == pytest.approx(expected, 1e-5)
    assert int(value.scored) == count


@pytest.mark.parametrize("loss", ["llada", "flat", "release"])
def test_an_empty_mask_is_zero_with_a_zero_gradient(loss):
    noisy = canvas(loss)
    none = torch.zeros_like(noisy.masked)
    noisy = NoisyCanvas(
        noisy.targets, noisy.targets, noisy.lengths, none, noisy.mask_probability
    )
    logits = torch.randn(*noisy.tokens.shape, 10, requires_grad=True)
    value = diffusion_loss(logits, noisy, loss, logits_nll).mean
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_release_canvas_is_the_longest_transcript_padded_with_eos():
    noisy = canvas("release")
    assert noisy.lengths.tolist() == [4, 4, 4]
    assert noisy.targets.tolist() == [[1, 2, 3, 4], [5, 6, 8, 8], [8, 8, 8, 8]]


def test_llada_canvas_ends_every_row_with_its_own_eos():
    for seed in range(20):
        noisy = canvas("llada", seed)
        extra = noisy.lengths - LENGTHS
        assert (extra >= 1).all() and (extra <= 6).all()
        for row, n in enumerate(LENGTHS.tolist()):
            targets = noisy.targets[row].tolist()
            assert targets[:n] == TEXT[row, :n].tolist()
            assert set(targets[n:]) == {SPECIAL.eos}
        places = torch.arange(noisy.tokens.shape[1])
        assert not (noisy.masked & (places >= noisy.lengths[:, None])).any()
    lengths = {tuple(canvas("llada", seed).lengths.tolist()) for seed in range(20)}
    assert len(lengths) > 5


def test_only_masked_positions_are_hidden_and_their_share_is_t():
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 8, (400, 50), generator=generator)
    lengths = torch.full((400,), 50)
    noisy = noisy_canvas(
        Targets(text, lengths), SPECIAL, Objective("release"), range(400)
    )
    assert torch.equal(noisy.tokens == SPECIAL.mask, noisy.masked)
    kept = ~noisy.masked
    assert torch.equal(noisy.tokens[kept], noisy.targets[kept])
    share = noisy.masked.float().mean(dim=1)
    assert (share - noisy.mask_probability).abs().mean() < 0.06
    assert abs(float(noisy.mask_probability.mean()) - 0.5) < 0.05


def test_causal_loss_counts_the_eos_and_no_padding():
    logits = torch.randn(3, 5, 10)
    value = causal_loss(logits, TEXT, LENGTHS, SPECIAL.eos, logits_nll)
    targets = {(0, i): i + 1 for i in range(4)} | {(0, 4): 8}
    targets |= {(1, 0): 5, (1, 1): 6, (1, 2): 8, (2, 0): 8}
    expected = sum(nll(logits, *spot, token) for spot, token in targets.items()) / 9
    assert float(value.mean) == pytest.approx(expected, 1e-5)
    right = sum(int(logits[spot].argmax()) == token for spot, token in targets.items())
    assert (int(value.right), int(value.scored)) == (right, 9)


@pytest.mark.parametrize("loss", ["llada", "flat", "release"])
def test_a_row_and_the_sums_do_not_depend_on_the_batch(loss):
    given = SPECIAL, Objective(loss, 5)
    whole = noisy_canvas(Targets(TEXT, LENGTHS), *given, [4, 5, 6])
    logits = torch.randn(*whole.tokens.shape, 10)
    total = diffusion_loss(logits, whole, loss, logits_nll)
    weight = torch.zeros(())
    for row in range(3):
        one = slice(row, row + 1)
        targets = Targets(TEXT[one], LENGTHS[one])
        part = noisy_canvas(targets, *given, [4 + row], longest=4)
        width = int(part.lengths)
        assert torch.equal(part.tokens[0], whole.tokens[row, :width])
        alone = diffusion_loss(logits[one, :width], part, loss, logits_nll)
        torch.testing.assert_close(alone.rows[0], total.rows[row])
        weight += alone.weight
    assert float(weight) == float(total.weight)


@pytest.mark.parametrize("loss", ["llada", "flat", "release"])
def test_what_is_shown_may_be_other_than_what_is_to_be_restored(loss):
    """Errors in the unmasked tokens: the targets stay what they were."""
    other = TEXT + 1
    seeds, objective = [1, 2, 3], Objective(loss, 5)
    plain = noisy_canvas(Targets(TEXT, LENGTHS), SPECIAL, objective, seeds)
    noisy = noisy_canvas(Targets(TEXT, LENGTHS, other), SPECIAL, objective, seeds)
    assert torch.equal(noisy.targets, plain.targets)
    assert torch.equal(noisy.masked, plain.masked)
    shown = ~noisy.masked & (plain.targets != SPECIAL.eos)
    assert torch.equal(noisy.tokens[shown], plain.targets[shown] + 1)
