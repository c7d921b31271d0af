"""Prompt and audio, and where they stand."""

from __future__ import annotations

import pytest
import torch
from espnet_llada.core.decoder import LMDecoder, last_valid

from espnet_llada.baseline.autoregressive import beam_search

WIDTH = 16


def build(lm, attention: str, where: str, **more) -> LMDecoder:
    torch.manual_seed(0)
    options = {"prompt": "say", "chat_template": False, "audio_positions": where}
    return LMDecoder(WIDTH, attention, None, lm=str(lm), **options, **more).eval()


def audio() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, WIDTH, generator=generator), torch.tensor([5, 3])


@torch.no_grad()
def test_beside_numbers_the_audio_as_the_response(tiny_lm):
    decoder = build(tiny_lm, "bidirectional", "beside")
    prefix = decoder.prefix(*audio())
    asked = len(decoder.prompt_ids)
    row = prefix.positions[1][prefix.valid[1]].tolist()
    assert row == [asked, asked + 1, asked + 2, *range(asked)]
    assert prefix.start.tolist() == [asked, asked], "where the first vector stands"


@torch.no_grad()
@pytest.mark.parametrize("where", ["before", "beside"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_row_does_not_depend_on_the_batch(tiny_lm, attention, where):
    decoder = build(tiny_lm, attention, where)
    vectors, lengths = audio()
    tokens = torch.tensor([[5, 6, 7], [8, 9, 3]])
    given = torch.tensor([3, 2])
    prefix = decoder.prefix(vectors, lengths)
    first, together = decoder.sequence_hidden(prefix, tokens, given)
    last = last_valid(first, prefix.valid)
    for i in range(2):
        one, n, k = slice(i, i + 1), int(lengths[i]), int(given[i])
        prefix = decoder.prefix(vectors[one, :n], lengths[one])
        before, alone = decoder.sequence_hidden(prefix, tokens[one, :k], given[one])
        before = last_valid(before, prefix.valid)
        torch.testing.assert_close(before[0], last[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone[0], together[i, :k], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_cache_gives_what_the_whole_sequence_gives(tiny_lm):
    decoder = build(tiny_lm, "causal", "beside")
    vectors, lengths = audio()
    prefix = decoder.prefix(vectors, lengths)
    found = beam_search(decoder, prefix, max_tokens=6)
    text = torch.zeros(2, 0, dtype=torch.long)
    for i in range(int(found.passes.min())):
        sizes = torch.full((2,), text.shape[1])
        best = decoder.next_token_logits(prefix, text, sizes)[:, -1].argmax(dim=-1)
        assert best.tolist() == found.tokens[:, i].tolist()
        text = torch.cat([text, best[:, None]], dim=1)


@torch.no_grad()
def test_a_blind_prefix_sees_nothing_of_the_response(tiny_lm):
    tokens, lengths = torch.tensor([[5, 6, 7], [8, 9, 3]]), torch.tensor([3, 3])
    seen = {}
    for blind in (False, True):
        decoder = build(tiny_lm, "bidirectional", "beside", prefix_blind=blind)
        prefix = decoder.prefix(*audio())
        before = decoder.sequence_hidden(prefix, tokens, lengths)[0]
        after = decoder.sequence_hidden(prefix, tokens.flip(1), lengths)[0]
        seen[blind] = not torch.equal(before, after)
    assert seen == {False: True, True: False}
