"""Masking, schedule and confidence, each against a plain re-computation."""

from __future__ import annotations

import torch
from espnet_llada.core.confidence import RowRandom, ends, log_probabilities
from espnet_llada.core.schedule import commits_per_pass, passes_per_block
from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.masking import (
    count_to_mask,
    lowest,
    random_positions,
    sub_blocks,
)
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=11, eos=10)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 12))
def test_commits_fill_the_block_and_never_grow(masked, passes):
    quota = commits_per_pass(torch.tensor(masked), passes)
    assert quota.sum(1).tolist() == masked
    assert (quota.diff(dim=1) <= 0).all()
    assert (quota.max(1).values - quota.min(1).values <= 1).all()


@given(st.integers(1, 128), st.data())
def test_the_budget_is_shared_whole(steps, data):
    blocks = data.draw(st.integers(1, steps))
    shares = passes_per_block(steps, blocks)
    assert sum(shares) == steps
    assert min(shares) >= 1


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=9), st.data())
def test_lowest_is_a_stable_sort(scores, data):
    among = data.draw(st.lists(st.booleans(), min_size=len(scores)))[: len(scores)]
    count = data.draw(st.integers(0, 10))
    expected = sorted((s, i) for i, s in enumerate(scores) if among[i])[:count]
    got = lowest(torch.tensor([scores]), torch.tensor([among]), torch.tensor([count]))
    assert got[0].nonzero().flatten().tolist() == sorted(i for _, i in expected)


@given(st.integers(0, 200), st.floats(0, 1))
def test_mask_counts_are_pythons(length, ratio):
    assert count_to_mask(torch.tensor([length]), ratio).tolist() == [
        int(length * ratio)
    ]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 6))
def test_sub_blocks_partition_each_row(lengths, num):
    canvas = transcript_canvas([[1] * n for n in lengths], SPECIAL)
    blocks = torch.stack(sub_blocks(canvas, num)).long()
    assert torch.equal(blocks.sum(0).bool(), canvas.valid)
    assert (blocks.sum(0) <= 1).all()
    sizes = blocks.sum(-1)
    assert (sizes.max(0).values - sizes.min(0).values <= 1).all()


def test_random_masks_depend_on_the_seed_of_the_row_alone():
    def draw(lengths, seeds):
        canvas = transcript_canvas([[1] * n for n in lengths], SPECIAL)
        counts = count_to_mask(canvas.lengths, 0.5)
        return random_positions(canvas, canvas.valid, counts, RowRandom(seeds))

    alone, together = draw([8], [7]), draw([20, 8], [3, 7])
    assert torch.equal(alone[0], together[1, :8])
    assert not together[1, 8:].any()
    assert together.sum(1).tolist() == [10, 4]


def test_log_probabilities_are_those_of_float64_and_spare_the_input():
    logits = torch.randn(2, 3, 12)
    before = logits.clone()
    got = log_probabilities(logits, SPECIAL)
    assert torch.equal(logits, before)
    plain = logits.double()
    plain[..., SPECIAL.mask] = -torch.inf
    expected = plain.exp() / plain.exp().sum(-1, keepdim=True)
    assert torch.allclose(got.exp().double(), expected, atol=1e-6)


def test_an_eos_is_as_sure_as_the_least_sure_of_what_it_decides():
    mask, eos = SPECIAL.mask, SPECIAL.eos
    tokens = torch.tensor([[mask] * 6, [mask, 4, mask, eos, mask, eos]])
    masked = tokens == mask
    masked[0, 5] = False  # of a later sub-block: nothing is known of it
    chances = torch.full((8, 12), 0.001)
    chances[:, eos] = torch.tensor([0.9, 0.2, 0.7, 0.8, 0.6, 0.9, 0.9, 0.5])
    got = ends(chances.log(), masked, tokens, SPECIAL).exp()
    expected = torch.tensor([0.2, 0.2, 0.6, 0.6, 0.6, 0.0, 0.5, 0.5])
    torch.testing.assert_close(got[:, eos], expected)
    chances[:, eos] = got[:, eos]
    torch.testing.assert_close(got, chances)  # nothing else is changed
