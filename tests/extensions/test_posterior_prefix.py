"""Audio as mixtures of the LM's own embeddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import decoder_of

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.objective import Targets
from espnet_llada.extensions.ctc import Windows
from espnet_llada.extensions.posterior_prefix.mixture import TOKENS_FILE
from espnet_llada.networks.backbone import OutputHead
from espnet_llada.types import UserError

WIDTH = 16  # of tiny_whisper


@pytest.fixture
def lm(word_lm):
    return word_lm


@pytest.fixture
def decoder(lm, tiny_whisper) -> LMDecoder:
    return build(lm, tiny_whisper).eval()


def build(lm, whisper, attention="causal", where="before", **options) -> LMDecoder:
    prefix = options.pop("posterior_prefix", {})
    if prefix is not None:
        prefix = {"positions": where, **prefix}
    given = {"ctc": {"weight": 1.0}, "posterior_prefix": prefix, **options}
    return decoder_of(lm, whisper, WIDTH, attention, **given)


@pytest.fixture
def sure(decoder, tiny_whisper):
    """A decoder whose CTC is certain; and a vector for each of its tokens."""
    words = load_file(tiny_whisper / "model.safetensors")["decoder.embed_tokens.weight"]
    with torch.no_grad():
        ctc = decoder.audio_prefix.ctc
        ctc.blank.weight.zero_()
        ctc.blank.bias.fill_(100.0)
        ctc.scale.fill_(1e4)
    sounds = words[2:62] / words[2:62].norm(dim=-1, keepdim=True)
    return decoder, sounds  # the products of a word with itself win


def view(decoder, audio, *lengths):
    prompt = len(decoder.prompt_ids)
    prefix = decoder.prefix(audio, torch.tensor(lengths)).rows(range(len(audio)))
    return prefix.embeds[:, prompt:], prefix.valid[:, prompt:].sum(dim=1).tolist()


@torch.no_grad()
def test_a_token_that_is_spoken_arrives_as_the_lms_embedding_of_it(sure):
    decoder, sounds = sure
    first = decoder.lm.vocab_size - 60
    silence = torch.zeros(WIDTH)
    # A word in two windows is one word; with silence between, it was said twice.
    audio = torch.stack([silence, sounds[5], sounds[5], silence, sounds[5], sounds[58]])
    spoken = [first + 5, first + 5, first + 58]
    given = audio[None], torch.tensor([6])
    assert decoder.prefix(*given).draft.ids == [spoken]
    assert decoder.audio_prefix.draft(decoder.prompt, *given) == [spoken]
    assert decoder.audio_prefix.has_speech(decoder.prompt, *given).tolist() == [True]
    seen, counts = view(decoder, audio[None], 6)
    assert counts == [3]
    torch.testing.assert_close(seen[0], decoder.lm.embedding.weight[spoken])


@torch.no_grad()
def test_a_row_does_not_depend_on_the_batch(sure):
    decoder, _ = sure
    audio = torch.randn(3, 9, WIDTH) / 10
    audio[:, ::4] = 0.0  # silence
    together, counts = view(decoder, audio, 9, 2, 5)
    assert counts[0] < 9
    for i, n in enumerate([9, 2, 5]):
        alone, count = view(decoder, audio[i : i + 1, :n], n)
        assert count == [counts[i]]
        torch.testing.assert_close(alone[0], together[i, : counts[i]])


@torch.no_grad()
def test_silence_is_nothing(sure):
    decoder, _ = sure
    silence = torch.zeros(2, 3, WIDTH)
    assert view(decoder, silence, 3, 2)[1] == [0, 0]
    known = decoder.audio_prefix.has_speech(
        decoder.prompt, silence, torch.tensor([3, 2])
    )
    assert known.tolist() == [False, False]


@torch.no_grad()
def test_an_averaged_doubt_is_shared(sure):
    """A window that is half blank and one that is sure of the same word: 3/4 of it."""
    decoder, sounds = sure
    decoder.audio_prefix.ctc.scale.fill_(1.0)
    words = decoder.audio_prefix.posteriors.table[-60:]
    half = (
        sounds[5] * 100.001 / (sounds[5] @ words[5])
    )  # the word's logit is the blank's
    seen, counts = view(decoder, torch.stack([half, half * 3])[None], 2)
    assert counts == [1]
    expected = 0.75 * decoder.lm.embedding.weight[decoder.lm.vocab_size - 55]
    torch.testing.assert_close(seen[0, 0], expected, atol=1e-3, rtol=1e-3)


def test_the_table_is_frozen_and_what_is_trained_gets_gradients(decoder):
    audio = torch.randn(2, 5, WIDTH, requires_grad=True)
    view(decoder, audio, 5, 5)[0].square().sum().backward()
    assert audio.grad.abs().sum() > 0
    assert decoder.audio_prefix.posteriors.table.grad is None
    assert decoder.audio_prefix.ctc.scale.grad.abs() > 0


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("where", ["before", "aligned"])
def test_a_canvas_is_the_same_with_a_copy_head_however_little_is_asked(
    lm, tiny_whisper, where, cached
):
    decoder = copying(lm, tiny_whisper, "bidirectional", where, cached_prefix=cached)
    batch = decoder.prefix(torch.randn(3, 9, WIDTH), torch.tensor([9, 3, 5]))
    prefix, lengths = batch.rows(range(3)), torch.tensor([6, 4, 3])
    logits_fn = decoder.passes(decoder, batch, lengths)
    for rows in ([0, 1, 2], [1, 2], [2]):
        tokens = torch.randint(3, 40, (3, 6))
        expected = decoder.canvas_logits(prefix, tokens, lengths)
        wanted = torch.arange(6) < lengths[:, None]
        wanted &= torch.isin(torch.arange(3), torch.tensor(rows))[:, None]
        logits = logits_fn(tokens, wanted)
        torch.testing.assert_close(logits, expected[wanted], atol=1e-4, rtol=1e-4)
    plain = replace(prefix, head=OutputHead(decoder.lm))
    unaided = decoder.canvas_logits(plain, tokens, lengths)
    assert (expected - unaided).abs().max() > 1, "the copy head is of account"


@torch.no_grad()
def test_greedy_search_with_a_copy_head_is_that_of_the_whole_sequence(lm, tiny_whisper):
    decoder = copying(lm, tiny_whisper, "causal", "aligned")
    prefix = decoder.prefix(torch.randn(2, 9, WIDTH), torch.tensor([9, 4]))
    prefix = prefix.rows(range(2))
    found = beam_search(decoder, prefix, max_tokens=6)
    text = torch.zeros(2, 0, dtype=torch.long)
    for i in range(int(found.passes.min())):
        sizes = torch.full((2,), text.shape[1])
        head, hidden = decoder.next_token_hidden(prefix, text, sizes)
        best = head.all_logits(hidden)[:, -1].argmax(dim=-1)
        assert best.tolist() == found.tokens[:, i].tolist()
        text = torch.cat([text, best[:, None]], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("where", ["before", "aligned"])
def test_audio_is_aligned_with_the_transcript_that_is_given(
    lm, tiny_whisper, sure, where
):
    """A word too many moves nothing behind it; the vectors stay what they are."""
    _, sounds = sure
    decoder = copying(lm, tiny_whisper, "bidirectional", where)
    for name, value in sure[0].audio_prefix.ctc.state_dict().items():
        decoder.audio_prefix.ctc.state_dict()[name].copy_(value)
    audio, lengths = sounds[[9, 3, 4, 5]][None], torch.tensor([4])
    counted = decoder.prefix(audio, lengths)
    (ids,) = counted.draft.ids
    given = decoder.prefix(audio, lengths, [ids[1:]])
    before, after = counted._embeddings(None), given._embeddings(None)
    counted, given = counted.rows([0]), given.rows([0])
    assert torch.equal(counted.embeds, given.embeds)
    assert before.places.tolist() == [[0, 1, 2, 3]]
    aligned = where == "aligned"
    assert after.places.tolist() == [[0, 0, 1, 2] if aligned else [0, 1, 2, 3]]
    assert torch.equal(counted.positions, given.positions) != aligned


def test_padding_has_no_speech(decoder, monkeypatch):
    blank = torch.tensor([[0.99, 0.05, 0.99], [0.99, 0.99, 0.01]]).log()
    none, lengths = torch.zeros(2, 3), torch.tensor([3, 2])
    windows = Windows(none.long(), none, blank, none.bool(), none[:0], lengths)
    prefix = decoder.audio_prefix
    monkeypatch.setattr(prefix.ctc, "windows", lambda *_: windows)
    known = prefix.has_speech(decoder.prompt, torch.zeros(2, 3, WIDTH), lengths)
    assert known.tolist() == [True, False]


@pytest.mark.parametrize("injected", [False, True])
def test_without_speech_the_lm_is_shown_simulated_posteriors(
    lm, tiny_whisper, injected
):
    options = {"text_injection": injected, "corrupt_tokens": 0.5}
    decoder = build(lm, tiny_whisper, posterior_prefix=options).train()
    text = torch.full((4, 5), 7)
    targets = Targets(text, torch.tensor([5, 5, 3, 1]))
    given = decoder.prompt, None, None, targets, range(4)
    step = decoder.audio_prefix.training_step(*given)
    assert step.extra is None
    prompt = len(decoder.prompt_ids)
    assert (step.prefix.valid.sum(dim=1) > prompt).any() == injected
    assert (step.targets.text != text).any() == injected, "some tokens are any others"
    loss = decoder.training_loss(None, None, targets, range(4))
    assert torch.isfinite(loss.mean)


def copying(lm, whisper, attention: str, where: str, **options) -> LMDecoder:
    """A decoder whose copy mechanism decides much."""
    prefix = {"copy_head": True}
    given = {"ctc": {"weight": 0.0}, "posterior_prefix": prefix, **options}
    decoder = build(lm, whisper, attention, where, **given)
    copy = decoder.audio_prefix.copy_head
    torch.nn.init.constant_(copy.strength.bias, 4.0)
    return decoder.eval()


def test_what_does_not_fit_is_refused(lm, tiny_lm, tiny_whisper):
    with pytest.raises(UserError, match="posterior_prefix needs ctc; give it a weight"):
        build(lm, tiny_whisper, ctc=None)
    with pytest.raises(UserError, match="posterior_prefix needs a Whisper; set post"):
        build(lm, None)
    with pytest.raises(UserError, match="whisper_scorer needs posterior_prefix; add"):
        build(lm, tiny_whisper, posterior_prefix=None, whisper_scorer={})
    with pytest.raises(UserError, match=f"{TOKENS_FILE}: not there"):
        build(tiny_lm, tiny_whisper)
    (lm / TOKENS_FILE).write_text("[3, 64]")
    with pytest.raises(UserError, match="do not fit vectors of width 16"):
        build(lm, tiny_whisper)
