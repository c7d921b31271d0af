from __future__ import annotations

import numpy as np
import pytest
import torch

from espnet_llada.networks.features import log_mel, mel_filterbank


def speechlike(rows: int, samples: int) -> torch.Tensor:
    """Noise under a slow envelope over tones: many magnitudes in one row."""
    g = torch.Generator().manual_seed(0)
    t = torch.arange(samples) / 16_000
    envelope = torch.exp(-4 * torch.sin(2 * torch.pi * 1.5 * t) ** 2)
    tones = torch.sin(2 * torch.pi * 220 * t) + 0.3 * torch.sin(2 * torch.pi * 2500 * t)
    return 0.1 * envelope * (tones + torch.randn(rows, samples, generator=g))


@pytest.fixture(scope="module")
def extractor():
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    transformers = pytest.importorskip("transformers")
    return lambda n_mels: transformers.WhisperFeatureExtractor(feature_size=n_mels)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equals_transformers(extractor, n_mels):
    waveforms = speechlike(2, 16_000 * 30)
    waveforms[1, 16_000 * 4 :] = 0.0  # most of it padding, as for a short utterance
    reference = extractor(n_mels)(
        [row.numpy() for row in waveforms], sampling_rate=16_000, return_tensors="np"
    )["input_features"]
    ours = log_mel(waveforms, n_mels)
    assert ours.shape == (2, n_mels, 3000) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filterbank_equals_transformers(extractor, n_mels):
    reference = extractor(n_mels).mel_filters.T
    np.testing.assert_allclose(mel_filterbank(n_mels), reference, rtol=0, atol=1e-12)


def test_rows_have_floors_of_their_own():
    waveforms = speechlike(2, 16_000)
    waveforms[1] *= 1e-3
    together = log_mel(waveforms)
    for row in range(2):
        alone = log_mel(waveforms[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-6)
    spread = together.amax(dim=(1, 2)) - together.amin(dim=(1, 2))
    assert (spread <= 2.0 + 1e-6).all()  # 8 decades, divided by 4


@pytest.mark.parametrize("samples", [201, 319, 320, 16_001])
def test_one_frame_for_each_whole_hop(samples):
    assert log_mel(speechlike(1, samples)).shape == (1, 80, samples // 160)


def test_silence_is_finite():
    assert log_mel(torch.zeros(1, 16_000)).unique().tolist() == [-1.5]


def test_autocast_does_not_touch_it():
    waveforms = speechlike(1, 16_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_mel(waveforms)
    torch.testing.assert_close(inside, log_mel(waveforms), rtol=0, atol=0)


def test_caches_made_in_inference_mode_serve_gradients():
    with torch.inference_mode():
        log_mel(speechlike(1, 1000), n_mels=40)  # a bank no other test makes
    waveforms = speechlike(1, 1000).requires_grad_()
    log_mel(waveforms, n_mels=40).sum().backward()
    assert waveforms.grad.isfinite().all()


@pytest.mark.parametrize(
    "waveforms",
    [torch.zeros(16_000), torch.zeros(1, 200), torch.zeros(1, 400).half()],
    ids=["rank", "too short", "half"],
)
def test_refuses(waveforms):
    with pytest.raises(ValueError):
        log_mel(waveforms)
