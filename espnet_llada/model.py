"""Composes encoder, Q-Former and decoder from the sections of a train YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada import weights
from espnet_llada.adapter.qformer import Frames, WindowQFormer, WindowReader
from espnet_llada.adapter.whisper_qformer import WhisperQFormer
from espnet_llada.audio.encoder import WhisperEncoder
from espnet_llada.decoder import LMDecoder

ENCODER, POSTENCODER = "whisper_frozen", "window_qformer"
POSTENCODERS = {
    POSTENCODER: WindowQFormer,
    "whisper_qformer": WhisperQFormer,
    "frames": Frames,
}
ATTENTION = {"llada": "bidirectional", "llama": "causal"}
"""Our names in ESPnet2's ``encoder``, ``postencoder`` and ``decoder`` choices."""


def build_encoder(
    whisper: str = "whisper-tiny.en",
    pad_seconds: float = 30.0,
    keep_padding: bool = False,
    dtype: str = "float32",
) -> WhisperEncoder:
    """The frozen encoder of ``encoder_conf``; see ``WhisperEncoder``.

    Args:
        whisper: name or path of the weights (see ``espnet_llada.weights``).
        pad_seconds: silence-pad every utterance to this.
        keep_padding: hand the frames of the padding on.
        dtype: of the weights, ``float32`` or ``bfloat16``.
    """
    resolved = weights.resolve(whisper, "whisper")
    encoder = WhisperEncoder.from_pretrained(
        resolved.path, pad_seconds, keep_padding, dtype=getattr(torch, dtype)
    )
    encoder.weights = resolved
    return encoder


def compile_layers(
    encoder: nn.Module,
    postencoder: nn.Module | None,
    decoder: LMDecoder,
    backend: str = "inductor",
) -> None:
    """Have training run the layers by torch.compile, of those parts that are ours.

    The first steps take minutes for it.

    Args:
        encoder, postencoder, decoder: ESPnet's, or ours.
        backend: torch.compile's.
    """
    for part in (encoder, postencoder, decoder.lm):
        if compile_part := getattr(part, "compile_layers", None):
            compile_part(backend)


class WhisperLLM(nn.Module):
    """Whisper-LLaDA or Whisper-LLaMA without ESPnet.

    The children carry the names that ESPnet's model gives them, so a checkpoint fits
    both.
    """

    def __init__(
        self,
        encoder: WhisperEncoder,
        postencoder: WindowReader | Frames,
        decoder: LMDecoder,
    ):
        super().__init__()
        self.encoder, self.postencoder, self.decoder = encoder, postencoder, decoder
        if decoder.compiles:
            compile_layers(encoder, postencoder, decoder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WhisperLLM:
        """Build from a train config whose parts are all ours (see ``is_ours``)."""
        encoder = build_encoder(**config.get("encoder_conf") or {})
        postencoder = POSTENCODERS[config["postencoder"]](
            encoder.d_model, **config.get("postencoder_conf") or {}
        )
        decoder = LMDecoder(
            postencoder.hidden,
            attention=ATTENTION[config["decoder"]],
            **config.get("decoder_conf") or {},
        )
        return cls(encoder, postencoder, decoder)

    def encode(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, T) and samples (B,) -> (B, A, hidden), vectors (B,)."""
        return self.postencoder(*self.encoder(speech, lengths))


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a train config names our encoder, Q-Former and decoder."""
    return (
        config.get("encoder") == ENCODER
        and config.get("postencoder") in POSTENCODERS
        and config.get("decoder") in ATTENTION
    )
