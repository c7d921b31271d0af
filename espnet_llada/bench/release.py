"""The work that the paper's release does beside what decoding needs.

``profile: release`` gives its tokens; for its time too, audio is padded to 30 s and
kept that long, and each pass computes logits and softmax of the whole sequence, prompt
and audio included.
"""

from __future__ import annotations

from torch import Tensor, nn

from espnet_llada.bench.ways import Way, sharing
from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import Stages
from espnet_llada.networks.encoder import WhisperEncoder

PAD_SECONDS = 30.0


def padding(encoder: WhisperEncoder) -> WhisperEncoder:
    """The same weights behind audio that is padded, and kept that long."""
    return sharing(encoder, WhisperEncoder, pad_seconds=PAD_SECONDS, keep_padding=True)


def released(model: nn.Module) -> Way:
    """A model that decodes with the release's waste."""
    padded = padding(model.encoder), model.postencoder, model.decoder
    wasteful = WhisperLLM(*padded)
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
