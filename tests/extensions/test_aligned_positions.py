"""Vectors numbered by the tokens of a transcript."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.extensions.posterior_prefix.alignment import aligned
from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings


def audio(
    *rows: list[list[int]], shares: float | list[list[float]] = 0.9
) -> AudioEmbeddings:
    """Rows of vectors, each with its likeliest tokens."""
    longest = max(map(len, rows))
    likely = max((len(v) for row in rows for v in row), default=1)
    tokens = torch.zeros(len(rows), longest, likely, dtype=torch.long)
    table = torch.zeros(len(rows), longest, likely)
    for r, row in enumerate(rows):
        for i, vector in enumerate(row):
            tokens[r, i, : len(vector)] = torch.tensor(vector)
            sure = shares if isinstance(shares, float) else shares[r][i]
            table[r, i, : len(vector)] = sure / len(vector)
    vectors = torch.randn(len(rows), longest, 3)
    return AudioEmbeddings(
        vectors, torch.tensor([len(row) for row in rows]), tokens, table
    )


def numbers(found: AudioEmbeddings, row: int = 0) -> list[int]:
    return found.places[row, : found.counts[row]].tolist()


def test_a_word_too_many_moves_nothing_behind_it():
    row = [[1], [2], [9], [3], [4]]
    assert numbers(audio(row)) == [0, 1, 2, 3, 4]
    assert numbers(aligned(audio(row), [[1, 2, 3, 4]])) == [0, 1, 1, 2, 3]
    assert numbers(aligned(audio(row), [[1, 2, 9, 5, 5, 3, 4]])) == [0, 1, 2, 5, 6]


def test_a_token_among_the_likeliest_is_found():
    row = [[1, 7], [2, 8], [3, 9]]
    assert numbers(aligned(audio(row), [[1, 9]])) == [0, 0, 1]
    assert numbers(aligned(audio(row), [[6, 6, 7, 8, 3]])) == [2, 3, 4]


def test_an_inserted_vector_takes_no_token():
    row, text = [[1], [5], [6], [2]], [[1, 4, 2]]
    shares = [[0.9, 0.2, 0.9, 0.9]], [[0.9, 0.9, 0.2, 0.9]]
    assert numbers(aligned(audio(row, shares=shares[0]), text)) == [0, 0, 1, 2]
    assert numbers(aligned(audio(row, shares=shares[1]), text)) == [0, 1, 1, 2]


def test_without_a_transcript_or_vectors_nothing_changes():
    rows = audio([[1], [2]], [], [[3], [4]])
    found = aligned(rows, [[], [1], [3, 4]])
    assert [numbers(found, r) for r in range(3)] == [[0, 1], [], [0, 1]]


tokens = st.lists(st.integers(1, 5), max_size=8)


@given(st.lists(tokens, min_size=1, max_size=3), st.data())
def test_numbers_follow_the_text_and_a_row_does_not_depend_on_its_batch(texts, data):
    vectors = st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=2), max_size=8)
    rows = [data.draw(vectors) for _ in texts]
    found = aligned(audio(*rows), texts)
    for r, text in enumerate(texts):
        got = numbers(found, r)
        assert got == sorted(got)
        if not text:
            continue
        assert all(0 <= n < len(text) for n in got)
        assert got == numbers(aligned(audio(rows[r]), [text]))
        same = audio([[token] for token in text])
        assert numbers(aligned(same, [text])) == list(range(len(text)))
