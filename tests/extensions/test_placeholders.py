"""Positions without a word, by which a first pass grows and shrinks."""

from __future__ import annotations

import math

import pytest
import torch
from espnet_llada.extensions.alignment import corrections
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Draft
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.placeholders import Responses, opened, with_slots
from espnet_llada.types import SpecialTokens, UserError

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


def test_a_slot_opens_before_what_is_in_doubt():
    sure, unsure = math.log(0.9), math.log(0.2)
    draft = Draft([[1, 2, 3], [4]], [[sure, unsure, sure], [sure]])
    canvas, places = opened(draft, [unsure, sure], 0.5, EOS)
    assert canvas.ids == [[1, EOS, 2, 3, EOS], [4]]
    assert canvas.log_probs == [[sure, unsure, unsure, sure, unsure], [sure]]
    assert places == [[0, 2, 3, 5], [0, 1]]


class Teacher:
    """Wants a text at each position of a canvas, slots included."""

    def __init__(self, *rows: list[int]):
        longest = max(len(row) for row in rows)
        self.rows = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])

    def __call__(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        rows = self.rows[:, : tokens.shape[1]]
        return 9.0 * torch.nn.functional.one_hot(rows, 12).float()[wanted]


def test_a_text_grows_and_shrinks():
    sure, unsure = math.log(0.9), math.log(0.2)
    draft = Draft(
        [[1, 3], [1, 2, 2, 3], [1]],
        [[sure, unsure], [sure, sure, unsure, sure], [sure]],
    )
    canvas, _ = opened(draft, [sure, sure, unsure], 0.5, EOS)
    canvas = transcript_canvas(canvas.ids, SPECIAL, 1, confidence=canvas.log_probs)
    options = SamplerOptions(
        strategy="deliberation_low_confidence",
        measuring_passes=0,
        mask_below=0.5,
        slots_below=0.5,
        steps=4,
    )
    said = [[1, 2, 3, EOS], [1, 2, EOS, EOS, 3, EOS], [1, 5, EOS]]
    result = sample(Teacher(*said), canvas, options, SPECIAL)
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
    rows, places = opened(Draft(transcripts, values), ends, below, EOS)
    canvas = transcript_canvas(rows.ids, SPECIAL, 1, confidence=rows.log_probs)
    options = SamplerOptions(
        strategy=strategy,
        measuring_passes=0,
        mask_ratio=ratio,
        slots_below=below,
        steps=5,
    )
    torch.manual_seed(len(transcripts))
    table = torch.randn(*canvas.tokens.shape, 12)
    masked = torch.zeros_like(canvas.valid)

    def logits(tokens, wanted):
        masked.logical_or_(tokens == SPECIAL.mask)
        return table[wanted]

    result = sample(logits, canvas, options, SPECIAL)
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
    return Responses(text, text, lengths, own), drafts


def test_training_meets_every_kind_of_error_and_slots_without_one():
    plain, drafts = batch()
    made = with_slots(plain, drafts, 0.2, EOS, range(60))
    kinds = set()
    for row in range(60):
        size, n = int(made.lengths[row]), int(plain.lengths[row])
        target, seen = made.text[row, :size].tolist(), made.given[row, :size].tolist()
        assert [t for t in target if t != EOS] == plain.text[row, :n].tolist()
        if row % 2:  # decoding: the draft is read, the text is the canvas
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
        (True, True, True),  # a slot
    }


def test_a_rows_errors_do_not_depend_on_its_batch():
    plain, drafts = batch()
    made = with_slots(plain, drafts, 0.2, EOS, range(60))
    one = Responses(
        plain.text[8:9], plain.given[8:9], plain.lengths[8:9], plain.transcripts[8:9]
    )
    alone = with_slots(one, drafts[8:9], 0.2, EOS, [8])
    size = int(made.lengths[8])
    assert int(alone.lengths[0]) == size
    assert torch.equal(alone.text[0], made.text[8, :size])
    assert alone.transcripts[0] == made.transcripts[8]


def test_where_there_is_no_text_on_the_canvas_there_are_no_slots():
    with pytest.raises(UserError, match=r"slots_below: 0.5 does not fit"):
        SamplerOptions(strategy="diffusion", slots_below=0.5)
