"""Texts with errors of the scorer that is trained along them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.extensions.simulated_errors import KINDS, with_simulated_errors

VOCAB, EOS = 40, 3


def sure(texts: list[list[int]], other: int) -> torch.Tensor:
    """Takes every token for the same other one, if it has to take it for one."""
    width = max(map(len, texts)) + 1
    log_probs = torch.full((len(texts), width, VOCAB), -60.0)
    log_probs[..., other] = 0.0
    return log_probs


def test_shares_of_texts_and_tokens_are_as_said():
    texts = [list(range(10, 30)) for _ in range(800)]
    found = with_simulated_errors(texts, sure(texts, 7), EOS, range(800))
    true = sum(row == text for row, text in zip(found, texts, strict=True)) / 800
    assert abs(true - KINDS[0][0]) < 0.1  # some of the others are lucky
    same_length = [r for r in found if len(r) == 20 and r != texts[0]]
    errors = [sum(token == 7 for token in row) / 20 for row in same_length]
    assert 0.1 < sum(errors) / len(errors) < 0.2
    lost = sum(token not in row for row in found for token in texts[0]) / 16_000
    expected = sum(share * (e.replaced + e.lost) for share, e in KINDS)
    assert abs(lost - expected) < 0.01
    extra = sum(len([t for t in row if t == 7]) for row in found) / 16_000
    expected = sum(share * (e.replaced + e.extra) for share, e in KINDS)
    assert abs(extra - expected) < 0.01


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(4, VOCAB - 1), max_size=9), min_size=1, max_size=4)
)
def test_an_error_is_never_the_token_itself_nor_the_end(texts):
    log_probs = torch.randn(len(texts), max(map(len, texts)) + 1, VOCAB)
    seeds = list(range(len(texts)))
    found = with_simulated_errors(texts, log_probs.log_softmax(dim=-1), EOS, seeds)
    assert all(EOS not in row for row in found)
    for row, (text, own) in enumerate(zip(texts, found, strict=True)):
        alone = with_simulated_errors(
            [text], log_probs[row : row + 1].log_softmax(-1), EOS, [row]
        )
        assert alone == [own]


def test_what_is_behind_the_longest_text_that_is_scored_stays():
    texts = [list(range(10, 30))] * 50
    found = with_simulated_errors(
        texts, sure([[1] * 4], 7).expand(50, -1, -1), EOS, range(50)
    )
    assert all(token not in row[8:] for row in found for token in (7,))
