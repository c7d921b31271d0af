"""profile: release against a plain account of what the published loops do.

One row, lists, no sharing between strategies: written from the description of the
release's behaviour, so that it fails for other reasons than ours. The fake LM answers
with EOS and with the mask token often.
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.core.canvas import blank_canvas, transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.types import SpecialTokens

VOCAB, MASK, EOS = 9, 8, 7
SPECIAL = SpecialTokens(mask=MASK, eos=EOS)


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
        context = (tokens * (places + 1)).sum(dim=1) % VOCAB
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
    options = SamplerOptions(
        "semi_ar",
        steps=steps,
        canvas_length=length,
        num_blocks=blocks,
        tail=0,
        profile="release",
    )
    canvas = blank_canvas([length], SPECIAL)
    same(lm, options, canvas, lambda plain: decode(plain, length, steps, blocks))


@many
@given(lms, transcripts, st.integers(1, 20), st.floats(0, 1))
def test_low_confidence_deliberation(lm, given, steps, ratio):
    options = SamplerOptions(
        "deliberation_low_confidence",
        steps=steps,
        mask_ratio=ratio,
        tail=0,
        profile="release",
    )
    canvas = transcript_canvas([given], SPECIAL)
    same(lm, options, canvas, lambda plain: deliberate(plain, given, steps, ratio))


@many
@given(lms, transcripts, st.integers(1, 20), st.integers(1, 8))
def test_semi_ar_deliberation(lm, given, steps, num):
    options = SamplerOptions(
        "deliberation_semi_ar",
        steps=steps,
        num_blocks=num,
        tail=0,
        profile="release",
    )
    canvas = transcript_canvas([given], SPECIAL)
    same(lm, options, canvas, lambda plain: sub_blocks(plain, given, steps, num))
