"""Text as simulated CTC posteriors, and noise on given tokens."""

from __future__ import annotations

import torch

from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.extensions.text_injection import (
    confuse_tokens,
    corrupt_tokens,
    simulated_audio,
)

VOCABULARY = 50


def rows(*texts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, texts))
    padded = [text + [-1] * (longest - len(text)) for text in texts]
    return torch.tensor(padded), torch.tensor([len(text) for text in texts])


def test_most_tokens_have_a_vector_in_their_order():
    text, lengths = rows(*[torch.randperm(VOCABULARY)[:20].tolist() for _ in range(64)])
    simulated = simulated_audio(text, lengths, torch.eye(VOCABULARY), range(64))
    audio, counts = simulated.vectors, simulated.counts
    assert audio.min() >= 0 and audio.sum(dim=-1).max() <= 1 + 1e-5, "shares of one"
    found = 0
    for row, vectors, n in zip(text.tolist(), audio, counts.tolist(), strict=True):
        best = vectors[:n].argmax(dim=-1)
        steps = iter(best.tolist())
        for token in row:
            place = list(steps)
            if token in place:
                found += 1
                place = place[place.index(token) :]
            steps = iter(place)
    assert 0.7 < found / text.numel() < 0.95  # not all: some are wrong or missing
    assert 22 < counts.float().mean() < 26


def test_a_row_depends_on_its_seed_alone():
    embedding = torch.randn(VOCABULARY, 8)
    text, lengths = rows([3, 4, 5], [7] * 9, [])
    together = simulated_audio(text, lengths, embedding, [5, 6, 7])
    for i, seed in enumerate([5, 6, 7]):
        n = int(lengths[i])
        alone = simulated_audio(
            text[i : i + 1, :n], lengths[i : i + 1], embedding, [seed]
        )
        count = int(alone.counts)
        assert count == together.counts[i]
        for a, b in (
            (alone.vectors, together.vectors),
            (alone.tokens, together.tokens),
            (alone.shares, together.shares),
        ):
            torch.testing.assert_close(a[0], b[i, :count])
    assert int(together.counts[2]) == 0, "no words, no vectors"


def test_some_tokens_become_any():
    text, lengths = rows(*[[7] * 40 for _ in range(50)], [7] * 3)
    found = corrupt_tokens(text, lengths, 0.3, VOCABULARY, range(51))
    changed = (found != text)[:50]
    assert 0.25 < changed.float().mean() < 0.34
    assert len(found[:50][changed].unique()) == VOCABULARY - 1
    assert torch.equal(found[50, 3:], text[50, 3:]), "what is no text stays as it is"
    alone = corrupt_tokens(text[50:, :3], lengths[50:], 0.3, VOCABULARY, [50])
    assert torch.equal(alone[0], found[50, :3])
    assert torch.equal(corrupt_tokens(text, lengths, 0.0, VOCABULARY, range(51)), text)


def test_some_given_tokens_become_what_sounds_alike():
    tokens = torch.tensor([[[5, 15], [6, 16], [7, 17]]]).repeat(40, 1, 1)
    shares = torch.tensor([[0.9, 0.1], [0.1, 0.1], [0.8, 0.1]]).expand(40, 3, 2)
    counts = torch.tensor([3] * 39 + [2])
    audio = AudioEmbeddings(torch.zeros(40, 3, 1), counts, tokens, shares)
    given = torch.tensor([[1, 2, 3, 4]]).repeat(40, 1)
    found = confuse_tokens(given, audio, 0.5, range(40))
    first, second, behind = found[:, 0], found[:, 1], found[:, 2:]
    assert sorted(first.unique().tolist()) == [1, 15]
    assert sorted(second[:39].unique().tolist()) == [2, 17], (
        "the inserted vector has no number"
    )
    assert second[39] == 2, "the row has one word"
    assert torch.equal(behind, given[:, 2:]), "no vector is there"
    assert 0.3 < (first == 15).float().mean() < 0.7
    alone = confuse_tokens(given[7:8], audio.rows(torch.tensor([7])), 0.5, [7])
    assert torch.equal(alone[0], found[7])
    assert confuse_tokens(given, audio, 0.0, range(40)) is given
