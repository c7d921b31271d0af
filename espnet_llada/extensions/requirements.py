"""What an extension needs of a model, refused in one line where it is not there."""

from __future__ import annotations

from espnet_llada.core.model import LMDecoder
from espnet_llada.types import UserError


def need_scorer(decoder: LMDecoder, name: str) -> None:
    """Refuse the option ``name`` for a model without a ``whisper_scorer``."""
    if getattr(decoder.audio_prefix, "scorer", None) is None:
        raise UserError(
            f"{name}: this model has no scorer; train with 'whisper_scorer' in "
            "decoder_conf"
        )


def need_ctc(decoder: LMDecoder, name: str) -> None:
    """Refuse the option ``name`` for a model without a CTC."""
    if getattr(decoder.audio_prefix, "ctc", None) is None:
        raise UserError(
            f"{name}: this model has no CTC to make a draft; train with 'ctc' in "
            "decoder_conf"
        )


def need(holds: bool, name: str, why: str) -> None:
    """Refuse the option ``name``, unless it ``holds``."""
    if not holds:
        raise UserError(f"{name}: {why}")
