"""Which positions a pass commits, and the drafts that it is shown."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_models import check_batches, decoder_of, recognize

from espnet_llada.core.canvas import blank_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.commit_rules import (
    Hook,
    Options,
    surest_around,
    within_budget,
)
from espnet_llada.types import SpecialTokens

VOCAB, SPECIAL = 12, SpecialTokens(mask=11, eos=10)


def lm(sure):
    """Finds token i at position i, so probably; token 9 is the other one."""

    def logits_fn(tokens, wanted):
        logits = torch.full((*tokens.shape, VOCAB), -torch.inf)
        for place, p in enumerate(sure):
            logits[:, place, place] = math.log(p)
            logits[:, place, 9] = math.log(1 - p)
        return logits[wanted]

    return logits_fn


def committed(sure, options: Options, rows: int = 1, **sampler) -> list[list[int]]:
    """The positions that each pass commits, of the first row."""
    given = SamplerOptions(**{"steps": 64, "canvas_length": len(sure), **sampler})
    found = []
    hook = Hook(options, SimpleNamespace(special=SPECIAL), given, [0])
    sample(
        lm(sure),
        blank_canvas([len(sure)] * rows, SPECIAL),
        given,
        SPECIAL,
        on_pass=lambda p: found.append(p.committed[0].nonzero()[:, 0].tolist()),
        process=hook.process,
        plan=partial(hook.plan, None) if options.block_length else None,
    )
    return found


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_blocks_of_a_fixed_length_are_filled_one_after_the_other():
    sure = [0.9, 0.99, 0.7, 0.98, 0.97]
    assert committed(sure, Options(block_length=2)) == [[1], [0], [3], [2], [4]]
    blocks = {"threshold": 0.8}
    assert committed(sure, Options(block_length=2), **blocks) == [[0, 1], [3], [2], [4]]
    # A budget of passes is shared out; blocks that it cannot pay for take one.
    assert committed(sure, Options(block_length=2), steps=1) == [[0, 1], [2, 3], [4]]
    assert committed(sure, Options(block_length=9), steps=1) == [[0, 1, 2, 3, 4]]


def test_a_pass_commits_what_its_entropy_budget_allows():
    sure = [0.9, 0.99, 0.7, 0.98]
    budget = entropy(0.99) + entropy(0.98)  # and the largest, which is free
    found = committed(sure, Options(entropy_budget=budget + 1e-3))
    assert found == [[0, 1, 3], [2]]
    found = committed(sure, Options(entropy_budget=budget - 1e-3))
    assert found == [[1, 3], [0], [2]], "the last two are not sure enough together"
    one = committed(sure, Options(entropy_budget=1e-9))
    assert one == [[1], [3], [0], [2]], "one position a pass at least"


def test_a_bias_prefers_positions_further_left():
    sure = [0.9, 0.99, 0.7, 0.98]
    found = committed(sure, Options(entropy_budget=1e-9, position_bias=0.2))
    assert found == [[0], [1], [3], [2]]  # e^(-0.2 i) p: 0.9, 0.81, 0.47, 0.54
    found = committed(sure, Options(entropy_budget=1e-9, position_bias=9.0))
    assert found == [[0], [1], [2], [3]]


def test_the_largest_set_within_the_budget_for_each_row():
    masked = torch.tensor([[True, True, False, True], [False, True, True, False]])
    sure = torch.tensor([0.9, 0.5, 0.95, 0.6, 0.8])
    log_probs = torch.stack([sure, 1 - sure], dim=1).log()
    found = within_budget(masked, log_probs, entropy(0.95) + 1e-4)
    assert found.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_positions_apart_are_committed_together():
    sure = [0.9, 0.99, 0.7, 0.98, 0.6, 0.8, 0.85]
    assert committed(sure, Options(reach=1)) == [[1, 3, 6], [0, 2, 5], [4]]
    assert committed(sure, Options(reach=2)) == [[1, 6], [0, 3], [2, 5], [4]]
    alone = [[1], [3], [0], [6], [5], [2], [4]]
    assert committed(sure, Options(reach=9)) == committed(sure, Options()) == alone


def test_a_neighbour_that_is_not_masked_does_not_count():
    masked = torch.tensor([[True, False, True, True], [True, True, False, False]])
    sure = torch.tensor([0.5, 0.6, 0.7, 0.9, 0.8])
    log_probs = torch.stack([sure, 1 - sure], dim=1).log()
    found = surest_around(masked, log_probs, 1)
    assert found.tolist() == [[True, False, False, True], [True, False, False, False]]


def test_the_last_pass_commits_the_rest():
    sure = [0.9, 0.99, 0.7, 0.98, 0.6]
    found = committed(sure, Options(last_pass=3), threshold=0.95)
    assert found == [[1, 3], [0], [2, 4]]
    found = committed(sure, Options(last_pass=2, entropy_budget=1e-9))
    assert found == [[1], [0, 2, 3, 4]]
    assert committed(sure, Options(last_pass=9), steps=1) == [[0, 1, 2, 3, 4]]


def test_probable_tokens_are_the_next_passs_drafts():
    hook = Hook(
        Options(draft_threshold=0.7), SimpleNamespace(special=SPECIAL), None, [0]
    )
    tokens = torch.tensor([[11, 3, 11, 11]])
    log_probs = lm([0.8, 0.5, 0.6, 0.9])(tokens, tokens == 11).log_softmax(dim=-1)
    hook.process(tokens, tokens == 11, log_probs)
    assert hook.drafts.tolist() == [[0, 3, 11, 3]]


@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_a_shadow_mask_sees_all_but_its_own_draft(word_lm, tiny_whisper, cached):
    """In an LM of one layer its logits are those of the canvas without that draft."""
    conf = {"prompt": "say", "cached_prefix": cached}
    decoder = decoder_of(word_lm, tiny_whisper, 16, "bidirectional", **conf).eval()
    decoder.lm.body.layers = decoder.lm.body.layers[:1]
    prefix = decoder.prefix(torch.randn(2, 5, 16), torch.tensor([5, 3]))
    lengths, mask = torch.tensor([6, 4]), decoder.special.mask
    places = torch.arange(6)
    wanted = (places < lengths[:, None]) & torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    tokens = torch.randint(3, 40, (2, 6)).masked_fill(wanted, mask)
    hook = Hook(Options(draft_threshold=0.5), decoder, None, [0, 0])
    hook.drafts = torch.randint(3, 40, (2, 6)).masked_fill(places == 4, mask)
    logits = hook.passes(prefix, lengths)(tokens, wanted)
    shown = torch.where(wanted, hook.drafts, tokens)
    for number, (row, place) in enumerate(wanted.nonzero().tolist()):
        alone = shown.clone()
        alone[row, place] = mask
        expected = decoder.canvas_logits(prefix, alone, lengths)[row, place]
        torch.testing.assert_close(logits[number], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "rule",
    [
        {"entropy_budget": 0.3, "position_bias": 0.2},
        {"last_pass": 2, "reach": 2},
        {"draft_threshold": 0.001, "last_pass": 3},
        {"block_length": 2},
    ],
    ids=str,
)
def test_a_row_does_not_depend_on_its_batch(model, speech, rule):
    options = {"canvas_size": {"positions_per_vector": 1.0}, "threshold": 0.5}
    check_batches(model, speech, None, {"steps": 32, **options, "commit": rule})


def test_without_a_rule_nothing_changes(model, speech):
    options = {"steps": 4, "canvas_length": 8}
    assert recognize(model, speech, **options) == recognize(
        model, speech, **options, commit={}
    )
