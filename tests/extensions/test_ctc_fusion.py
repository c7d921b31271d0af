"""Adding the CTC's log-probabilities in the first passes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import check_batches, linear_ctc_model, recognize

from espnet_llada.core.canvas import blank_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.ctc_fusion import FLOOR, Hook, Options, heard
from espnet_llada.types import SpecialTokens, UserError

SPECIAL = SpecialTokens(mask=6, eos=5)
TOKENS = 7
DRAFT = [[1, 2, 3], [4]]


class Alignment:
    """Hears each row's draft, a blank before each token; (V + 1) columns."""

    def __init__(self):
        self.tables = []
        for text in DRAFT:
            table = torch.full((2 * len(text), 1 + TOKENS), -6.0)
            table[0::2, 0] = 0.0
            for number, token in enumerate(text):
                table[2 * number + 1, 1 + token] = 0.0
            self.tables.append(table)

    def columns(self, row, text):
        return self.tables[row][:, [0, *(1 + token for token in text)]]

    def at(self, row, places):
        return self.tables[row][places]


def filled(options: Options, **sampler):
    """By an LM that finds 0 a bit likelier, and says where a text ends."""
    sampler = SamplerOptions(**sampler)
    canvas = blank_canvas([5, 3], SPECIAL, torch.device("cpu"))

    def lm(tokens, wanted):
        logits = torch.zeros(*tokens.shape, TOKENS)
        logits[..., 0] = 1.0
        logits[0, 3:, SPECIAL.eos] = logits[1, 1:, SPECIAL.eos] = 9.0
        return logits[wanted]

    hook = Hook(options, SimpleNamespace(special=SPECIAL), sampler, None)
    prefix = SimpleNamespace(draft=SimpleNamespace(ids=DRAFT), alignment=Alignment())
    hook.open(prefix, canvas)
    tokens = sample(lm, canvas, sampler, SPECIAL, process=hook.process).tokens
    return [[t for t in row if t != SPECIAL.eos] for row in tokens.tolist()]


def test_the_ctc_decides_where_the_lm_is_not_sure():
    assert filled(Options(weight=0.0), steps=1) == [[0, 0, 0], [0]]
    assert filled(Options(weight=0.1), steps=1) == [[0, 0, 0], [0]]
    assert filled(Options(weight=0.5), steps=1) == DRAFT


def test_only_in_the_first_passes():
    # The surest positions, those of the end, go first; then one token a pass.
    found = filled(Options(weight=0.5, passes=1), steps=5, threshold=0.9)
    assert found == [[0, 0, 0], [0]]
    assert filled(Options(weight=0.5, passes=5), steps=5, threshold=0.9) == DRAFT


def test_a_text_that_does_not_fit_the_audio_says_nothing():
    assert heard(Alignment(), 1, [4, 4, 4]).shape == (0, TOKENS)
    assert heard(Alignment(), 1, []).shape == (0, TOKENS)


def test_it_reads_the_ctc_where_the_tokens_are_spoken(model, speech):
    with torch.no_grad():
        audio, lengths = model.encode(
            torch.from_numpy(speech[0])[None], torch.tensor([len(speech[0])])
        )
        prefix = model.decoder.prefix(audio, lengths)
        alignment, (text,) = prefix.alignment, prefix.draft.ids
        assert isinstance(alignment, CTCAlignment) and text
        places = range(int(alignment.windows.lengths[0]))
        every = alignment.at(0, list(places))
        assert torch.allclose(every.exp().sum(dim=1), torch.ones(len(every)))
        columns = alignment.columns(0, text)
        own = [0, *(1 + token for token in text)]
        assert torch.allclose(every[:, own], columns, atol=1e-4)
        found = heard(alignment, 0, text)
    assert found.shape == (len(text), every.shape[1] - 1)
    assert float(found.min()) >= FLOOR and float(found.max()) <= 0


@pytest.mark.parametrize("more", [{}, {"canvas_length": 3}, {"draft_refinement": {}}])
def test_a_row_does_not_depend_on_its_batch(model, speech, more):
    options = {"steps": 3, "ctc_fusion": {"weight": 0.5, "passes": 2}, **more}
    check_batches(model, speech, None, options)
    blocks = {"strategy": "semi_ar", "num_blocks": 2}
    check_batches(model, speech, None, {**options, **blocks})


def test_a_linear_prefix_with_a_ctc(tiny_config, speech):
    fused = linear_ctc_model(tiny_config)
    check_batches(fused, speech, None, {"steps": 3, "ctc_fusion": {"weight": 5.0}})
    own, other = (
        recognize(fused, speech, steps=3, **more)
        for more in ({}, {"ctc_fusion": {"weight": 50.0, "passes": 9}})
    )
    assert [h.text for h in own] != [h.text for h in other]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mask_ctc": {}}, "the CTC's draft already"),
        ({"strategy": "deliberation_random"}, "not from a blank canvas"),
    ],
)
def test_options_that_do_not_fit(model, speech, options, why):
    texts = ["a"] * len(speech) if "strategy" in options else None
    with pytest.raises(UserError, match=why):
        recognize(model, speech, texts, ctc_fusion={}, **options)
