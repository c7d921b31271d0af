"""What the posterior prefix hands to the LM."""

from __future__ import annotations

import torch

from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings


def shown(*shares: list[float]) -> AudioEmbeddings:
    longest = max(map(len, shares))
    table = torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in shares])
    return AudioEmbeddings(
        torch.randn(*table.shape, 3),
        torch.tensor([len(row) for row in shares]),
        torch.tensor([7, 8, 7, 9, 8])[:longest, None].expand(*table.shape, 1),
        table[..., None],
    )


def test_what_is_more_likely_no_word_stands_where_the_word_before_it_does():
    found = shown([0.9, 0.2, 0.6, 0.3, 1.0], [0.2, 0.3], [])
    assert found.places[0].tolist() == [0, 0, 1, 1, 2]
    assert found.places[1, :2].tolist() == [0, 0]
    assert found.words.tolist() == [3, 1, 0]


def test_a_token_is_first_where_it_is_first():
    found = shown([1.0] * 5)
    assert found.first.tolist() == [[0, 1, 0, 3, 1]]


def test_rows_are_what_they_are_alone():
    found = shown([0.9, 0.2, 0.6, 0.3, 1.0], [0.2, 0.3], [])
    for row, n in enumerate([5, 2, 0]):
        part = found.rows(torch.tensor([row]))
        assert part.vectors.shape == (1, n, 3)
        assert torch.equal(part.places[0], found.places[row, :n])
        assert torch.equal(part.first[0], found.first[row, :n])
        assert part.words == found.words[row]
