"""The published sampler against a plain account of what the published loops do.

One row, lists, no sharing between strategies: written from the description of the
release's behaviour, so that it fails for other reasons than ours. The fake LM answers
with EOS and with the mask token often.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.build import build_model
from espnet_llada.core.canvas import Canvas, blank_canvas, transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.release.sampler import sample
from espnet_llada.sweep.trace import trace
from espnet_llada.types import SpecialTokens, UserError

VOCAB, MASK, EOS = 9, 8, 7
SPECIAL = SpecialTokens(mask=MASK, eos=EOS)
LOW = {"strategy": "deliberation_low_confidence"}
RANDOM = {"strategy": "deliberation_random"}


class FakeLM:
    def __init__(self, seed: int, eos: float, mask: float):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(VOCAB, 40, VOCAB, generator=generator)
        self.table[..., EOS] += eos
        self.table[..., MASK] += mask
        self.calls = 0

    def __call__(self, tokens: torch.Tensor, wanted=None) -> torch.Tensor:
        self.calls += 1
        places = torch.arange(tokens.shape[1])
        # EOS counts 0, as padding behind a row is hidden from a real LM.
        context = (tokens % EOS * (places + 1)).sum(dim=1) % VOCAB
        logits = self.table[tokens, places] + self.table[context, 0][:, None] * 0.3
        return logits if wanted is None else logits[wanted]

    def answers(self, x: list[int]) -> list[tuple[float, int]]:
        """(probability, token) of the best answer at each position."""
        best = self(torch.tensor([x]))[0].softmax(dim=-1).max(dim=-1)
        return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))


def quotas(masked: int, steps: int) -> list[int]:
    return [masked // steps + (i < masked % steps) for i in range(steps)]


def surest(answers, candidates: list[int], count: int) -> list[int]:
    return sorted(candidates, key=lambda i: -answers[i][0])[:count]


def masks(x: list[int]) -> list[int]:
    return [i for i, token in enumerate(x) if token == MASK]


def decode(lm: FakeLM, length: int, steps: int, blocks: int) -> list[int]:
    x, size, stop = [MASK] * length, length // blocks, False
    for block in range(blocks):
        end = (block + 1) * size
        mine = [i for i in masks(x) if end - size <= i < end]
        for count in quotas(len(mine), steps // blocks):
            if not masks(x):
                stop = True
                break
            answers = lm.answers(x)
            chosen = surest(answers, [i for i in masks(x) if i < end], count)
            for i in chosen:
                x[i] = answers[i][1]
            ends = [i for i in chosen if x[i] == EOS]
            if ends:
                x[min(ends) :] = [EOS] * (length - min(ends))
                stop = True
        if stop:
            break
    return x


def fill(lm: FakeLM, x: list[int], steps: int) -> list[int]:
    for count in quotas(len(masks(x)), steps):
        if not masks(x):
            break
        answers = lm.answers(x)
        for i in surest(answers, masks(x), count):
            x[i] = answers[i][1]
    return x


def deliberate(lm: FakeLM, given: list[int], steps: int, ratio: float) -> list[int]:
    count = int(len(given) * ratio)
    if not count:
        return list(given)  # the release divides by zero
    table = lm(torch.tensor([[EOS] * len(given)]))[0].softmax(dim=-1)
    doubt = sorted(range(len(given)), key=lambda i: float(table[i, given[i]]))[:count]
    x = [MASK if i in doubt else token for i, token in enumerate(given)]
    return fill(lm, x, min(steps, count))


def sub_blocks(lm: FakeLM, given: list[int], steps: int, num: int) -> list[int]:
    x, size = list(given), len(given) // num
    if steps // num == 0:
        return x  # the release divides by zero
    for i in range(num):
        end = len(x) if i == num - 1 else (i + 1) * size
        filled = x[: i * size] + [MASK] * (end - i * size) + x[end:]
        filled = fill(lm, filled, steps // num)
        x[i * size : end] = filled[i * size : end]
    return x


lms = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from([-5.0, 0.0, 1.0]),
    st.sampled_from([-5.0, 0.5]),
)
transcripts = st.lists(st.integers(0, 6), min_size=1, max_size=14)
many = settings(max_examples=300, deadline=None)


def same(lm_seed, options, canvas, expected) -> None:
    ours, plain = FakeLM(*lm_seed), FakeLM(*lm_seed)
    result = sample(ours, canvas, options, SPECIAL)
    assert result.tokens[0].tolist() == expected(plain)
    assert int(result.passes) == ours.calls == plain.calls


@many
@given(lms, st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 8))
def test_decoding(lm, blocks, size, passes):
    length, steps = blocks * size, blocks * passes
    options = ReleaseSamplerOptions(
        "semi_ar",
        steps=steps,
        canvas_length=length,
        num_blocks=blocks,
    )
    canvas = blank_canvas([length], SPECIAL)
    same(lm, options, canvas, lambda plain: decode(plain, length, steps, blocks))


@many
@given(lms, transcripts, st.integers(1, 20), st.floats(0, 1))
def test_low_confidence_deliberation(lm, given, steps, ratio):
    options = ReleaseSamplerOptions(
        "deliberation_low_confidence",
        steps=steps,
        mask_ratio=ratio,
    )
    canvas = transcript_canvas([given], SPECIAL)
    same(lm, options, canvas, lambda plain: deliberate(plain, given, steps, ratio))


@many
@given(lms, transcripts, st.integers(1, 20), st.integers(1, 8))
def test_semi_ar_deliberation(lm, given, steps, num):
    options = ReleaseSamplerOptions(
        "deliberation_semi_ar",
        steps=steps,
        num_blocks=num,
    )
    canvas = transcript_canvas([given], SPECIAL)
    same(lm, options, canvas, lambda plain: sub_blocks(plain, given, steps, num))


def test_a_sure_eos_cuts_off_what_the_model_still_expects():
    def model(tokens, wanted):
        logits = torch.zeros(1, 5, VOCAB)
        logits[0, [0, 1, 2, 3, 4], [1, 2, 3, EOS, EOS]] = 6.0
        logits[0, 0, EOS] = 12.0
        return logits[wanted]

    options = ReleaseSamplerOptions(steps=5)
    result = sample(model, blank_canvas([5], SPECIAL), options, SPECIAL)
    assert result.tokens.tolist() == [[EOS] * 5] and result.passes.tolist() == [1]
    assert (result.log_probs[0, 0] < 0) and not result.log_probs[0, 1:].any()


@settings(max_examples=100, deadline=None)
@given(
    lms,
    st.lists(transcripts, min_size=1, max_size=4),
    st.sampled_from(
        [
            {"strategy": "diffusion"},
            {**RANDOM, "mask_ratio": 0.7},
            {**LOW, "mask_ratio": 0.5},
            {"strategy": "deliberation_semi_ar", "num_blocks": 2},
        ]
    ),
    st.sampled_from([0.0, 0.8]),
    st.sampled_from(["confidence", "random"]),
    st.integers(1, 9),
)
def test_a_batch_is_its_rows_one_by_one(lm, texts, given, temperature, how, steps):
    how = {"temperature": temperature, "remasking": how, "steps": steps}
    options, seen = ReleaseSamplerOptions(**given, **how), []
    canvas = transcript_canvas(texts, SPECIAL)
    if not options.deliberates:
        canvas = blank_canvas([6] * len(texts), SPECIAL)
    seeds, asks = range(len(texts)), (canvas, options, SPECIAL)
    together = sample(FakeLM(*lm), *asks, seeds, seen.append)
    for row, n in enumerate(canvas.lengths.tolist()):
        one = Canvas(canvas.tokens[row : row + 1, :n], canvas.lengths[row : row + 1])
        alone = sample(FakeLM(*lm), one, options, SPECIAL, [seeds[row]])
        assert together.tokens[row, :n].tolist() == alone.tokens[0].tolist()
        assert torch.equal(together.log_probs[row, :n], alone.log_probs[0])
        assert together.passes[row] == alone.passes[0]
        own = [p for p in seen if p.rows[row]]
        assert len(own) == alone.passes[0]
        if own:
            assert own[-1].committed.shape == canvas.tokens.shape
            assert not own[-1].committed[torch.arange(len(texts)) != row].any()
        if own and options.strategy != "deliberation_semi_ar":  # it takes back
            assert own[-1].tokens[row].tolist() == together.tokens[row].tolist()


REFUSED = [
    ({"mask_ctc": {}}, "mask_ctc: the release .* has no extensions; leave it out"),
    ({"canvas_size": {"tokens_per_second": 6.0}}, "canvas_size: the release"),
    ({**LOW, "confidence": {"passes": 2}}, "confidence: the release"),
    ({**RANDOM, "placeholders": {}}, "placeholders: the release"),
    ({**RANDOM, "rescoring": {}}, "rescoring: the release"),
    ({"block_cache": True}, "block_cache: the release"),
    ({"draft_refinement": {"rounds": 2}}, "draft_refinement: the release"),
    ({"joint": {"weight": 0.3}}, "joint: the release"),
    ({"threshold": 0.9}, "threshold: 0.9 .* the release has a fixed schedule"),
    ({**RANDOM, "tail": 1}, "tail: 1 .* 0: the release keeps the length"),
    (
        {"strategy": "semi_ar", "canvas_length": 9, "num_blocks": 2},
        "num_blocks: 2 .* a divisor of canvas_length 9 and of steps 32",
    ),
    ({"steps": 0}, "steps: 0 does not fit"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_the_published_code_has_not_got_is_refused(given, message):
    with pytest.raises(UserError, match=message) as e:
        make_options({"profile": "release", **given})
    assert "\n" not in str(e.value)


def test_profiles_are_known_by_name():
    assert type(make_options({"profile": "default"}).sampler) is SamplerOptions
    options = make_options({"profile": "release", **LOW, "steps": 1}).sampler
    assert type(options) is ReleaseSamplerOptions
    assert options.tail == 0 and dataclasses.asdict(options)["profile"] == "release"
    for bad, message in (
        ("relase", "profile: 'relase' does not fit; allowed: default, release"),
        (None, "profile: None does not fit"),
        (["release"], "profile: .'release'. does not fit"),
    ):
        with pytest.raises(UserError, match=message):
            make_options({"profile": bad})


@pytest.mark.parametrize("given", [{"canvas_length": 8}, LOW])
def test_a_recognizer_has_the_sampler_of_its_options(tiny_config, given):
    torch.manual_seed(0)
    model = build_model(tiny_config)
    run = Transcriber(model, make_options({"profile": "release", **given}))
    assert run.recognizer.stages.fill is sample
    waveform = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    text = "the quick brown fox" if run.options.deliberates else None
    texts = text and [text] * 2
    # In silence, too, it hears words.
    assert all(h.passes > 0 for h in run([waveform, waveform * 0], ["u", "v"], texts))
    (alone,) = run([waveform], ["u"], texts and texts[:1])
    hypothesis, frames = trace(run, waveform, "u", text)
    assert hypothesis == alone
    passes = [frame for frame in frames if frame.kind != "masked"]
    assert [frame.passes for frame in passes] == list(range(1, alone.passes + 1))
    assert (frames[0].kind == "measured") == (text is not None)
