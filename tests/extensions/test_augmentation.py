"""What training does to the frames of a ``whisper_qformer``, and decoding does not."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.extensions.whisper_qformer import WhisperQFormer

LENGTHS = torch.tensor([400, 90])


@pytest.fixture()
def adapter_of(tiny_whisper):
    def build(**options) -> WhisperQFormer:
        torch.manual_seed(0)
        return WhisperQFormer(16, str(tiny_whisper), **options)

    return build


def seen_by(adapter: WhisperQFormer, training: bool) -> torch.Tensor:
    """The frames that reach the windows of 4: (2, 400) bool."""
    seen = []

    def layers(_, given):
        seen.append(given[1].abs().sum(dim=-1) > 0)

    handle = adapter.blocks.register_forward_pre_hook(layers)
    with torch.no_grad():
        adapter.train(training)(torch.ones(2, 400, 16), LENGTHS)
    handle.remove()
    return seen[0].reshape(2, 400)


def test_spans_are_hidden_in_training_alone(adapter_of):
    adapter = adapter_of(window=4, time_mask=12)
    plain = seen_by(adapter, training=False)
    assert plain[0].all() and plain[1, :90].all()
    torch.manual_seed(0)
    most = [0, 0]
    for _ in range(50):
        hidden = ~seen_by(adapter, training=True)
        for row, n in enumerate(LENGTHS.tolist()):
            count = int(hidden[row, :n].sum())
            assert count <= 12 * (n // 100 + 1)
            most[row] = max(most[row], count)
            edges = hidden[row, :n].int().diff().abs().sum()
            assert edges <= 2 * (n // 100 + 1)  # spans, not single frames
    assert most[0] > 20 and most[1] > 6


def test_jitter_cuts_the_windows_elsewhere_in_training_alone(adapter_of):
    reader = adapter_of(window=5, queries=4, jitter=True)
    frames, length = torch.randn(1, 13, 16), torch.tensor([13])
    with torch.no_grad():
        plain, counts = reader.eval()(frames, length)
        assert counts.tolist() == [3 * 4]
        cut = {0: plain}
        for early in (1, 2, 3, 4):  # each part as if it were all there is
            parts = frames[:, : 5 - early], frames[:, 5 - early :]
            read = [reader(x, torch.tensor([x.shape[1]]))[0] for x in parts]
            cut[early] = torch.cat(read, dim=1)
        reader.train()
        seen = set()
        for _ in range(40):
            got, counts = reader(frames, length)
            same = {
                early
                for early, expected in cut.items()
                if got.shape == expected.shape and torch.allclose(got, expected)
            }
            assert len(same) == 1
            assert counts.tolist() == [got.shape[1]]
            seen |= same
    assert seen == set(cut)
