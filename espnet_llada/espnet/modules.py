"""Our encoder, post-encoder and decoders as ESPnet2 knows such parts."""

from __future__ import annotations

from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.postencoder.abs_postencoder import AbsPostEncoder
from torch import Tensor

from espnet_llada.adapter.qformer import WindowQFormer
from espnet_llada.decoder import LMDecoder
from espnet_llada.model import ATTENTION, build_encoder


class FrozenWhisperEncoder(AbsEncoder):
    """``encoder: whisper_frozen``; ``encoder_conf`` as ``model.build_encoder``.

    Takes waveforms, so no frontend, normalisation or SpecAugment goes before it.
    """

    takes_waveform = True

    def __init__(self, input_size: int, **conf):
        super().__init__()
        self.whisper = build_encoder(**conf)
        self.weights = self.whisper.weights

    def output_size(self) -> int:
        return self.whisper.d_model

    def forward(self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor = None):
        """(B, T) samples -> frames (B, F, d), lengths (B,), None."""
        frames, lengths = self.whisper(xs_pad, ilens)
        return frames, lengths, None


class WindowQFormerPostEncoder(WindowQFormer, AbsPostEncoder):
    """``postencoder: window_qformer``; ``postencoder_conf`` as ``WindowQFormer``."""

    def output_size(self) -> int:
        return self.hidden


class _ESPnetDecoder(LMDecoder, AbsDecoder):
    """``decoder_conf`` as ``LMDecoder``; ESPnet's vocabulary is not used."""

    kind: str

    def __init__(self, vocab_size: int, encoder_output_size: int, **conf):
        super().__init__(encoder_output_size, attention=ATTENTION[self.kind], **conf)

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
            return self.logits_fn(prefix, ys_in_lens)(ys_in_pad), ys_in_lens
        return self.next_token_logits(prefix, ys_in_pad, ys_in_lens), ys_in_lens + 1


class LLaDADecoder(_ESPnetDecoder):
    """``decoder: llada``: bidirectional attention, masked diffusion."""

    kind = "llada"


class LLaMADecoder(_ESPnetDecoder):
    """``decoder: llama``: the autoregressive twin, our baseline."""

    kind = "llama"
