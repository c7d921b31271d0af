"""Prompt and audio, and where they stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from espnet_llada.core.objective import Targets
from espnet_llada.core.prefix import LinearPrefix, Prompt
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.networks.backbone import Backbone
from espnet_llada.types import SpecialTokens

WIDTH, IDS = 16, [5, 6, 7]


@pytest.fixture()
def prompt(tiny_lm) -> Prompt:
    lm = Backbone.from_pretrained(tiny_lm, "bidirectional")
    return Prompt(lm, IDS, SpecialTokens(lm.mask_id, 2))


@pytest.fixture()
def linear(prompt) -> LinearPrefix:
    torch.manual_seed(0)
    return LinearPrefix(LinearProjection(WIDTH, prompt.lm.embedding.weight))


def audio() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, WIDTH, generator=generator), torch.tensor([5, 3])


@torch.no_grad()
def test_the_papers_order_is_prompt_audio_response(prompt, linear):
    vectors, lengths = audio()
    prefix = linear(prompt, vectors, lengths)
    assert torch.equal(prefix.embeds[0, :3], prompt.lm.embed(torch.tensor(IDS)))
    expected = nn.functional.linear(
        vectors, linear.projection.weight, linear.projection.bias
    )
    torch.testing.assert_close(prefix.embeds[:, 3:], expected)
    assert prefix.valid.int().tolist() == [[1] * 8, [1] * 6 + [0] * 2]
    assert prefix.positions[0].tolist() == list(range(8))
    assert prefix.start.tolist() == [8, 6], "the response follows the row's own audio"


@torch.no_grad()
def test_without_audio_the_response_follows_the_prompt(prompt, linear):
    prefix = prompt.alone(2)
    assert prefix.valid.all() and prefix.embeds.shape[:2] == (2, 3)
    assert prefix.start.tolist() == [3, 3]
    targets = Targets(torch.tensor([[1], [2]]), torch.tensor([1, 1]))
    step = linear.training_step(prompt, None, None, targets, [0, 1])
    assert torch.equal(step.prefix.embeds, prefix.embeds)
    assert step.targets is targets and step.extra is None


@torch.no_grad()
def test_some_rows_have_no_padding_that_only_others_need(prompt, linear):
    vectors, lengths = audio()
    prefix = linear(prompt, vectors, lengths)
    alone = linear(prompt, vectors[1:, :3], lengths[1:])
    part = prefix.rows([1])
    for name in ("embeds", "valid", "positions", "start"):
        torch.testing.assert_close(getattr(part, name), getattr(alone, name))
    assert prefix.rows([0, 1]) is prefix and len(prefix.rows([1, 1, 0])) == 3


@torch.no_grad()
def test_the_plain_prefix_has_no_draft_and_hears_no_silence(linear):
    given = None, *audio()
    assert linear.draft(*given) is None and linear.has_speech(*given) is None
    assert not linear.cannot_decode


def test_the_audio_begins_at_the_scale_of_the_lms_embeddings(prompt):
    torch.manual_seed(0)
    projection = LinearProjection(768, prompt.lm.embedding.weight)
    vectors = projection(torch.randn(100, 768))  # as a LayerNorm gives them
    wanted = prompt.lm.embedding.weight.std()
    assert 0.9 < vectors.std() / wanted < 1.1
