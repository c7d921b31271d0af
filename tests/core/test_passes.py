"""Passes over a canvas: as much as is asked for, as little as that needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from espnet_llada.core.decoder import LMDecoder

from espnet_llada.core.canvas import blank_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample

WIDTH = 16


def build(lm, where: str = "before", **more) -> LMDecoder:
    torch.manual_seed(0)
    options = {"prompt": "say", "chat_template": False, "audio_positions": where}
    return LMDecoder(WIDTH, "bidirectional", None, lm=str(lm), **options, **more).eval()


@torch.no_grad()
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("where", ["before", "beside"])
def test_logits_are_the_same_where_they_are_wanted(tiny_lm, where, blind):
    """What nobody asks for is not computed, and what stays the same only once."""
    decoder = build(tiny_lm, where, prefix_blind=blind)
    vectors, sizes = torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3])
    prefix, lengths = decoder.prefix(vectors, sizes), torch.tensor([6, 4, 3])
    logits_fn = decoder.logits_fn(decoder.listen(vectors, sizes), lengths)
    for rows in ([1, 2], [2], [], [0, 1, 2], [0, 1], [0]):
        tokens = torch.randint(3, 40, (3, 6))
        expected = decoder.canvas_logits(prefix, tokens, lengths)
        wanted = (torch.rand(3, 6) < 0.5) & (torch.arange(6) < lengths[:, None])
        wanted[:, 0] = True
        wanted &= torch.isin(torch.arange(3), torch.tensor(rows))[:, None]
        logits = logits_fn(tokens, wanted)
        torch.testing.assert_close(logits, expected[wanted], atol=1e-5, rtol=1e-4)


def two_sub_blocks(decoder: LMDecoder, **options) -> list[float]:
    """How far the logits of each pass over two sub-blocks are from exact ones."""
    audio = torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3])
    prefix, lengths = decoder.prefix(*audio), torch.tensor([8, 6, 4])
    logits_fn = decoder.logits_fn(decoder.listen(*audio), lengths, block_cache=True)
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
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("where", ["before", "beside"])
def test_a_block_cache_is_exact_where_nothing_that_is_kept_can_change(
    tiny_lm, where, blind
):
    """Keys and values of the first layer are those of a position's own token."""
    decoder = build(tiny_lm, where, prefix_blind=blind)
    body = decoder.lm.body
    body.config = replace(body.config, num_hidden_layers=1)
    del body.layers[1:]
    assert max(two_sub_blocks(decoder)) < 1e-4
    first, *later = two_sub_blocks(build(tiny_lm, where, prefix_blind=blind))
    assert first < 1e-4 and later[3] < 1e-4, "each sub-block's first pass is exact"
    assert max(later) > 1e-3, "the others are not, with several layers"


@torch.no_grad()
def test_a_row_with_a_block_cache_does_not_depend_on_the_batch(tiny_lm):
    decoder = build(tiny_lm)
    options = SamplerOptions("semi_ar", steps=12, num_blocks=3, block_cache=True)
    audio, sizes = torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3])
    lengths = [9, 4, 6]

    def decoded(*rows: int):
        heard = decoder.listen(audio[[*rows]], sizes[[*rows]])
        canvas = blank_canvas([lengths[row] for row in rows], decoder.special)
        logits_fn = decoder.logits_fn(heard, canvas.lengths, options.block_cache)
        return sample(logits_fn, canvas, options, decoder.special)

    together = decoded(0, 1, 2)
    for row, length in enumerate(lengths):
        alone = decoded(row)
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])
        assert alone.passes[0] == together.passes[row]
