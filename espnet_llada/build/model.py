"""Composes encoder, Q-Former and decoder from the sections of a train YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from espnet_llada.core.decoder import LMDecoder
from espnet_llada.core.qformer import Frames, WindowQFormer, WindowReader
from espnet_llada.extensions.posterior_prefix.whisper_qformer import WhisperQFormer
from espnet_llada.io import weights
from espnet_llada.io.schema import Dtype, check_options, checked
from espnet_llada.networks.encoder import WhisperEncoder

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
    pad_seconds: Annotated[float, Meta(ge=0.0, le=30.0)] = 30.0,
    keep_padding: bool = False,
    dtype: Dtype = "float32",
) -> WhisperEncoder:
    """The frozen encoder of ``encoder_conf``; see ``WhisperEncoder``.

    Args:
        whisper: name or path of the weights (see ``espnet_llada.io.weights``).
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


PARTS = {
    "encoder": {ENCODER: build_encoder},
    "postencoder": POSTENCODERS,
    "decoder": dict.fromkeys(ATTENTION, LMDecoder),
}
"""Our choices in a config, and what takes the options of ``…_conf``."""


class _Sections(Struct):
    """The keys of a config that are read here; training has many more."""

    encoder: str | None = None
    encoder_conf: dict[str, Any] | None = None
    postencoder: str | None = None
    postencoder_conf: dict[str, Any] | None = None
    decoder: str | None = None
    decoder_conf: dict[str, Any] | None = None


def check_config(config: Mapping[str, Any], where: object) -> None:
    """Hold a config to what the constructors of our parts are annotated with.

    Args:
        config: of a training; parts that are not ours are not looked at.
        where: it comes from, for messages.

    Raises:
        UserError: names the section, the key, and what fits.
    """
    sections = checked(dict(config), _Sections, where)
    for part, ours in PARTS.items():
        if constructor := ours.get(getattr(sections, part)):
            given = getattr(sections, f"{part}_conf") or {}
            check_options(given, constructor, f"{where}: {part}_conf")


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
