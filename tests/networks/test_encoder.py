from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.features import log_mel
from espnet_llada.types import UserError

# Utterances of a batch (samples): two share a padded length, one is a frame and a bit.
LENGTHS = [16_000, 15_999, 321, 47_500]


def batch(lengths=LENGTHS, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    speech = torch.zeros(len(lengths), max(lengths))
    for row, n in enumerate(lengths):
        speech[row, :n] = 0.1 * torch.randn(n, generator=g)
    return speech, torch.tensor(lengths)


def reference_frames(model, speech: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(speech, (0, 480_000 - speech.shape[1]))
    with torch.no_grad():
        return model.encoder(log_mel(padded)).last_hidden_state


def test_equals_transformers(model, directory, sizes):
    speech, lengths = batch()
    encoder = WhisperEncoder.from_pretrained(directory, keep_padding=True)
    frames, frame_lengths = encoder(speech, lengths)
    assert frame_lengths.tolist() == [1500] * 4
    assert encoder.config == sizes
    reference = reference_frames(model, speech)
    torch.testing.assert_close(frames, reference, rtol=0, atol=1e-5)


def test_own_frames_are_the_first_of_all(directory, sizes):
    speech, lengths = batch()
    kept, _ = WhisperEncoder.from_pretrained(directory, keep_padding=True)(
        speech, lengths
    )
    frames, frame_lengths = WhisperEncoder.from_pretrained(directory)(speech, lengths)
    assert frame_lengths.tolist() == [50, 50, 2, 149]
    assert frame_lengths.dtype == torch.int64
    assert frames.shape == (4, 149, sizes.d_model)
    for row, n in enumerate(frame_lengths.tolist()):
        torch.testing.assert_close(frames[row, :n], kept[row, :n], rtol=0, atol=0)
        assert not frames[row, n:].any()


@pytest.mark.parametrize("pad_seconds", [30.0, 0.0])
@pytest.mark.parametrize("keep_padding", [False, True])
def test_row_does_not_depend_on_its_batch(directory, pad_seconds, keep_padding):
    encoder = WhisperEncoder.from_pretrained(directory, pad_seconds, keep_padding)
    speech, lengths = batch()
    frames, frame_lengths = encoder(speech, lengths)
    speech[2, 321:] = 1.0  # what lies beyond a row's length is ignored
    for row, n in enumerate(LENGTHS):
        alone, alone_lengths = encoder(
            speech[row : row + 1, : max(n, 400)], lengths[row : row + 1]
        )
        count = int(frame_lengths[row])
        assert alone_lengths.tolist() == [count]
        torch.testing.assert_close(frames[row, :count], alone[0], rtol=0, atol=1e-6)


def test_a_cpu_encodes_what_fits_its_caches_at_once(directory, monkeypatch):
    model = WhisperEncoder.from_pretrained(directory, pad_seconds=0.0)
    speech, lengths = batch([15_000, 16_000, 32_000, 14_000, 40_000])
    whole, _ = model(speech, lengths)
    together, encode = [], model._encode
    monkeypatch.setattr(
        model, "_encode", lambda mel: together.append(len(mel)) or encode(mel)
    )
    monkeypatch.setattr("espnet_llada.networks.encoder.CPU_BATCH", 32_000)
    frames, _ = model(speech, lengths)
    assert together == [2, 1, 1, 1]  # 1, 1 | 1 s, 2 s, 3 s
    torch.testing.assert_close(frames, whole, rtol=0, atol=1e-6)


def test_pad_0_pads_to_the_next_second(model, directory):
    encoder = WhisperEncoder.from_pretrained(
        directory, pad_seconds=0, keep_padding=True
    )
    speech, lengths = batch()
    frames, frame_lengths = encoder(speech, lengths)
    assert frame_lengths.tolist() == [50, 50, 50, 150]
    # Against a Whisper whose position table is cut to the frames there are.
    short = copy.deepcopy(model.encoder)
    short.config.max_source_positions = 150
    short.embed_positions = torch.nn.Embedding.from_pretrained(
        model.encoder.embed_positions.weight[:150]
    )
    with torch.no_grad():
        reference = short(log_mel(torch.nn.functional.pad(speech[3:], (0, 500))))
    expected = reference.last_hidden_state
    torch.testing.assert_close(frames[3:], expected, rtol=0, atol=1e-5)


def test_pad_0_never_exceeds_the_position_table(sizes):
    encoder = WhisperEncoder(replace(sizes, max_frames=75), pad_seconds=0)
    assert encoder.padded_samples(15_000) == 16_000
    assert encoder.padded_samples(17_000) == 24_000


def test_frozen(directory):
    encoder = WhisperEncoder.from_pretrained(directory, pad_seconds=0)
    outer = torch.nn.ModuleList([encoder]).train()
    assert outer.training and not encoder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    speech, lengths = batch()
    frames, _ = encoder(speech.requires_grad_(), lengths)
    assert not frames.requires_grad


def test_bfloat16(directory):
    speech, lengths = batch()
    full, _ = WhisperEncoder.from_pretrained(directory, pad_seconds=0)(speech, lengths)
    half, _ = WhisperEncoder.from_pretrained(
        directory, pad_seconds=0, dtype=torch.bfloat16
    )(speech, lengths)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("lengths", "message"), [([480_001], "30.00 s long"), ([0], "holds no samples")]
)
def test_row_that_does_not_fit(directory, lengths, message):
    encoder = WhisperEncoder.from_pretrained(directory, pad_seconds=0)
    with pytest.raises(UserError, match=message):
        encoder(torch.zeros(1, 480_001), torch.tensor(lengths))


@pytest.mark.parametrize("seconds", [31.0, -1.0, 0.015])
def test_padding_that_does_not_fit(sizes, seconds):
    with pytest.raises(UserError, match=r"pad_seconds: .* from 0 to 30"):
        WhisperEncoder(sizes, pad_seconds=seconds)
