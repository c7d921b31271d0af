"""Ways to run a model: as it is, or with other parts around the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from espnet_llada.core.recognizer import Stages
from espnet_llada.networks.encoder import WhisperEncoder

_Encoder = TypeVar("_Encoder", bound=WhisperEncoder)


@dataclass(frozen=True)
class Way:
    """A model, and how the stages of a decoding are run.

    Attributes:
        model: a ``WhisperLLM``, or ESPnet's model with our decoder.
        stages: see there.
        llm: what runs the LM's layers where its own ``forward`` does not.
    """

    model: nn.Module
    stages: Stages
    llm: tuple[nn.Module, ...] = ()


def sharing(encoder: WhisperEncoder, kind: type[_Encoder], **padding: Any) -> _Encoder:
    """An encoder of some kind, with another padding, around the same weights."""
    own = {name: encoder.padding[name] for name in ("pad_seconds", "keep_padding")}
    with torch.device("meta"):
        other = kind(encoder.config, **{**own, **padding})
    other.load_state_dict(encoder.state_dict(), assign=True)
    return other
