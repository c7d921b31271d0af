"""Checks of what an extension needs of a model; one-line errors."""

from __future__ import annotations

from espnet_llada.core.model import LMDecoder
from espnet_llada.types import UserError


def need_scorer(decoder: LMDecoder, name: str) -> None:
    """Raise for the option ``name`` if the model has no ``whisper_scorer``."""
    if getattr(decoder.audio_prefix, "scorer", None) is None:
        raise UserError(
            f"{name}: this model has no scorer; train with 'whisper_scorer' in "
            "decoder_conf"
        )


def need_ctc(decoder: LMDecoder, name: str) -> None:
    """Raise for the option ``name`` if the model has no CTC."""
    if getattr(decoder.audio_prefix, "ctc", None) is None:
        raise UserError(
            f"{name}: this model has no CTC to make a draft; train with 'ctc' in "
            "decoder_conf"
        )


def need_diffusion(decoder: LMDecoder, name: str) -> None:
    """Raise for the option ``name`` if the LM is autoregressive."""
    need(decoder.diffuses, name, "is for a model with 'decoder: llada'")


def need(holds: bool, name: str, why: str) -> None:
    """Raise for the option ``name`` unless ``holds``."""
    if not holds:
        raise UserError(f"{name}: {why}")
