"""The projection by way of words."""

from __future__ import annotations

import pytest
import torch
from espnet_llada.core.decoder import LMDecoder
from espnet_llada.extensions.posterior_prefix.words import TOKENS_FILE
from safetensors.torch import load_file

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.io.weights import resolve
from espnet_llada.types import UserError

WIDTH = 16  # of tiny_whisper


@pytest.fixture
def lm(word_lm):
    return word_lm


@pytest.fixture
def decoder(lm, tiny_whisper) -> LMDecoder:
    torch.manual_seed(0)
    return build(lm, tiny_whisper).eval()


def build(lm, whisper, **options) -> LMDecoder:
    given = {"ctc": {"weight": 1.0}, "projection": "words", **options}
    weights = resolve(whisper, "whisper")
    return LMDecoder(WIDTH, "causal", weights, lm=str(lm), chat_template=False, **given)


@pytest.fixture
def sure(decoder, tiny_whisper):
    """The decoder, certain of what it hears; and what sounds like each of its words."""
    words = load_file(tiny_whisper / "model.safetensors")["decoder.embed_tokens.weight"]
    with torch.no_grad():
        decoder.ctc.blank.weight.zero_()
        decoder.ctc.blank.bias.fill_(100.0)
        decoder.ctc.scale.fill_(1e4)
    sounds = words[2:62] / words[2:62].norm(dim=-1, keepdim=True)
    return decoder, sounds  # the products of a word with itself win


def view(decoder, audio, *lengths):
    prompt = len(decoder.prompt_ids)
    prefix = decoder.prefix(audio, torch.tensor(lengths))
    return prefix.embeds[:, prompt:], prefix.valid[:, prompt:].sum(dim=1).tolist()


@torch.no_grad()
def test_a_word_that_is_heard_arrives_as_the_lms_embedding_of_it(sure):
    decoder, sounds = sure
    first = decoder.lm.vocab_size - 60
    silence = torch.zeros(WIDTH)
    # A word in two windows is one word; with silence between, it was said twice.
    audio = torch.stack([silence, sounds[5], sounds[5], silence, sounds[5], sounds[58]])
    heard = [first + 5, first + 5, first + 58]
    listened = decoder.listen(audio[None], torch.tensor([6]), draft=True)
    assert listened.draft.ids == [heard]
    seen, counts = view(decoder, audio[None], 6)
    assert counts == [3]
    torch.testing.assert_close(seen[0], decoder.lm.embedding.weight[heard])


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
    assert view(decoder, torch.zeros(2, 3, WIDTH), 3, 2)[1] == [0, 0]


@torch.no_grad()
def test_an_averaged_doubt_is_shared(sure):
    """A window that is half blank and one that is sure of the same word: 3/4 of it."""
    decoder, sounds = sure
    decoder.ctc.scale.fill_(1.0)
    words = decoder.projection.words[-60:]
    half = (
        sounds[5] * 100.001 / (sounds[5] @ words[5])
    )  # the word's logit is the blank's
    seen, counts = view(decoder, torch.stack([half, half * 3])[None], 2)
    assert counts == [1]
    expected = 0.75 * decoder.lm.embedding.weight[decoder.lm.vocab_size - 55]
    torch.testing.assert_close(seen[0, 0], expected, atol=1e-3, rtol=1e-3)


def test_words_are_frozen_and_what_is_trained_gets_gradients(decoder):
    audio = torch.randn(2, 5, WIDTH, requires_grad=True)
    view(decoder, audio, 5, 5)[0].square().sum().backward()
    assert audio.grad.abs().sum() > 0
    assert decoder.projection.words.grad is None
    assert decoder.ctc.scale.grad.abs() > 0


@torch.no_grad()
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("where", ["before", "beside"])
def test_a_canvas_is_the_same_with_the_pointer_however_little_is_asked(
    lm, tiny_whisper, where, blind
):
    decoder = pointing(lm, tiny_whisper, "bidirectional", where, prefix_blind=blind)
    heard = decoder.listen(torch.randn(3, 9, WIDTH), torch.tensor([9, 3, 5]))
    prefix, lengths = heard.prefix, torch.tensor([6, 4, 3])
    logits_fn = decoder.logits_fn(heard, lengths)
    for rows in ([0, 1, 2], [1, 2], [2]):
        tokens = torch.randint(3, 40, (3, 6))
        expected = decoder.canvas_logits(prefix, tokens, lengths)
        wanted = torch.arange(6) < lengths[:, None]
        wanted &= torch.isin(torch.arange(3), torch.tensor(rows))[:, None]
        logits = logits_fn(tokens, wanted)
        torch.testing.assert_close(logits, expected[wanted], atol=1e-4, rtol=1e-4)
    decoder.pointer = None
    unaided = decoder.canvas_logits(prefix, tokens, lengths)
    assert (expected - unaided).abs().max() > 1, "the pointer is of account"


@torch.no_grad()
def test_greedy_search_with_the_pointer_is_that_of_the_whole_sequence(lm, tiny_whisper):
    decoder = pointing(lm, tiny_whisper, "causal", "beside")
    prefix = decoder.prefix(torch.randn(2, 9, WIDTH), torch.tensor([9, 4]))
    found = beam_search(decoder, prefix, max_tokens=6)
    text = torch.zeros(2, 0, dtype=torch.long)
    for i in range(int(found.passes.min())):
        sizes = torch.full((2,), text.shape[1])
        best = decoder.next_token_logits(prefix, text, sizes)[:, -1].argmax(dim=-1)
        assert best.tolist() == found.tokens[:, i].tolist()
        text = torch.cat([text, best[:, None]], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("where", ["before", "beside"])
def test_audio_stands_beside_the_transcript_that_is_given(
    lm, tiny_whisper, sure, where
):
    """A word too many moves nothing behind it; the vectors stay what they are."""
    _, sounds = sure
    decoder = pointing(lm, tiny_whisper, "bidirectional", where)
    for name, value in sure[0].ctc.state_dict().items():
        decoder.ctc.state_dict()[name].copy_(value)
    audio, lengths = sounds[[9, 3, 4, 5]][None], torch.tensor([4])
    listened = decoder.listen(audio, lengths, draft=True)
    counted, (ids,) = listened.prefix, listened.draft.ids
    aligned = decoder.prefix(audio, lengths, transcripts=[ids[1:]])
    assert torch.equal(counted.embeds, aligned.embeds)
    assert counted.heard.places.tolist() == [[0, 1, 2, 3]]
    beside = where == "beside"
    assert aligned.heard.places.tolist() == [[0, 0, 1, 2] if beside else [0, 1, 2, 3]]
    assert torch.equal(counted.positions, aligned.positions) != beside


def pointing(lm, whisper, attention: str, where: str, **options) -> LMDecoder:
    """A decoder whose pointer decides much."""
    torch.manual_seed(0)
    decoder = LMDecoder(
        WIDTH,
        attention,
        resolve(whisper, "whisper"),
        lm=str(lm),
        chat_template=False,
        ctc={"weight": 0.0},
        projection="words",
        audio_positions=where,
        pointer=True,
        **options,
    )
    torch.nn.init.constant_(decoder.pointer.strength.bias, 4.0)
    return decoder.eval()


def test_what_does_not_fit_is_refused(lm, tiny_lm, tiny_whisper):
    for option in ("pointer", "misheard"):
        with pytest.raises(UserError, match=f"{option}: True needs projection: words"):
            build(lm, tiny_whisper, projection="linear", **{option: True})
    with pytest.raises(UserError, match="projection: words needs ctc"):
        build(lm, tiny_whisper, ctc=None)
    options = {"lm": str(lm), "ctc": {}, "projection": "words"}
    with pytest.raises(UserError, match="projection: words needs a Whisper; set post"):
        LMDecoder(WIDTH, "causal", None, **options)
    with pytest.raises(UserError, match=f"{TOKENS_FILE}: not there"):
        build(tiny_lm, tiny_whisper)
    (lm / TOKENS_FILE).write_text("[3, 64]")
    with pytest.raises(UserError, match="do not fit vectors of width 16"):
        build(lm, tiny_whisper)
