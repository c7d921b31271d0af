"""Properties of the one denoising loop, on a 20-line fake LM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.core.canvas import blank_canvas, transcript_canvas
from espnet_llada.core.masking import Block, Plan
from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.core.sampler import ends, sample
from espnet_llada.types import SpecialTokens

VOCAB, SPECIAL = 12, SpecialTokens(mask=11, eos=10)


class FakeLM:
    """Logits of a row are a fixed function of that row's own tokens."""

    def __init__(self, eos_bias: float = 0.0):
        g = torch.Generator().manual_seed(5)
        self.table = torch.randn(VOCAB, 40, VOCAB, generator=g, dtype=torch.float64)
        self.table[..., SPECIAL.eos] += eos_bias
        self.calls = 0

    def __call__(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        assert tokens.dtype == torch.long
        self.calls += 1
        places = torch.arange(tokens.shape[1])
        # Integer sums: what a row sees of itself, exact whatever the batch; EOS
        # counts 0, as padding behind a row is hidden from a real LM.
        context = (tokens % SPECIAL.eos * (places + 1)).sum(1) % VOCAB
        logits = self.table[tokens, places] + self.table[context, 0][:, None] * 0.3
        return logits.float()[wanted]


options_st = st.builds(
    SamplerOptions,
    strategy=st.sampled_from(STRATEGIES),
    steps=st.integers(2, 12),
    num_blocks=st.integers(1, 6),
    mask_ratio=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 0.7]),
    remasking=st.sampled_from(["confidence", "random"]),
    tail=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 0.3]),
)
words_st = st.lists(st.integers(0, 9), max_size=12)
transcripts_st = st.lists(words_st, min_size=1, max_size=5)


def start(options: SamplerOptions, transcripts: list[list[int]]):
    if options.deliberates:
        return transcript_canvas(transcripts, SPECIAL, options.tail)
    return blank_canvas([14] * len(transcripts), SPECIAL)


def text(tokens: list[int]) -> list[int]:
    end = tokens.index(SPECIAL.eos) if SPECIAL.eos in tokens else len(tokens)
    return tokens[:end]


@settings(max_examples=150, deadline=None)
@given(options_st, transcripts_st, st.sampled_from([0.0, 2.0]))
def test_everything_is_filled_within_the_budget(options, transcripts, eos_bias):
    model = FakeLM(eos_bias)
    result = sample(model, start(options, transcripts), options, SPECIAL)
    assert (result.tokens != SPECIAL.mask).all()
    assert result.passes.max() <= model.calls <= options.steps
    assert result.passes.sum() >= model.calls  # no pass without a row that needs it
    assert (result.log_probs <= 0).all()


@settings(max_examples=150, deadline=None)
@given(options_st, transcripts_st, st.data())
def test_a_row_does_not_depend_on_its_batch(options, transcripts, data):
    seeds = [100 + i for i in range(len(transcripts))]
    canvas = start(options, transcripts)
    together = sample(FakeLM(1.0), canvas, options, SPECIAL, seeds)
    row = data.draw(st.integers(0, len(transcripts) - 1))
    single = start(options, [transcripts[row]])
    alone = sample(FakeLM(1.0), single, options, SPECIAL, [seeds[row]])
    n = int(single.lengths)
    assert together.tokens[row, :n].tolist() == alone.tokens[0, :n].tolist()
    assert together.passes[row] == alone.passes[0]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["deliberation_random", "deliberation_low_confidence"]),
    st.floats(0, 1),
    st.lists(words_st.filter(len), min_size=1, max_size=4),
)
def test_frozen_positions_never_change(strategy, ratio, transcripts):
    options = SamplerOptions(strategy=strategy, mask_ratio=ratio, steps=4, tail=1)
    canvas = transcript_canvas(transcripts, SPECIAL, options.tail)
    seen = []

    def spy(tokens, wanted):
        seen.append(tokens.clone())
        return FakeLM(3.0)(tokens, wanted)

    result = sample(spy, canvas, options, SPECIAL, range(len(transcripts)))
    if not seen:
        assert all(int(len(t) * ratio) == 0 for t in transcripts)
        assert torch.equal(result.tokens, canvas.tokens)
        return
    measured = strategy == "deliberation_low_confidence"
    assert len(seen) > measured  # the measuring pass comes first, on its own canvas
    frozen = seen[measured] != SPECIAL.mask
    for tokens in [*seen[measured:], result.tokens]:
        assert torch.equal(tokens[frozen], canvas.tokens[frozen])
    # An EOS never cuts off a frozen word.
    for row, keep in zip(result.tokens.tolist(), frozen.tolist(), strict=True):
        kept = [i for i, k in enumerate(keep) if k and row[i] != SPECIAL.eos]
        assert not kept or len(text(row)) > max(kept)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_seed_gives_the_same_tokens_and_another_seed_others(strategy):
    options = SamplerOptions(strategy=strategy, steps=6, temperature=1.0, num_blocks=2)
    canvas = start(options, [[1, 2, 3, 4, 5, 6, 7, 8]] * 2)
    runs = [
        sample(FakeLM(-9), canvas, options, SPECIAL, seeds).tokens.tolist()
        for seeds in ([1, 2], [1, 2], [3, 4])
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_diffusion_commits_the_surest_position_first():
    canvas = blank_canvas([3], SPECIAL)
    order = []

    def model(tokens, wanted):
        order.append((tokens[0] == SPECIAL.mask).tolist())
        logits = torch.zeros(1, 3, VOCAB)
        logits[0, 0, 4], logits[0, 1, 5], logits[0, 2, 6] = 2.0, 9.0, 5.0
        return logits[wanted]

    result = sample(model, canvas, SamplerOptions(steps=3), SPECIAL)
    assert order == [[True, True, True], [True, False, True], [True, False, False]]
    assert result.tokens.tolist() == [[4, 5, 6]]


def test_a_budget_beyond_the_canvas_is_that_of_the_canvas():
    canvas = blank_canvas([3, 2], SPECIAL)
    largest, enough = (
        sample(FakeLM(-9), canvas, SamplerOptions(steps=steps), SPECIAL)
        for steps in (2**31 - 1, 3)
    )
    assert largest.tokens.tolist() == enough.tokens.tolist()
    assert largest.passes.tolist() == enough.passes.tolist() == [3, 2]


def test_a_threshold_commits_what_is_sure_at_once():
    def model(tokens, wanted):
        logits = torch.full((1, 4, VOCAB), -9.0)
        logits[0, 0, 4] = logits[0, 2, 6] = 9.0  # surely
        logits[0, 1, [4, 5]] = logits[0, 3, [7, 8]] = torch.tensor([0.0, 1.0])  # 0.73
        return logits[wanted]

    def passes(**given) -> int:
        options = SamplerOptions(steps=4, **given)
        result = sample(model, blank_canvas([4], SPECIAL), options, SPECIAL)
        assert result.tokens.tolist() == [[4, 5, 6, 8]]
        return int(result.passes)

    assert passes() == 4
    assert passes(threshold=0.9) == 3  # two at once, then one for each pass
    assert passes(threshold=0.7) == 1


def test_what_a_processor_settles_is_committed_at_once():
    """However few positions the budget has for a pass; then the surest are left."""
    first, found = torch.tensor([[True, False, True, False, True]]), []

    def process(tokens, masked, log_probs):
        return log_probs, first & masked

    def committed(done):
        found.append(done.committed[0].nonzero()[:, 0].tolist())

    given = blank_canvas([5], SPECIAL), SamplerOptions(steps=5), SPECIAL
    sample(FakeLM(-9), *given, on_pass=committed, process=process)
    assert found[0] == [0, 2, 4] and sorted(found[1:]) == [[1], [3]]


def test_semi_ar_goes_left_to_right_and_stops_at_eos():
    seen = []

    def model(tokens, wanted):
        seen.append(tokens[0].tolist())
        logits = torch.zeros(1, 6, VOCAB)
        logits[0, [0, 1, 2], [1, 2, SPECIAL.eos]] = 9.0
        return logits[wanted]

    options = SamplerOptions(strategy="semi_ar", num_blocks=3, steps=3)
    result = sample(model, blank_canvas([6], SPECIAL), options, SPECIAL)
    m, e = SPECIAL.mask, SPECIAL.eos
    assert seen == [[m] * 6, [1, 2, m, m, m, m]]
    assert result.tokens.tolist() == [[1, 2, e, e, e, e]]
    assert result.passes.tolist() == [2]


def test_eos_ends_its_own_row_only():
    def model(tokens, wanted):
        logits = torch.zeros(2, 4, VOCAB)
        logits[..., 7] = 1.0
        logits[0, 1:, SPECIAL.eos] = 9.0
        return logits[wanted]

    options = SamplerOptions(steps=4)
    result = sample(model, blank_canvas([4, 4], SPECIAL), options, SPECIAL)
    assert text(result.tokens[0].tolist()) == [7]
    assert result.tokens[1].tolist() == [7, 7, 7, 7]
    assert result.passes.tolist() == [2, 4]


def test_a_sure_eos_cuts_off_nothing_that_the_model_still_expects():
    def model(tokens, wanted):
        logits = torch.zeros(1, 5, VOCAB)
        logits[0, [0, 1, 2, 3, 4], [1, 2, 3, SPECIAL.eos, SPECIAL.eos]] = 6.0
        logits[0, 0, SPECIAL.eos] = 12.0  # EOS 0.998, the 1 beside it 0.002
        return logits[wanted]

    for options in ({}, {"threshold": 0.9}):
        options = SamplerOptions(steps=5, **options)
        result = sample(model, blank_canvas([5], SPECIAL), options, SPECIAL)
        assert text(result.tokens[0].tolist()) == [1, 2, 3]


def test_semi_ar_deliberation_remasks_sub_block_after_sub_block():
    seen = []

    def model(tokens, wanted):
        seen.append(tokens[0].tolist())
        return torch.nn.functional.one_hot(tokens * 0 + 9, VOCAB).float()[wanted]

    options = SamplerOptions(
        strategy="deliberation_semi_ar", num_blocks=2, steps=2, tail=0
    )
    canvas = transcript_canvas([[1, 2, 3, 4]], SPECIAL)
    result = sample(model, canvas, options, SPECIAL)
    m = SPECIAL.mask
    assert seen == [[m, m, 3, 4], [9, 9, m, m]]
    assert result.tokens.tolist() == [[9, 9, 9, 9]]


def test_low_confidence_masks_what_the_audio_denies():
    def model(tokens, wanted):  # the audio says 1 2 3 4, whatever the canvas
        logits = torch.zeros(1, 4, VOCAB)
        logits[0, range(4), [1, 2, 3, 4]] = 5.0
        return logits[wanted]

    options = SamplerOptions(
        strategy="deliberation_low_confidence", mask_ratio=0.25, steps=2, tail=0
    )
    canvas = transcript_canvas([[1, 2, 8, 4]], SPECIAL)
    result = sample(model, canvas, options, SPECIAL)
    assert result.tokens.tolist() == [[1, 2, 3, 4]]
    assert result.passes.tolist() == [2]


def test_the_mask_token_is_never_committed():
    def model(tokens, wanted):
        logits = torch.zeros(1, 5, VOCAB)
        logits[..., SPECIAL.mask] = 50.0
        return logits[wanted]

    result = sample(model, blank_canvas([5], SPECIAL), SamplerOptions(), SPECIAL)
    assert (result.tokens != SPECIAL.mask).all()


def test_an_empty_transcript_stays_empty_without_a_tail():
    options = SamplerOptions(strategy="deliberation_random", tail=0)
    canvas = transcript_canvas([[], []], SPECIAL)
    result = sample(FakeLM(), canvas, options, SPECIAL)
    assert result.tokens.shape == (2, 0)
    assert result.passes.tolist() == [0, 0]


def test_an_eos_is_as_sure_as_the_least_sure_of_what_it_decides():
    mask, eos = SPECIAL.mask, SPECIAL.eos
    tokens = torch.tensor([[mask] * 6, [mask, 4, mask, eos, mask, eos]])
    masked = tokens == mask
    masked[0, 5] = False  # of a later sub-block: nothing is known of it
    chances = torch.full((8, 12), 0.001)
    chances[:, eos] = torch.tensor([0.9, 0.2, 0.7, 0.8, 0.6, 0.9, 0.9, 0.5])
    got = ends(chances.log(), masked, tokens, SPECIAL).exp()
    expected = torch.tensor([0.2, 0.2, 0.6, 0.6, 0.6, 0.0, 0.5, 0.5])
    torch.testing.assert_close(got[:, eos], expected)
    chances[:, eos] = got[:, eos]
    torch.testing.assert_close(got, chances)  # nothing else is changed


def test_a_second_judge_has_its_say_in_every_pass():
    """It changes what is likely, and says what is committed in any case."""
    asked = []

    def process(tokens, masked, log_probs):
        asked.append(masked[0].tolist())
        log_probs = torch.full_like(log_probs, -9.0)
        log_probs[:, 7] = 0.0
        settled = torch.zeros_like(masked)
        settled[0, 2] = True
        return log_probs, settled

    canvas, options = blank_canvas([3], SPECIAL), SamplerOptions(steps=3)
    result = sample(FakeLM(), canvas, options, SPECIAL, process=process)
    assert result.tokens.tolist() == [[7, 7, 7]]
    assert asked[:2] == [[True] * 3, [True, True, False]]


def test_another_plan_takes_the_place_of_the_strategy_s():
    def plan(logits_fn, canvas, random):
        last = torch.tensor([[False, False, True]])
        return Plan([Block(last, 1)], torch.tensor([2]))

    canvas, seen = transcript_canvas([[1, 2, 3]], SPECIAL), []
    options = SamplerOptions("deliberation_random", tail=0)
    given = FakeLM(-9), canvas, options, SPECIAL
    result = sample(*given, on_pass=seen.append, plan=plan)
    assert result.tokens[0, :2].tolist() == [1, 2] and len(seen) == 1
    assert seen[0].seen.tolist() == [[1, 2, SPECIAL.mask]]
    assert result.passes.tolist() == [3], "what planning has cost counts"
