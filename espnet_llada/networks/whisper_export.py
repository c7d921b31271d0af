"""Writes Whisper's encoder alone, in the Hugging Face layout that we read."""

from __future__ import annotations

from pathlib import Path

import torch

from espnet_llada.io.files import write_json
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.whisper_file import hf_name, open_whisper


def export_encoder(
    source: Path, target: Path, dtype: torch.dtype | None = None
) -> None:
    """Write the encoder of ``source`` as config.json and model.safetensors.

    Args:
        source: an openai-whisper ``.pt`` or a Hugging Face directory.
        target: existing directory to write into.
        dtype: of the weights written; that of each tensor in ``source`` by default.

    Raises:
        UserError: see ``open_whisper``; or a tensor is missing, unexpected or of
            another shape.
    """
    file = open_whisper(source)
    with torch.device("meta"):
        encoder = WhisperEncoder(file.config)
    stored = file.check({name: v.shape for name, v in encoder.state_dict().items()})
    tensors = {
        f"encoder.{hf_name(name)}": tensor.read(dtype)
        for name, tensor in stored.items()
    }
    save_tensors(tensors, target / "model.safetensors")
    config = {
        "model_type": "whisper",
        "d_model": file.config.d_model,
        "encoder_layers": file.config.layers,
        "encoder_attention_heads": file.config.heads,
        "encoder_ffn_dim": file.config.ffn,
        "num_mel_bins": file.config.n_mels,
        "max_source_positions": file.config.max_frames,
        "activation_function": "gelu",
    }
    write_json(target / "config.json", config)
