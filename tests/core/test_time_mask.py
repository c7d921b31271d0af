"""SpecAugment's time masking on the encoder's frames."""

from __future__ import annotations

import torch

from espnet_llada.core.qformer import WindowQFormer

LENGTHS = torch.tensor([400, 90])


def seen_by(training: bool) -> torch.Tensor:
    """The frames that reach the windows: (2, 400) bool."""
    adapter = WindowQFormer(
        8, hidden=8, layers=1, heads=2, ffn=8, window=4, queries=1, time_mask=12
    )
    seen = []

    def read(keys, _):
        seen.append(keys.abs().sum(dim=-1) > 0)
        return torch.zeros(len(keys), 1, 8)

    adapter.read = read
    adapter.train(training)(torch.ones(2, 400, 8), LENGTHS)
    return seen[0].reshape(2, 400)


def test_spans_are_hidden_in_training_alone():
    assert seen_by(training=False).all()
    torch.manual_seed(0)
    most = [0, 0]
    for _ in range(50):
        hidden = ~seen_by(training=True)
        for row, n in enumerate(LENGTHS.tolist()):
            count = int(hidden[row, :n].sum())
            assert count <= 12 * (n // 100 + 1)
            most[row] = max(most[row], count)
            edges = hidden[row].int().diff().abs().sum()
            assert edges <= 2 * (n // 100 + 1)  # spans, not single frames
        assert not hidden[1, 90:].any()  # nothing is wasted behind the end
    assert most[0] > 20 and most[1] > 6
