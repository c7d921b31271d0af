"""Empty positions, by which a first pass grows and shrinks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SCORED, check_batches, encoded, recognize

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.masking import make_plan
from espnet_llada.core.objective import Targets
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions import confidence, placeholders
from espnet_llada.extensions.ctc_prefix import Draft
from espnet_llada.extensions.placeholders import (
    Responses,
    insert_placeholders,
    with_placeholders,
)
from espnet_llada.extensions.posterior_prefix.alignment import corrections
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=11, eos=10)
EOS = SPECIAL.eos
words_st = st.lists(st.integers(0, 9), max_size=8)


@given(words_st, words_st)
def test_corrections_hold_both_texts_and_no_position_of_neither(transcript, text):
    pairs = corrections(transcript, text, EOS)
    assert [t for t, _ in pairs if t != EOS] == text
    assert [g for _, g in pairs if g != EOS] == transcript
    assert (EOS, EOS) not in pairs


def test_corrections_put_each_error_in_its_place():
    said = [1, 2, 3, 4]
    assert corrections([1, 9, 3, 4], said, EOS)[1] == (2, 9)
    assert corrections([1, 3, 4], said, EOS)[1] == (2, EOS)
    assert corrections([1, 2, 3], said, EOS)[3] == (4, EOS)
    assert (EOS, 7) in corrections([7, 1, 2, 3, 4], said, EOS)


def test_a_placeholder_stands_before_what_is_in_doubt():
    sure, unsure = math.log(0.9), math.log(0.2)
    draft = Draft([[1, 2, 3], [4]], [[sure, unsure, sure], [sure]])
    canvas, places = insert_placeholders(draft, [unsure, sure], 0.5, EOS)
    assert canvas.ids == [[1, EOS, 2, 3, EOS], [4]]
    assert canvas.log_probs == [[sure, unsure, unsure, sure, unsure], [sure]]
    assert places == [[0, 2, 3, 5], [0, 1]]


class Teacher:
    """Wants a text at each position of a canvas, placeholders included."""

    def __init__(self, *rows: list[int]):
        longest = max(len(row) for row in rows)
        self.rows = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])

    def __call__(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        rows = self.rows[:, : tokens.shape[1]]
        return 9.0 * torch.nn.functional.one_hot(rows, 12).float()[wanted]


def filled(draft, sampler, lm, below, threshold=0.0):
    """The canvas of a draft with placeholders, and what becomes of it."""
    canvas = transcript_canvas(draft.ids, SPECIAL, 1, confidence=draft.log_probs)
    canvas, decoder = replace(canvas, gaps=True), SimpleNamespace(special=SPECIAL)

    def plan(logits_fn, canvas, random):
        return make_plan(logits_fn, canvas, sampler, SPECIAL, random)

    if sampler.strategy == "deliberation_low_confidence":
        options = confidence.Options(passes=0, mask_threshold=threshold)
        plan = partial(confidence.Hook(options, decoder, sampler, None).plan, plan)
    options = placeholders.Options(below)
    plan = partial(placeholders.Hook(options, decoder, sampler, None).plan, plan)
    return canvas, sample(lm, canvas, sampler, SPECIAL, plan=plan)


def test_a_text_grows_and_shrinks():
    sure, unsure = math.log(0.9), math.log(0.2)
    draft = Draft(
        [[1, 3], [1, 2, 2, 3], [1]],
        [[sure, unsure], [sure, sure, unsure, sure], [sure]],
    )
    canvas, _ = insert_placeholders(draft, [sure, sure, unsure], 0.5, EOS)
    options = SamplerOptions("deliberation_low_confidence", steps=4)
    said = [[1, 2, 3, EOS], [1, 2, EOS, EOS, 3, EOS], [1, 5, EOS]]
    _, result = filled(canvas, options, Teacher(*said), 0.5, threshold=0.5)
    texts = [[t for t in row if t != EOS] for row in result.tokens.tolist()]
    assert texts == [[1, 2, 3], [1, 2, 3], [1, 5]]
    assert result.tokens[0, :4].tolist() == said[0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(words_st, min_size=1, max_size=4),
    st.sampled_from(
        ["deliberation_random", "deliberation_semi_ar", "deliberation_low_confidence"]
    ),
    st.floats(0, 1),
    st.floats(0.05, 1),
)
def test_only_what_is_masked_changes(transcripts, strategy, ratio, below):
    values = [[-0.3 * token for token in row] for row in transcripts]
    ends = [-0.1 * len(row) for row in transcripts]
    rows, places = insert_placeholders(Draft(transcripts, values), ends, below, EOS)
    options = SamplerOptions(strategy, mask_ratio=ratio, steps=5)
    torch.manual_seed(len(transcripts))
    shape = len(rows.ids), max(map(len, rows.ids)) + 1
    table, masked = torch.randn(*shape, 12), torch.zeros(shape, dtype=torch.bool)

    def logits(tokens, wanted):
        masked.logical_or_(tokens == SPECIAL.mask)
        return table[wanted]

    canvas, result = filled(rows, options, logits, below)
    assert (result.tokens != SPECIAL.mask).all()
    assert torch.equal(result.tokens[~masked], canvas.tokens[~masked])
    if strategy != "deliberation_semi_ar":
        for row, (text, where) in enumerate(zip(transcripts, places, strict=True)):
            chosen = masked[row, where[:-1]].sum()
            assert chosen == int(len(text) * ratio)


def batch(rows: int = 60) -> tuple[Responses, list[list[int]]]:
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(0, 10, (rows, 9), generator=generator)
    lengths = torch.randint(1, 10, (rows,), generator=generator)
    drafts = [
        [9, *row[1:n]][: n + 1] for row, n in zip(text.tolist(), lengths, strict=True)
    ]
    own = [
        draft if i % 2 else [*row[:n]]
        for i, (draft, row, n) in enumerate(
            zip(drafts, text.tolist(), lengths.tolist(), strict=True)
        )
    ]
    return Responses(Targets(text, lengths, text), own), drafts


def test_training_meets_every_kind_of_error_and_placeholders_without_one():
    plain, drafts = batch()
    made = with_placeholders(plain, drafts, 0.2, EOS, range(60))
    kinds = set()
    for row in range(60):
        size, n = int(made.targets.lengths[row]), int(plain.targets.lengths[row])
        target = made.targets.text[row, :size].tolist()
        seen = made.targets.given[row, :size].tolist()
        assert [t for t in target if t != EOS] == plain.targets.text[row, :n].tolist()
        if row % 2:  # decoding: the draft is scored, the text is the canvas
            assert made.transcripts[row] is drafts[row] and size == n
            assert made.places[row] == [*range(len(drafts[row]) + 1)]
            continue
        assert made.transcripts[row] == [t for t in seen if t != EOS]
        *places, end = made.places[row]
        assert [seen[i] for i in places] == made.transcripts[row] and end == size
        for pair in zip(target, seen, strict=True):
            kinds.add((pair[0] == EOS, pair[1] == EOS, pair[0] == pair[1]))
    assert kinds == {
        (False, False, True),  # right
        (False, False, False),  # another word
        (False, True, False),  # lost
        (True, False, False),  # one too many
        (True, True, True),  # a placeholder
    }


def test_a_rows_errors_do_not_depend_on_its_batch():
    plain, drafts = batch()
    made = with_placeholders(plain, drafts, 0.2, EOS, range(60))
    own = plain.targets.text[8:9], plain.targets.lengths[8:9], plain.targets.given[8:9]
    one = Responses(Targets(*own), plain.transcripts[8:9])
    alone = with_placeholders(one, drafts[8:9], 0.2, EOS, [8])
    size = int(made.targets.lengths[8])
    assert int(alone.targets.lengths[0]) == size
    assert torch.equal(alone.targets.text[0], made.targets.text[8, :size])
    assert alone.transcripts[0] == made.transcripts[8]


def test_a_transcript_may_grow_and_shrink(model, speech, texts):
    """A random LM that writes anything anywhere, beside one that keeps the length."""
    ids = model.decoder.encode_texts(texts)
    options = {**SCORED, "steps": 4, "tail": 0}
    every = {"passes": 0, "mask_threshold": 1.0}
    fixed = recognize(model, speech, texts, **options, confidence=every)
    assert [len(h.token_ids) for h in fixed] == [len(row) for row in ids]
    options["placeholders"] = {"threshold": 1.0}
    free = recognize(model, speech, texts, **options, confidence=every)
    assert [len(h.token_ids) for h in free] != [len(row) for row in ids]
    assert all(len(h.confidence) == len(h.token_ids) for h in free)
    none = {"passes": 0, "mask_threshold": 1e-9}
    kept = recognize(model, speech, texts, **options, confidence=none)
    assert [list(h.token_ids) for h in kept] == ids


def test_a_row_does_not_depend_on_its_batch(model, speech, texts):
    options = {"steps": 3, "placeholders": {"threshold": 0.9}}
    own = {**SCORED, "confidence": {"passes": 0, "mask_threshold": 0.9}}
    check_batches(model, speech, texts, {**options, **own})
    check_batches(model, speech, None, {**options, "mask_ctc": {"mask_threshold": 0.9}})


@torch.no_grad()
def test_a_placeholder_moves_the_audio_that_is_aligned_with_the_text(
    model, speech, texts
):
    ids = model.decoder.encode_texts(texts[:1])
    plain = model.decoder.prefix(*encoded(model, speech[0]), ids)
    own = plain.draft, [plain.scored[0].own[-1]], 1.0, model.decoder.special.eos
    draft, places = insert_placeholders(*own)
    eos = model.decoder.special.eos
    there = [i for i, t in enumerate(draft.ids[0]) if t != eos]
    assert [draft.ids[0][i] for i in there] == ids[0]
    assert there == [2 * i + 1 for i in range(len(ids[0]))], "one before each token"
    before = plain._embeddings(None)
    moved = plain.along(plain.scored, places)._embeddings(None)
    expected = torch.tensor([*there, len(draft.ids[0])])[before.places[0]]
    assert moved.places[0].tolist() == expected.tolist()
    torch.testing.assert_close(moved.vectors, before.vectors)
