"""Our encoder, post-encoders and decoders with ESPnet2's interfaces."""

from __future__ import annotations

import contextlib
from pathlib import Path

from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.postencoder.abs_postencoder import AbsPostEncoder
from torch import Tensor

from espnet_llada.build import (
    ATTENTION,
    POSTENCODERS,
    build_encoder,
    decoder_parts,
)
from espnet_llada.core.model import LMDecoder
from espnet_llada.io.feature_cache import check_scp
from espnet_llada.io.schema import named
from espnet_llada.io.weights import Weights
from espnet_llada.types import UserError


class FrozenWhisperEncoder(AbsEncoder):
    """``encoder: whisper_frozen``; ``encoder_conf`` as ``build.build_encoder``.

    Takes waveforms, so there is no frontend, normalisation or SpecAugment before it; or
    its own frames from ``espnet-llada features``, which it returns unchanged.
    """

    takes_waveform = True

    def __init__(self, input_size: int, **conf):
        super().__init__()
        self.whisper = build_encoder(**conf)
        self.weights = self.whisper.weights

    def output_size(self) -> int:
        return self.whisper.d_model

    def forward(self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor = None):
        """Samples (B, T) or frames (B, F, d) -> frames, lengths (B,), None."""
        if xs_pad.dim() == 3:
            self._check_width(xs_pad.shape[2])
            return xs_pad.to(self.whisper.dtype), ilens, None
        frames, lengths = self.whisper(xs_pad, ilens)
        return frames, lengths, None

    def check_data(self, scp: Path) -> None:
        """Raise for cached frames of another encoder; see ``check_scp``."""
        check_scp(scp, self.whisper.identity(self.weights))

    def _check_width(self, width: int) -> None:
        if width != self.whisper.d_model:
            raise UserError(
                f"speech has {width} columns; {self.weights.name} takes waveforms, or "
                f"frames of {self.whisper.d_model} from `espnet-llada features`"
            )


def postencoder_classes() -> dict[str, type]:
    """Our post-encoders as ESPnet classes, by name; only those installed."""
    found = {}
    for name, place in POSTENCODERS.items():
        with contextlib.suppress(UserError):
            own = named(place)
            bases = _OutputSize, own, AbsPostEncoder
            found[name] = type(f"ESPnet{own.__name__}", bases, {})
    return found


class _OutputSize:
    """ESPnet's interface of a post-encoder."""

    def output_size(self) -> int:
        return self.hidden


class _ESPnetDecoder(LMDecoder, AbsDecoder):
    """``LMDecoder`` of a ``decoder_conf``; ESPnet's vocabulary is not used."""

    kind: str

    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        whisper: Weights | None = None,
        **conf,
    ):
        given = encoder_output_size, ATTENTION[self.kind], whisper
        parts, lm = decoder_parts(*given, conf)
        super().__init__(**parts)
        self.weights = lm

    def forward(
        self, hs_pad: Tensor, hlens: Tensor, ys_in_pad: Tensor, ys_in_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of a response.

        Args:
            hs_pad: (B, A, encoder_output_size).
            hlens: (B,) int64.
            ys_in_pad: (B, L) int64: for LLaDA a canvas, with mask tokens; for LLaMA
                the transcript.
            ys_in_lens: (B,) int64.

        Returns:
            LLaDA: (B, L, V), a prediction for each canvas position. LLaMA:
            (B, L + 1, V), the next token after the audio and after each token. And
            the valid lengths (B,).
        """
        prefix = self.prefix(hs_pad, hlens)
        if self.diffuses:
            return self.canvas_logits(prefix, ys_in_pad, ys_in_lens), ys_in_lens
        head, hidden = self.next_token_hidden(prefix, ys_in_pad, ys_in_lens)
        return head.all_logits(hidden), ys_in_lens + 1


class LLaDADecoder(_ESPnetDecoder):
    """``decoder: llada``: bidirectional attention, masked diffusion."""

    kind = "llada"


class LLaMADecoder(_ESPnetDecoder):
    """``decoder: llama``: the autoregressive twin, our baseline."""

    kind = "llama"
