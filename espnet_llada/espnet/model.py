"""ESPnet's ASR model around one of our decoders."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_llada.build import compile_layers, current_names
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.objective import Targets
from espnet_llada.espnet import distributed
from espnet_llada.io.checkpoint import load_trained, trained_state
from espnet_llada.networks.rows import Loss
from espnet_llada.types import ESPNET_TOKENS, UserError

_NO_WEIGHT = 1e-6
"""The weight of a batch with nothing to score. ESPnet divides by the sum of weights
over all processes, which must not be zero."""

TOKENIZER = "tokenizer"
"""In a batch whose ids these are: each row's ``LMTokenizer.fingerprint``, (B, 1)."""

_NAMED = 8  # utterances that an error lists


class NonFiniteLoss(UserError):
    """The loss is NaN or infinite; the message names the utterances."""


NO_SEARCH = (
    "ESPnet's own searches cannot decode a model with decoder: llada or llama; use "
    "espnet_llada.Speech2Text, or python -m espnet_llada.bin.asr_inference (asr.sh "
    "without use_streaming, use_maskctc and use_k2)"
)
_SEARCH = frozenset("eos sos blank_id mask_token use_transducer_decoder".split())
"""What ESPnet's searches ask a model for, which ours has not."""


class EncoderSide(ESPnetASRModel):
    """The parts before the decoder, as the task builds them.

    ``ESPnetASRModel.__init__`` would warn that there is no decoder, make an attention
    loss and change the encoder. ``ctc`` has the only parameters of a model that just
    extracts features, and an optimizer needs some.
    """

    def __init__(self, *, encoder: nn.Module | None, ctc: nn.Module, **others):
        AbsESPnetModel.__init__(self)
        for name in ("frontend", "specaug", "normalize", "preencoder", "postencoder"):
            setattr(self, name, others[name])
        self.encoder, self.ctc = encoder, ctc
        self.is_encoder_whisper = "Whisper" in type(encoder).__name__
        self.autocast_frontend = False
        self.extract_feats_in_collect_stats = True


class ESPnetLLMModel(ESPnetASRModel):
    """Encoder and adapter built by ESPnet, with our decoder; ``encode()`` is ESPnet's.

    The state dict holds the trained tensors and the identity of the frozen weights,
    see ``espnet_llada.io.checkpoint``.

    Args:
        parts: all before the decoder.
        decoder: one of our decoders.
        cpu_amp: use torch's bf16 autocast on a CPU. ESPnet's ``use_amp`` has effect on
            GPUs only; CPUs with matrix units gain as well.
    """

    def __init__(self, parts: EncoderSide, decoder: LMDecoder, cpu_amp: bool = False):
        AbsESPnetModel.__init__(self)
        self.frontend, self.specaug = parts.frontend, parts.specaug
        self.normalize, self.preencoder = parts.normalize, parts.preencoder
        self.encoder, self.postencoder = parts.encoder, parts.postencoder
        self.is_encoder_whisper = parts.is_encoder_whisper
        self.autocast_frontend = parts.autocast_frontend
        self.extract_feats_in_collect_stats = False
        self.token_list = list(ESPNET_TOKENS)
        self.decoder, self.cpu_amp = decoder, cpu_amp
        self.ctc = None
        if decoder.compiles:
            compile_layers(self.encoder, self.postencoder, decoder)

    def __getattr__(self, name: str):
        if name in _SEARCH:
            raise UserError(NO_SEARCH)
        return super().__getattr__(name)

    def encode(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As ESPnet's, without the outputs of intermediate layers (interctc)."""
        audio, lengths = super().encode(speech, speech_lengths)
        return (audio[0] if isinstance(audio, tuple) else audio), lengths

    def forward(
        self,
        speech: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        seeds: Tensor | None = None,
        utt_id: Sequence[str] = (),
        tokenizer: Tensor | None = None,
        stand_in: bool = False,
        **kwargs,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss of a batch.

        Args:
            speech: (B, T) float32. Without speech the response follows the prompt, as
                in the plain-text ablation: the LM is trained on text alone.
            speech_lengths: (B,) int64, samples.
            text: (B, L) int64, the LM's token ids without EOS; -1 behind the end.
                Required (the defaults allow ESPnet's order of arguments).
            text_lengths: (B,) int64.
            seeds: (B,) int64, seeds of each row's masks, see
                ``LMDecoder.training_loss``. If given, all processes of a distributed
                training must make this call.
            utt_id: B names, for messages; Trainer adds them.
            tokenizer: (B, 1) int64, see ``TOKENIZER``; required in training.
            stand_in: the rows have no weight; see ``data.TrainingBatches``.
            kwargs: ignored.

        Returns:
            loss (scalar), statistics ("loss", "acc": the share of scored positions
            whose most probable token is right, over all processes), and the loss's
            denominator, by which Trainer weights the processes.

        Raises:
            NonFiniteLoss: on every process, if it happens on one.
            UserError: in training, if the ids are not of the decoder's tokenizer.
        """
        if self.training and not stand_in:
            self._check_origin(tokenizer)
        text = text[:, : int(text_lengths.max())]  # DataParallel hands wider rows
        with self._autocast():
            loss = self._loss(speech, speech_lengths, text, text_lengths, seeds)
        if stand_in:
            loss = loss.of_nothing()
        stats = self._statistics(loss, utt_id, together=seeds is not None)
        weight = loss.weight.clamp(min=_NO_WEIGHT)
        return force_gatherable((loss.mean, stats, weight), loss.rows.device)

    def collect_feats(
        self, *batch: Tensor, tokenizer: Tensor | None = None, **rest: Tensor
    ) -> dict[str, Tensor]:
        """As ESPnet's; called by ESPnet3 only, before training."""
        self._check_origin(tokenizer)
        return super().collect_feats(*batch, **rest)

    def _check_origin(self, tokenizer: Tensor | None) -> None:
        """Raise unless the ids come with the fingerprint of our tokenizer."""
        own = self.decoder.tokenizer
        if tokenizer is None or (tokenizer != own.fingerprint).any():
            raise UserError(
                f"{own.path}: the text's token ids were not made by this tokenizer, "
                "but the model would be trained on them (by ESPnet3, ESPnet-EZ or "
                "with use_preprocessor: false?); train with "
                "python -m espnet_llada.bin.asr_train, or by asr.sh, and "
                "use_preprocessor: true"
            )

    def _autocast(self) -> contextlib.AbstractContextManager:
        if not self.cpu_amp:
            return contextlib.nullcontext()
        return torch.autocast("cpu", torch.bfloat16)

    def _loss(
        self,
        speech: Tensor | None,
        speech_lengths: Tensor | None,
        text: Tensor,
        text_lengths: Tensor,
        seeds: Tensor | None,
    ) -> Loss:
        audio = lengths = None
        if speech is not None:
            audio, lengths = self.encode(speech, speech_lengths)
        longest = int(text_lengths.max())
        if seeds is not None and self.decoder.objective.loss == "release":
            longest = distributed.largest(longest)
        rows = None if seeds is None else seeds.tolist()
        targets = Targets(text.clamp(min=0), text_lengths)
        return self.decoder.training_loss(audio, lengths, targets, rows, longest)

    def _statistics(
        self, loss: Loss, utt_id: Sequence[str], together: bool
    ) -> dict[str, Tensor | float]:
        finite = torch.isfinite(loss.rows).tolist()
        names = utt_id if len(utt_id) == len(finite) else range(len(finite))
        bad = [str(name) for name, fine in zip(names, finite, strict=True) if not fine]
        counts = float(loss.right), float(loss.scored), len(bad)
        right, scored, failures = distributed.total(*counts) if together else counts
        if failures:
            bad = distributed.gather(bad) if together else bad
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            raise NonFiniteLoss(
                f"the loss is NaN or infinite for utterances {', '.join(bad[:_NAMED])}"
                f"{more}"
            )
        return {"loss": loss.mean.detach(), "acc": right / max(scored, 1.0)}

    def state_dict(self, *args, **kwargs):
        """Trained tensors only."""
        if args or kwargs:  # called by a parent module
            return nn.Module.state_dict(self, *args, **kwargs)
        return trained_state(self)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign=False
    ):
        """Load trained tensors; always strict about them, see ``load_trained``."""
        load_trained(self, current_names(state_dict), "checkpoint")
        return nn.modules.module._IncompatibleKeys([], [])
