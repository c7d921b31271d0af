"""Ways to run a model: as it is, or as the paper's release does; see ``fixed`` too.

``profile: release`` gives the release's tokens; for its time too, audio is padded to
30 s and kept that long, and each pass computes logits and softmax of the whole
sequence, prompt and audio included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.prefix import Prefix
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


def plain(model: nn.Module) -> Way:
    """As a user would run it."""
    return Way(model, Stages(model.encode))


def sharing(encoder: WhisperEncoder, kind: type[_Encoder], **padding: Any) -> _Encoder:
    """An encoder of some kind, with another padding, around the same weights."""
    own = {name: encoder.padding[name] for name in ("pad_seconds", "keep_padding")}
    with torch.device("meta"):
        other = kind(encoder.config, **{**own, **padding})
    other.load_state_dict(encoder.state_dict(), assign=True)
    return other


def released(model: nn.Module) -> Way:
    """With the release's waste."""
    padding = {"pad_seconds": 30.0, "keep_padding": True}
    encoder = sharing(model.encoder, WhisperEncoder, **padding)
    wasteful = WhisperLLM(encoder, model.postencoder, model.decoder)
    return Way(wasteful, Stages(wasteful.encode, passes=whole_sequence))


def whole_sequence(decoder: LMDecoder, prefix: Prefix, lengths: Tensor) -> LogitsFn:
    """Passes with logits and softmax of all positions; see ``core.model.Passes``."""
    prefix = prefix.rows(range(len(prefix)))

    def logits_fn(tokens: Tensor, wanted: Tensor) -> Tensor:
        first, hidden = decoder.hidden(prefix, tokens, lengths)
        logits = prefix.head.given(first).all_logits(hidden)
        for part in (decoder.lm.logits(first), logits):
            part.softmax(dim=-1)
        return logits[wanted]

    return logits_fn
