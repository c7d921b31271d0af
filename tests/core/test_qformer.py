from __future__ import annotations

import pytest
import torch

from espnet_llada.core.qformer import WindowQFormer


@pytest.fixture()
def qformer() -> WindowQFormer:
    torch.manual_seed(0)
    return WindowQFormer(12, hidden=16, heads=2, ffn=32, layers=2).eval()


def test_equals_transformers_blip2_qformer(qformer):
    """The published network (BLIP-2's) under our names, one window at a time."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    reference = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            cross_attention_frequency=1,
            encoder_hidden_size=12,
            layer_norm_eps=1e-12,
        )
    ).eval()
    reference.layernorm.load_state_dict(qformer.norm.state_dict())
    for ours, theirs in zip(qformer.layers, reference.encoder.layer, strict=True):
        pairs = (
            (ours.self_attention, theirs.attention),
            (ours.cross_attention, theirs.crossattention),
        )
        for mine, other in pairs:
            for name in ("query", "key", "value"):
                getattr(other.attention, name).load_state_dict(
                    getattr(mine, name).state_dict()
                )
            other.output.dense.load_state_dict(mine.output.state_dict())
            other.output.LayerNorm.load_state_dict(mine.norm.state_dict())
        theirs.intermediate_query.dense.load_state_dict(ours.ffn_in.state_dict())
        theirs.output_query.dense.load_state_dict(ours.ffn_out.state_dict())
        theirs.output_query.LayerNorm.load_state_dict(ours.ffn_norm.state_dict())
    frames = torch.randn(1, 34, 12)
    with torch.no_grad():
        got, lengths = qformer(frames, torch.tensor([34]))
        expected = [
            reference(
                query_embeds=qformer.queries[None],
                encoder_hidden_states=frames[:, i : i + 17],
            ).last_hidden_state
            for i in (0, 17)
        ]
    assert lengths.tolist() == [8]
    assert torch.allclose(got, torch.cat(expected, dim=1), atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(qformer):
    lengths = torch.tensor([40, 5, 17])
    frames = torch.randn(3, 40, 12)
    for row, n in enumerate(lengths):
        frames[row, n:] = 0
    with torch.no_grad():
        together, counts = qformer(frames, lengths)
        assert counts.tolist() == [12, 4, 4]
        assert together.isfinite().all()
        for row, n in enumerate(lengths):
            alone, _ = qformer(frames[row : row + 1, :n], n[None])
            got = together[row : row + 1, : counts[row]]
            assert torch.allclose(got, alone, atol=1e-6)


def test_missing_frames_of_the_last_window_are_not_heard(qformer):
    frames = torch.randn(1, 34, 12)
    noisy = frames.clone()
    noisy[:, 20:] = 9.0
    with torch.no_grad():
        a, _ = qformer(frames, torch.tensor([20]))
        b, _ = qformer(noisy, torch.tensor([20]))
    assert torch.equal(a, b)


def test_the_release_drops_a_last_window_that_is_not_full():
    torch.manual_seed(0)
    qformer = WindowQFormer(
        12, hidden=16, heads=2, ffn=32, layers=1, drop_last_window=True
    ).eval()
    vectors, lengths = qformer(torch.randn(1, 1500, 12), torch.tensor([1500]))
    assert vectors.shape == (1, 352, 16)
    assert lengths.tolist() == [352]
