"""Decoding and deliberating with a model that reads along a transcript."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from espnet_llada.extensions.whisper_scorer.reader import Reader, spelled

from espnet_llada.bench.meter import Meter
from espnet_llada.build import WhisperLLM
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.extensions import rescoring as rereading
from espnet_llada.extensions.rescoring import MARGIN
from espnet_llada.sweep.trace import trace
from espnet_llada.types import UserError

MEASURED = {"strategy": "deliberation_low_confidence", "measuring_passes": 0}
TEXTS = ["the quick brown", "fox jumps", "a dark and stormy night"]


@pytest.fixture
def model(word_lm, tiny_whisper) -> WhisperLLM:
    return build(word_lm, tiny_whisper, "llada", {"slots": 0.2})


@pytest.fixture
def llama(word_lm, tiny_whisper) -> WhisperLLM:
    return build(word_lm, tiny_whisper, "llama", {})


def build(word_lm, tiny_whisper, decoder: str, more: dict) -> WhisperLLM:
    torch.manual_seed(0)
    whisper = str(tiny_whisper)
    return WhisperLLM.from_config(
        {
            "encoder": "whisper_frozen",
            "encoder_conf": {"whisper": whisper, "pad_seconds": 0.0},
            "postencoder": "whisper_qformer",
            "postencoder_conf": {"whisper": whisper, "window": 4, "hand_on": True},
            "decoder": decoder,
            "decoder_conf": {
                "lm": str(word_lm),
                "chat_template": False,
                "ctc": {"weight": 1.0, "scale": 30.0},
                "projection": "words",
                "audio_positions": "beside",
                "pointer": True,
                "text_qformer": {"bottleneck": 4, "first_pass": 0.5},
                **more,
            },
        }
    ).eval()


@pytest.fixture
def speech() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [0.1 * random.normal(size=n).astype(np.float32) for n in (9000, 16000, 5000)]


def distance(one: list[int], other: list[int]) -> int:
    """Tokens that differ at the least; plain edit distance."""
    row = [*range(len(other) + 1)]
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(last + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def recognize(model, speech, texts=None, **options):
    recognizer = Recognizer(model, SamplerOptions(**options))
    return recognizer(speech, [f"u{i}" for i in range(len(speech))], texts)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "diffusion", "steps": 4, "positions_per_vector": 1.0},
        {"strategy": "mask_ctc", "steps": 3, "mask_below": 0.9, "refine": 1},
        {**MEASURED, "steps": 3, "mask_ratio": 0.5},
        {**MEASURED, "steps": 3, "mask_below": 0.9, "slots_below": 0.9},
        {
            **MEASURED,
            "steps": 3,
            "mask_below": 0.9,
            "second_opinion": True,
            "reader_weight": 0.5,
        },
        {"strategy": "mask_ctc", "steps": 3, "mask_below": 0.9, "slots_below": 0.5},
    ],
)
def test_an_utterance_does_not_depend_on_its_batch(model, speech, options):
    texts = TEXTS if "measuring_passes" in options else None
    together = recognize(model, speech, texts, **options)
    for i, waveform in enumerate(speech):
        recognizer = Recognizer(model, SamplerOptions(**options))
        given = None if texts is None else texts[i : i + 1]
        (alone,) = recognizer([waveform], [f"u{i}"], given)
        assert alone.token_ids == together[i].token_ids
        assert alone.passes == together[i].passes
        assert alone.score == pytest.approx(together[i].score, abs=1e-3)


def test_what_reading_along_finds_unlikely_is_masked_without_a_pass(model, speech):
    """The least likely third of the tokens, and nothing else, may change."""
    ids = model.decoder.encode_texts(TEXTS[:1])[0]
    frames = trace(
        Recognizer(model, SamplerOptions(**MEASURED, steps=9, mask_ratio=0.34)),
        speech[0],
        "u0",
        TEXTS[0],
    )[1]
    assert frames[0].kind == "masked" and frames[0].passes == 0
    masked = [i for i, cell in enumerate(frames[0].cells[:-1]) if not cell.token]
    with torch.no_grad():
        audio, sizes = model.encode(
            torch.from_numpy(speech[0])[None], torch.tensor([len(speech[0])])
        )
        heard = model.decoder.listen(audio, sizes, transcripts=[ids])
    sure = heard.draft.log_probs[0]
    least = sorted(range(len(ids)), key=sure.__getitem__)[: len(masked)]
    assert len(masked) == int(0.34 * len(ids)) > 0 and masked == sorted(least)
    kept = recognize(model, speech, TEXTS, **MEASURED, mask_below=1e-9)
    assert [h.passes for h in kept] == [0, 0, 0]
    assert [h.text for h in kept] == TEXTS


def test_with_slots_a_transcript_may_grow_and_shrink(model, speech):
    """A random LM that writes anything anywhere, beside one that keeps the length."""
    ids = model.decoder.encode_texts(TEXTS)
    options = {**MEASURED, "steps": 4, "mask_below": 1.0}
    fixed = recognize(model, speech, TEXTS, **options, tail=0)
    assert [len(h.token_ids) for h in fixed] == [len(row) for row in ids]
    free = recognize(model, speech, TEXTS, **options, tail=0, slots_below=1.0)
    assert [len(h.token_ids) for h in free] != [len(row) for row in ids]
    assert all(len(h.confidence) == len(h.token_ids) for h in free)
    kept = recognize(model, speech, TEXTS, **MEASURED, mask_below=1e-9, slots_below=1.0)
    assert [list(h.token_ids) for h in kept] == ids
    model.decoder.slots = 0.0
    with pytest.raises(UserError, match="train with 'slots' in decoder_conf"):
        Recognizer(model, SamplerOptions(**options, slots_below=0.5))


def test_a_slot_moves_what_stands_beside_the_text(model, speech):
    ids = model.decoder.encode_texts(TEXTS[:1])
    audio, sizes = model.encode(
        torch.from_numpy(speech[0])[None], torch.tensor([len(speech[0])])
    )
    plain = model.decoder.prefix(audio, sizes, transcripts=ids)
    slotted = model.decoder.listen(audio, sizes, transcripts=ids, slots_below=1.0)
    draft, slotted = slotted.draft.ids[0], slotted.prefix
    eos = model.decoder.special.eos
    there = [i for i, t in enumerate(draft) if t != eos]
    assert [draft[i] for i in there] == ids[0]
    assert there == [2 * i + 1 for i in range(len(ids[0]))], "one before each token"
    places = torch.tensor([*there, len(draft)])
    expected = places[plain.heard.places[0]]
    assert slotted.heard.places[0].tolist() == expected.tolist()
    torch.testing.assert_close(slotted.heard.vectors, plain.heard.vectors)


def judge(monkeypatch, value) -> None:
    """Have a text be as likely as value(row of the batch, text) says."""

    def likelihoods(_, texts):
        return [float(value(*pair)) for pair in texts]

    monkeypatch.setattr(Reader, "likelihoods", likelihoods)
    monkeypatch.setattr(Reader, "objections", lambda _, texts: [0.0] * len(texts))


def test_a_change_that_reading_finds_less_likely_is_taken_back(
    model, speech, monkeypatch
):
    """A random LM spoils half of the words; the judge likes high remainders."""
    ids = model.decoder.encode_texts(TEXTS)
    options = {"strategy": "deliberation_random", "mask_ratio": 0.5, "tail": 0}
    free = recognize(model, speech, TEXTS, **options)

    def value(row):  # more than the margin for each
        return 2 * MARGIN * sum(token % 7 for token in row)

    judge(monkeypatch, lambda _, text: value(text))
    checked = recognize(model, speech, TEXTS, **options, verify=True)
    kinds = set()
    for before, spoiled, found in zip(ids, free, checked, strict=True):
        triples = zip(before, spoiled.token_ids, found.token_ids, strict=True)
        for changed, run in itertools.groupby(triples, lambda t: t[0] != t[1]):
            old, new, now = zip(*run, strict=True)
            kept = not changed or value(new) > value(old)
            kinds.add((changed, kept))
            assert now == (new if kept else old)
        assert found.passes == spoiled.passes
    assert kinds >= {(True, True), (True, False)}


@pytest.mark.parametrize("trusted", ["reader", "first pass", "nobody"])
@pytest.mark.parametrize(
    "options", [{**MEASURED, "mask_below": 0.9}, {"strategy": "mask_ctc"}]
)
def test_a_second_opinion_counts_where_the_audio_speaks_for_it(
    model, speech, trusted, options, monkeypatch
):
    """What the reader spells itself, change by change, where it is much surer of it."""
    texts = TEXTS if options in [{**MEASURED, "mask_below": 0.9}] else None
    before = recognize(model, speech, texts, **options, steps=3)
    own = []
    for waveform in speech:
        given = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
        with torch.no_grad():
            reader = model.decoder.reader(model.encode(*given)[0])
            own += spelled(reader, 1, 5)[0]
    # So small a reader never ends by itself.
    monkeypatch.setattr(
        rereading, "spelled", lambda reader, rows, _: spelled(reader, rows, 5)
    )
    kept = [list(h.token_ids) for h in before]
    liked = {"reader": own, "first pass": kept}.get(trusted)
    judge(
        monkeypatch,
        lambda row, text: 0.0 if liked is None else -2.1 * distance(liked[row], text),
    )
    found = recognize(model, speech, texts, **options, steps=3, second_opinion=True)
    expected = kept if liked is None else liked
    assert [list(h.token_ids) for h in found] == expected
    for with_it, without in zip(found, before, strict=True):
        assert with_it.passes == without.passes
        assert len(with_it.confidence) == len(with_it.token_ids)
        if with_it.token_ids == without.token_ids:
            assert with_it.confidence == without.confidence


def test_a_text_that_the_reader_does_not_end_is_no_opinion(model, speech, monkeypatch):
    options = {**MEASURED, "steps": 3, "mask_below": 0.9, "canvas_length": 1}
    before = recognize(model, speech, TEXTS, **options)
    judge(monkeypatch, lambda row, text: -9.0 * len(text))  # the shorter the better
    found = recognize(model, speech, TEXTS, **options, second_opinion=True)
    assert [h.token_ids for h in found] == [h.token_ids for h in before]
    assert [h.confidence for h in found] == [h.confidence for h in before]


def test_a_second_opinion_is_shown_at_the_end(model, speech):
    options = {**MEASURED, "steps": 3, "mask_below": 0.9, "second_opinion": True}
    run = Recognizer(model, SamplerOptions(**options))
    hypothesis, frames = trace(run, speech[1], "u1", TEXTS[1])
    words = [cell.token for cell in frames[-1].cells if cell.token and not cell.end]
    assert tuple(words) == hypothesis.tokens
    assert frames[-1].passes == hypothesis.passes


def test_the_likelihood_of_a_text_is_that_of_each_token_and_the_end(model, speech):
    ids = model.decoder.encode_texts(TEXTS[:1])
    audio, sizes = model.encode(
        torch.from_numpy(speech[0])[None], torch.tensor([len(speech[0])])
    )
    own = model.decoder.listen(audio, sizes, transcripts=ids).draft.log_probs[0]
    reader = model.decoder.reader(audio)
    (whole,) = reader([0], ids)
    end = whole.log_probs[-1, model.decoder.special.eos]
    assert whole.value == pytest.approx(sum(own) + end.item(), abs=1e-4)


def test_a_model_that_reads_once_is_told(model):
    model.decoder.text_qformer = None
    for options in ({**MEASURED}, {"strategy": "mask_ctc", "refine": 1}):
        with pytest.raises(UserError, match="train with 'text_qformer'"):
            Recognizer(model, SamplerOptions(**options))


def test_a_reader_that_was_trained_alone_transcribes_nothing(model):
    model.decoder.text_qformer.only = True
    with pytest.raises(UserError, match="was trained alone"):
        Recognizer(model, SamplerOptions())


def test_without_audio_nothing_reads_along(model):
    with pytest.raises(
        UserError, match="measuring_passes 0: without audio a model does not read along"
    ):
        Recognizer(model, SamplerOptions(**MEASURED), use_audio=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**MEASURED, "refine": 1}, "deliberation has no draft of its own"),
    ],
)
def test_a_second_opinion_is_of_deliberation(options, message):
    with pytest.raises(UserError, match=message):
        SamplerOptions(**options)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_joint_search_writes_what_is_read_along_its_own_text(
    llama, speech, beam_size
):
    """With all the weight on the reader its most probable tokens, one by one."""
    options = {"canvas_length": 6, "beam_size": beam_size}
    alone = recognize(llama, speech, **options)
    found = recognize(llama, speech, **options, reader_weight=1e4)
    special, decoder = llama.decoder.special, llama.decoder
    for i, waveform in enumerate(speech):
        (own,) = recognize(llama, [waveform], **options, reader_weight=1e4)
        assert own.token_ids == found[i].token_ids, "whatever the batch"
        if beam_size > 1:
            continue
        given = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
        with torch.no_grad():
            reader = decoder.reader(llama.encode(*given)[0])
            text = []
            while len(text) < 6:
                (read,) = reader([0], [text])
                if (token := int(read.log_probs[-1].argmax())) == special.eos:
                    break
                text.append(token)
        assert list(found[i].token_ids) == text
    assert [h.token_ids for h in alone] != [h.token_ids for h in found]


@pytest.mark.parametrize("strategy", ["diffusion", "mask_ctc", "semi_ar"])
def test_masked_diffusion_writes_jointly_what_the_reader_hears(model, speech, strategy):
    """With all the weight on the reader; rows do not depend on one another."""
    options = {"strategy": strategy, "steps": 4, "canvas_length": 6, "mask_ratio": 1.0}
    together = recognize(model, speech, **options, reader_weight=1e4)
    alone = recognize(model, speech, **options)
    assert [h.token_ids for h in alone] != [h.token_ids for h in together]
    for i, waveform in enumerate(speech):
        (own,) = recognize(model, [waveform], **options, reader_weight=1e4)
        assert own.token_ids == together[i].token_ids
        assert own.passes == together[i].passes
        given = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
        with torch.no_grad():
            reader = model.decoder.reader(model.encode(*given)[0])
            (spelt,), _ = spelled(reader, 1, 1)
        assert list(own.token_ids[:1]) == spelt


def test_a_bench_sees_what_reading_takes(model, speech):
    options = {"strategy": "mask_ctc", "steps": 3, "mask_below": 0.9, "refine": 1}
    model.requires_grad_(False)  # torch's FLOP counter stumbles over parameters
    with Meter(model, count_flops=True) as meter:
        recognize(model, speech, **options)
    assert meter.seconds["reading"] > 0 and meter.flops["reading"] > 0
    assert meter.calls["reading"] >= 2
