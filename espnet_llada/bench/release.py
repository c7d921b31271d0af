"""The work that the paper's release does beside what decoding needs.

``profile: release`` gives its tokens; for its time too, audio is padded to 30 s and
kept that long, and each pass computes logits and softmax of the whole sequence, prompt
and audio included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from espnet_llada.extensions.posterior_prefix.listening import Listening
from espnet_llada.networks.encoder import WhisperEncoder

PAD_SECONDS = 30.0


def padding(encoder: WhisperEncoder) -> WhisperEncoder:
    """The same weights behind audio that is padded, and kept that long."""
    with torch.device("meta"):
        padded = WhisperEncoder(encoder.config, PAD_SECONDS, keep_padding=True)
    padded.load_state_dict(encoder.state_dict(), assign=True)
    return padded


@contextmanager
def as_released(model: nn.Module) -> Iterator[None]:
    """Have a model decode with the release's waste, and undo it in the end."""
    encoder, decoder = model.encoder, model.decoder
    model.encoder = padding(encoder)

    def logits_fn(
        heard: Listening, lengths: Tensor, block_cache: bool = False
    ) -> Callable[[Tensor, Tensor], Tensor]:
        prefix = heard.prefix

        def logits(tokens: Tensor, wanted: Tensor) -> Tensor:
            first, rest = decoder.sequence_hidden(prefix, tokens, lengths)
            head, everywhere = decoder.head(prefix, first), torch.ones_like(wanted)
            logits = head.logits(rest, everywhere)
            for part in (decoder.lm.logits(first), logits):
                part.softmax(dim=-1)
            return logits[wanted.flatten()]

        return logits

    decoder.logits_fn = logits_fn
    try:
        yield
    finally:
        del decoder.logits_fn
        model.encoder = encoder
