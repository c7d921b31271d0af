"""Whisper's decoder, teacher-forced along texts."""

from __future__ import annotations

import pytest
import torch
from tiny_scorer import END, WORDS, frames

from espnet_llada.extensions.whisper_qformer import special_tokens
from espnet_llada.extensions.whisper_scorer.network import Options, WhisperScorer


@torch.no_grad()
def test_it_says_what_whispers_own_decoder_says(network, table, tiny_whisper):
    """transformers' decoder, fed with the same text, row by row."""
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    reference = WhisperModel.from_pretrained(tiny_whisper).decoder.eval()
    texts, sizes = [[5, 40, 7], [], [33, 5]], (9, 4, 6)
    audio = frames(*sizes)
    found, counts = network(audio, texts, table[WORDS], END)
    assert counts.tolist() == [4, 1, 3]
    for row, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        start = [0, 0]  # the special tokens of so small a vocabulary
        fed = torch.tensor([start + [token + WORDS.start for token in text]])
        theirs = reference(
            input_ids=fed, encoder_hidden_states=audio[row : row + 1, :size]
        ).last_hidden_state[0, len(start) - 1 :]
        logits = theirs @ table[WORDS].T
        logits[:, END] = theirs @ table[0]
        expected = logits.log_softmax(dim=-1)
        got = found[row, : counts[row]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_word_changes_what_comes_behind_it_only(network, table):
    audio = frames(8)
    before, _ = network(audio, [[5, 6, 7, 8]], table[WORDS], END)
    after, _ = network(audio, [[5, 6, 50, 8]], table[WORDS], END)
    differs = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert differs.tolist() == [False, False, False, True, True]


@torch.no_grad()
def test_a_transcript_beyond_whispers_reach_is_scored_as_far_as_that(network, table):
    long = [5] * (network.longest + 9)
    found, counts = network(frames(8), [long], table[WORDS], END)
    assert counts.tolist() == [network.longest + 1] == [found.shape[1]]


def test_its_loss_is_that_of_what_is_said_next(network, table):
    """Behind every token of a transcript with an error of each kind."""
    said = [10, 11, 12, 13, 14]
    transcripts = {
        (10, 11, 12, 13, 14): [10, 11, 12, 13, 14, END],
        (10, 30, 12, 13, 14): [10, 11, 12, 13, 14, END],  # another word
        (10, 12, 13, 14): [10, 11, 13, 14, END],  # one too few
        (10, 11, 30, 12, 13, 14): [10, 11, 12, 12, 13, 14, END],  # one too many
        (30, 10, 11, 12, 13, 14): [10, 10, 11, 12, 13, 14, END],
        (): [10],
    }
    texts = [list(t) for t in transcripts]
    log_probs, counts = network(frames(*[8] * 6), texts, table[WORDS], END)
    text, lengths = torch.tensor([said] * 6), torch.tensor([5] * 6)
    loss = network.loss(log_probs, texts, text, lengths, END)
    for row, following in enumerate(transcripts.values()):
        assert len(following) == counts[row]
        own = log_probs[row, range(len(following)), following]
        torch.testing.assert_close(loss[row], -own.mean())


def test_the_bottlenecks_change_nothing_at_first_and_then_something(
    tiny_whisper, table
):
    whisper = str(tiny_whisper)
    small = WhisperScorer.from_pretrained(whisper, Options(bottleneck=4))
    none = WhisperScorer.from_pretrained(whisper, Options(bottleneck=0))
    assert not [p for p in none.parameters() if p.requires_grad]
    given = frames(8), [[5, 6]], table[WORDS], END
    torch.testing.assert_close(small(*given)[0], none(*given)[0])
    text, lengths = torch.tensor([[5, 6]]), torch.tensor([2])
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], 1.0)
    losses = []
    for _ in range(5):
        loss = small.loss(small(*given)[0], [[5, 6]], text, lengths, END).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("size", [51864, 51865, 51866])  # .en, all but v3, v3
def test_the_special_tokens_are_whispers(size):
    tokenizer = pytest.importorskip("whisper.tokenizer")
    languages = 100 if size == 51866 else 99
    english_only = size == 51864
    theirs = tokenizer.get_tokenizer(
        not english_only, num_languages=languages, language="en", task="transcribe"
    )
    start, end = special_tokens(size)
    assert tuple(start) == theirs.sot_sequence_including_notimestamps
    assert end == theirs.eot
