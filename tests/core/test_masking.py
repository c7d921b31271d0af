"""What each strategy masks, against a plain re-computation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.core.canvas import blank_canvas, transcript_canvas
from espnet_llada.core.masking import (
    commits_per_pass,
    count_to_mask,
    log_probabilities,
    lowest,
    make_plan,
    measure,
    sub_blocks,
)
from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=11, eos=10)


def falling(tokens, wanted):
    """Logits of an LM that finds a token the less likely the larger it is."""
    return torch.arange(12.0).neg().expand(int(wanted.sum()), -1)


def planned(options, canvas, seeds=(0,)):
    return make_plan(falling, canvas, options, SPECIAL, RowRandom(seeds))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 12))
def test_commits_fill_the_block_and_never_grow(masked, passes):
    quota = commits_per_pass(torch.tensor(masked), passes)
    assert quota.sum(1).tolist() == masked
    assert (quota.diff(dim=1) <= 0).all()
    assert (quota.max(1).values - quota.min(1).values <= 1).all()


@given(st.integers(1, 128), st.integers(1, 200), st.integers(1, 40))
def test_the_budget_is_shared_whole(steps, blocks, length):
    options = SamplerOptions("semi_ar", steps=steps, num_blocks=blocks)
    plan = planned(options, blank_canvas([length], SPECIAL))
    assert len(plan.blocks) == min(blocks, steps, length)
    assert sum(block.passes for block in plan.blocks) == steps
    assert min(block.passes for block in plan.blocks) >= 1


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
    options = SamplerOptions("deliberation_random", tail=0)

    def draw(lengths, seeds):
        canvas = transcript_canvas([[1] * n for n in lengths], SPECIAL)
        (block,) = planned(options, canvas, seeds).blocks
        return block.positions

    alone, together = draw([8], [7]), draw([20, 8], [3, 7])
    assert torch.equal(alone[0], together[1, :8])
    assert not together[1, 8:].any()
    assert together.sum(1).tolist() == [10, 4]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_masks(strategy):
    """Of a transcript of 4 and one of 0 tokens, with a tail of 1 each; 2 passes."""
    options = SamplerOptions(strategy, steps=3, num_blocks=2, mask_ratio=0.5)
    canvas = transcript_canvas([[1, 2, 3, 4], []], SPECIAL, tail=1)
    plan = planned(options, canvas, [0, 1])
    masked = [block.positions.int().tolist() for block in plan.blocks]
    passes = [block.passes for block in plan.blocks]
    if strategy == "diffusion":
        assert (masked, passes) == ([[[1] * 5, [1, 0, 0, 0, 0]]], [3])
    elif strategy.endswith("semi_ar"):
        first = [[1, 1, 0, 0, 0], [0] * 5]
        assert masked == [first, [[0, 0, 1, 1, 1], [1, 0, 0, 0, 0]]]
        assert passes == [2, 1], "the earlier ones take what is left"
    elif strategy == "deliberation_random":
        (rows,) = masked
        assert (sum(rows[0][:4]), rows[0][4], rows[1]) == (2, 1, [0] * 5)
        assert passes == [3]
    else:  # the LM finds each token less likely than the one before
        assert (masked, passes) == ([[[0, 0, 1, 1, 1], [0] * 5]], [2])
        assert plan.measured[0, :4].diff().max() < 0
    low = strategy == "deliberation_low_confidence"
    assert plan.spent.tolist() == [int(low), 0]


def test_measuring_hides_a_part_of_the_transcript_in_each_pass():
    canvas, seen = transcript_canvas([[1, 2, 3], [4]], SPECIAL), []

    def logits_fn(tokens, wanted):
        seen.append((tokens == SPECIAL.mask).int().tolist())
        return falling(tokens, wanted)

    found = measure(logits_fn, canvas, SPECIAL, passes=2)
    assert seen == [[[1, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 0]]]
    expected = torch.arange(12.0).neg()[:11].log_softmax(0)
    torch.testing.assert_close(found[0], expected[[1, 2, 3]])


def test_log_probabilities_are_those_of_float64_and_spare_the_input():
    logits = torch.randn(2, 3, 12)
    before = logits.clone()
    got = log_probabilities(logits, SPECIAL)
    assert torch.equal(logits, before)
    plain = logits.double()
    plain[..., SPECIAL.mask] = -torch.inf
    expected = plain.exp() / plain.exp().sum(-1, keepdim=True)
    assert torch.allclose(got.exp().double(), expected, atol=1e-6)
