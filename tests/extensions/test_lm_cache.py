"""Passes that keep what need not be computed anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import check_batches, decoder_of

from espnet_llada.core.canvas import blank_canvas
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.lm_cache import CachedPasses

WIDTH = 16


def build(lm, whisper, where: str | None, cached: bool = False) -> LMDecoder:
    """Behind the paper's prefix, or a posterior prefix."""
    conf = {"prompt": "say", "cached_prefix": cached}
    if where is not None:
        conf |= {"ctc": {"scale": 30.0}, "posterior_prefix": {"positions": where}}
    return decoder_of(lm, whisper, WIDTH, "bidirectional", **conf).eval()


@pytest.fixture(params=[None, "before", "aligned"])
def where(request) -> str | None:
    return request.param


def batch_of(decoder: LMDecoder):
    return decoder.prefix(torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3]))


@torch.no_grad()
def test_a_cached_prefix_changes_no_logits(word_lm, tiny_whisper, where):
    """What nobody asks for is not computed, and what stays the same only once."""
    decoder = build(word_lm, tiny_whisper, where, cached=True)
    assert decoder.passes is CachedPasses and not decoder.prefix_attends
    batch, lengths = batch_of(decoder), torch.tensor([6, 4, 3])
    prefix, logits_fn = batch.rows(range(3)), decoder.passes(decoder, batch, lengths)
    for rows in ([1, 2], [2], [], [0, 1, 2], [0, 1], [0]):
        tokens = torch.randint(3, 40, (3, 6))
        expected = decoder.canvas_logits(prefix, tokens, lengths)
        wanted = (torch.rand(3, 6) < 0.5) & (torch.arange(6) < lengths[:, None])
        wanted[:, 0] = True
        wanted &= torch.isin(torch.arange(3), torch.tensor(rows))[:, None]
        logits = logits_fn(tokens, wanted)
        torch.testing.assert_close(logits, expected[wanted], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cached_prefix_is_run_once(word_lm, tiny_whisper, monkeypatch):
    decoder = build(word_lm, tiny_whisper, None, cached=True)
    batch, lengths = batch_of(decoder), torch.tensor([6, 4, 3])
    logits_fn, sizes = decoder.passes(decoder, batch, lengths), []
    forward = decoder.lm.forward

    def counted(embeds, *rest):
        sizes.append(embeds.shape[1])
        return forward(embeds, *rest)

    monkeypatch.setattr(decoder.lm, "forward", counted)
    for _ in range(3):
        logits_fn(torch.full((3, 6), 5), torch.arange(6) < lengths[:, None])
    assert sizes == [len(batch.valid.T) + 6, 6, 6]


def two_sub_blocks(decoder: LMDecoder) -> list[float]:
    """How far the logits of each pass over two sub-blocks are from exact ones."""
    batch, lengths = batch_of(decoder), torch.tensor([8, 6, 4])
    prefix = batch.rows(range(3))
    logits_fn = CachedPasses(decoder, batch, lengths, block_cache=True)
    tokens, off = torch.full((3, 8), decoder.special.mask), []
    places = torch.arange(8)
    blocks = [places < lengths[:, None] // 2, places >= lengths[:, None] // 2]
    for block in blocks:
        wanted = block & (places < lengths[:, None])
        while wanted.any():
            exact = decoder.canvas_logits(prefix, tokens, lengths)[wanted]
            off.append((logits_fn(tokens, wanted) - exact).abs().max().item())
            now = wanted & (wanted.cumsum(dim=1) == 1)
            tokens = torch.where(now, torch.randint(3, 40, (3, 8)), tokens)
            wanted = wanted & ~now
    return off


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_a_block_cache_is_exact_where_nothing_that_is_kept_can_change(
    word_lm, tiny_whisper, where, cached
):
    """Keys and values of the first layer are those of a position's own token."""
    decoder = build(word_lm, tiny_whisper, where, cached)
    body = decoder.lm.body
    body.config = replace(body.config, num_hidden_layers=1)
    del body.layers[1:]
    assert max(two_sub_blocks(decoder)) < 1e-4
    first, *later = two_sub_blocks(build(word_lm, tiny_whisper, where, cached))
    assert first < 1e-4 and later[3] < 1e-4, "each sub-block's first pass is exact"
    assert max(later) > 1e-3, "the others are not, with several layers"


@torch.no_grad()
def test_a_row_with_a_block_cache_does_not_depend_on_the_batch(word_lm, tiny_whisper):
    decoder = build(word_lm, tiny_whisper, None)
    options = SamplerOptions("semi_ar", steps=12, num_blocks=3)
    audio, sizes = torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3])
    lengths = [9, 4, 6]

    def decoded(*rows: int):
        prefix = decoder.prefix(audio[[*rows]], sizes[[*rows]])
        canvas = blank_canvas([lengths[row] for row in rows], decoder.special)
        logits_fn = CachedPasses(decoder, prefix, canvas.lengths, block_cache=True)
        return sample(logits_fn, canvas, options, decoder.special)

    together = decoded(0, 1, 2)
    for row, length in enumerate(lengths):
        alone = decoded(row)
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])
        assert alone.passes[0] == together.passes[row]


def test_a_recognizer_runs_it(model, speech):
    options = {"strategy": "semi_ar", "steps": 6, "num_blocks": 2, "block_cache": True}
    check_batches(model, speech, None, {**options, "canvas_length": 8})
