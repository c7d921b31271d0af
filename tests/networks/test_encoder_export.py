"""An encoder of either kind of file becomes a directory that is read as the same."""

from __future__ import annotations

import torch

from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.whisper_export import export_encoder


def test_transposed_views_of_an_openai_checkpoint(openai_content, tmp_path):
    state = {
        name: v.T.contiguous().T if v.dim() == 2 else v
        for name, v in openai_content["model_state_dict"].items()
    }
    assert not all(v.is_contiguous() for v in state.values())
    source, target = tmp_path / "tiny.pt", tmp_path / "out"
    torch.save({**openai_content, "model_state_dict": state}, source)
    target.mkdir()
    export_encoder(source, target)
    expected, found = map(WhisperEncoder.from_pretrained, map(str, (source, target)))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
