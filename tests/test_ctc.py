"""The auxiliary CTC loss of the adapter."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.ctc import CHARACTERS, CharacterCTC
from espnet_llada.types import UserError

WIDTH = 16


def sure_of(ctc: CharacterCTC, path: str) -> torch.Tensor:
    """(1, A, WIDTH): vectors that say ``path``, ``_`` the blank, to a linear head."""
    torch.nn.init.zeros_(ctc.output.weight)
    torch.nn.init.zeros_(ctc.output.bias)
    ids = [0 if c == "_" else CHARACTERS.index(c) + 1 for c in path]
    vectors = len(ids) // ctc.slots
    audio = torch.zeros(1, vectors, WIDTH)
    symbols = len(CHARACTERS) + 1
    for i in range(vectors):
        audio[0, i, i] = 1.0
        for k in range(ctc.slots):
            row = k * symbols + ids[i * ctc.slots + k]
            ctc.output.weight.data[row, i] = 30.0
    return audio


def test_slots_follow_one_another_in_time():
    ctc = CharacterCTC(WIDTH, slots=2)
    audio = sure_of(ctc, "hel_lo__ a_b")
    lengths = torch.tensor([6])
    assert ctc.transcribe(audio, lengths) == ["hello ab"]
    assert float(ctc(audio, lengths, ["HELLO AB"])[0]) < 1e-3
    assert float(ctc(audio, lengths, ["hallo ab"])[0]) > 1


def test_a_row_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    ctc = CharacterCTC(WIDTH)
    audio, lengths = torch.randn(3, 9, WIDTH), torch.tensor([9, 4, 7])
    texts = ["one two", "be", ""]
    rows = ctc(audio, lengths, texts)
    for i, n in enumerate(lengths.tolist()):
        alone = ctc(audio[i : i + 1, :n], lengths[i : i + 1], texts[i : i + 1])
        torch.testing.assert_close(alone[0], rows[i])


def test_more_characters_than_slots_is_zero_and_no_nan():
    ctc = CharacterCTC(WIDTH, slots=1)
    audio = torch.randn(1, 3, WIDTH, requires_grad=True)
    loss = ctc(audio, torch.tensor([3]), ["far too long"])
    loss.sum().backward()
    assert float(loss) == 0
    assert torch.equal(audio.grad, torch.zeros_like(audio))


@pytest.mark.parametrize("conf", [{"slots": 0}, {"weight": 0.0}])
def test_values_that_do_not_fit_are_refused(conf):
    with pytest.raises(UserError, match="ctc"):
        CharacterCTC(WIDTH, **conf)
