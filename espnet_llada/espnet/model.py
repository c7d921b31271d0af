"""ESPnet's ASR model around one of our decoders."""

from __future__ import annotations

from collections.abc import Mapping

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_llada.checkpoint import load_trained, trained_state
from espnet_llada.decoder import LMDecoder
from espnet_llada.types import ESPNET_TOKENS


class ESPnetLLMModel(ESPnetASRModel):
    """Encoder side as ESPnet builds it, decoder ours; ``encode()`` is ESPnet's.

    The state dict holds the trained tensors and the identity of the frozen weights,
    see ``espnet_llada.checkpoint``.

    Args:
        parts: a stock ``ESPnetASRModel`` whose encoder side is taken over.
        decoder: one of our decoders.
    """

    def __init__(self, parts: ESPnetASRModel, decoder: LMDecoder):
        # ESPnetASRModel.__init__ would make an attention loss and a CTC head.
        AbsESPnetModel.__init__(self)
        self.frontend, self.specaug = parts.frontend, parts.specaug
        self.normalize, self.preencoder = parts.normalize, parts.preencoder
        self.encoder, self.postencoder = parts.encoder, parts.postencoder
        self.is_encoder_whisper = parts.is_encoder_whisper
        self.autocast_frontend = parts.autocast_frontend
        self.extract_feats_in_collect_stats = False
        self.token_list = list(ESPNET_TOKENS)
        self.decoder = decoder
        self.ctc = None

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        **kwargs,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss of a batch.

        Args:
            speech: (B, T) float32.
            speech_lengths: (B,) int64, samples.
            text: (B, L) int64, the LM's token ids without EOS; -1 behind the end.
            text_lengths: (B,) int64.
            kwargs: ``utt_id``, which Trainer may add.

        Returns:
            loss (scalar), statistics ("loss", "acc"), weight (batch size).
        """
        text = text[:, : int(text_lengths.max())]  # DataParallel hands wider rows
        audio, lengths = self.encode(speech, speech_lengths)
        if isinstance(audio, tuple):  # intermediate outputs of an ESPnet encoder
            audio = audio[0]
        prefix = self.decoder.prefix(audio, lengths)
        loss, stats = self.decoder.loss(prefix, text, text_lengths)
        return force_gatherable((loss, stats, len(speech)), loss.device)

    def state_dict(self, *args, **kwargs):
        """Trained tensors only."""
        if args or kwargs:  # a parent module collects: give it what it asks for
            return nn.Module.state_dict(self, *args, **kwargs)
        return trained_state(self)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign=False
    ):
        """Load trained tensors; always strict about them, see ``load_trained``."""
        load_trained(self, state_dict, "checkpoint")
        return nn.modules.module._IncompatibleKeys([], [])
