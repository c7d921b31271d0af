"""The network of a train config on the meta device: shapes without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from espnet_llada.build import (
    ATTENTION,
    POSTENCODER,
    DecoderConf,
    check_config,
    is_ours,
    read_conf,
)
from espnet_llada.core.qformer import WindowQFormer
from espnet_llada.io.schema import named
from espnet_llada.networks.backbone import Backbone
from espnet_llada.networks.encoder import SAMPLES_PER_FRAME, WhisperEncoder
from espnet_llada.networks.llama_files import empty_llama, llama_from
from espnet_llada.networks.lora import LoraOptions, add_lora
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.plan.architectures import LANGUAGE_MODELS, whisper_sizes
from espnet_llada.types import SAMPLE_RATE, UserError, local_path

if TYPE_CHECKING:
    from espnet_llada.extensions.ctc import AlignmentCTC

PROMPT_TOKENS = 24
"""LLaDA's chat template around the prompt; a few more or less change nothing here."""


@dataclass(frozen=True)
class Load:
    """What one GPU does in one iteration.

    Attributes:
        rows: utterances.
        seconds: of each.
        tokens: of each transcript.
    """

    rows: int
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Network:
    """The parts of a config, on the meta device.

    Attributes:
        ctc: beside the projection, whose scale is not what it begins with.
        lora, loss, max_eos_padding, amp: of its training.
        blind: prompt and audio do not see the response.
        whisper_decoder_layers: of the decoder that is not used.
    """

    encoder: WhisperEncoder
    postencoder: WindowQFormer
    projection: nn.Linear
    ctc: AlignmentCTC | None
    lm: Backbone
    lora: LoraOptions | None
    loss: str
    max_eos_padding: int
    amp: bool
    blind: bool
    whisper_decoder_layers: int

    def parts(self) -> dict[str, nn.Module]:
        """By the names that a checkpoint has."""
        return {
            "encoder": self.encoder,
            "postencoder": self.postencoder,
            "decoder.audio_prefix": nn.ModuleList([self.projection, self.ctc]),
            "decoder.lm": self.lm,
        }

    def frames(self, load: Load) -> tuple[int, int]:
        """Encoder frames of a row: those computed and those returned."""
        samples = round(load.seconds * SAMPLE_RATE)
        computed = self.encoder.padded_samples(samples) // SAMPLES_PER_FRAME
        own = -(-samples // SAMPLES_PER_FRAME)
        return computed, computed if self.encoder.keep_padding else own

    def vectors(self, load: Load) -> int:
        """The adapter's, of a row."""
        return self.windows(load) * len(self.postencoder.queries)

    def windows(self, load: Load) -> int:
        frames = self.frames(load)[1]
        round_ = math.floor if self.postencoder.drop_last_window else math.ceil
        return round_(frames / self.postencoder.window)

    def response(self, load: Load) -> int:
        """Response positions of a row."""
        if self.lm.attention == "causal":
            return load.tokens + 1
        return load.tokens + (0 if self.loss == "release" else 1 + self.max_eos_padding)

    def scored(self, load: Load) -> float:
        """Positions of a row that go through the head; masked ones are half of them."""
        causal = self.lm.attention == "causal"
        return self.response(load) * (1.0 if causal else 0.5)

    def positions(self, load: Load) -> int:
        """Positions of the LM: prompt, audio, response."""
        audio = self.vectors(load)
        # Causally the first token is predicted from the last audio position.
        causal = self.lm.attention == "causal"
        return PROMPT_TOKENS + audio + self.response(load) - causal


def build(config: Mapping[str, Any]) -> Network:
    """The network of a train config, without weights.

    Raises:
        UserError: parts that are not ours, or of unknown sizes.
    """
    check_config(config, "config")
    if not is_ours(config) or config["postencoder"] != POSTENCODER:
        raise UserError(
            "plan knows encoder whisper_frozen, postencoder window_qformer and "
            f"decoder {' or '.join(ATTENTION)}; this config has other parts"
        )
    encoder, decoder_layers = _encoder(**config.get("encoder_conf") or {})
    conf, extensions = read_conf(config.get("decoder_conf"))
    if conf.train_lm:
        raise UserError("plan knows an LM with LoRA, not decoder_conf train_lm: true")
    if extensions.posterior_prefix is not None:
        raise UserError("plan knows the linear prefix, not posterior_prefix")
    lora = None if conf.lora is None else LoraOptions(**conf.lora)
    lm = _lm(conf, ATTENTION[config["decoder"]], lora)
    with torch.device("meta"):
        postencoder = WindowQFormer(
            encoder.d_model, **config.get("postencoder_conf") or {}
        )
        projection = nn.Linear(postencoder.hidden, lm.width)
        ctc = _ctc(extensions.ctc, lm, postencoder.hidden)
    return Network(
        encoder,
        postencoder,
        projection,
        ctc,
        lm,
        lora,
        conf.loss,
        conf.max_eos_padding,
        bool(config.get("use_amp", False)),
        extensions.cached_prefix,
        decoder_layers,
    )


def _encoder(
    whisper: str = "whisper-tiny.en", dtype: str = "float32", **padding: Any
) -> tuple[WhisperEncoder, int]:
    """And how many layers its decoder has."""
    sizes, path = whisper_sizes(whisper), local_path(whisper)
    if path.exists():
        sizes = open_whisper(path).config
        layers = open_whisper(path, "decoder").config.layers
    elif sizes is None:
        raise UserError(f"{whisper}: unknown sizes; name a local directory of it")
    else:
        layers = 4 if "turbo" in whisper else sizes.layers
    with torch.device("meta"):
        encoder = WhisperEncoder(sizes, **padding)
    _cast(encoder, dtype)
    return encoder, layers


def _lm(conf: DecoderConf, attention: str, lora: LoraOptions | None) -> Backbone:
    name, path = conf.lm, local_path(conf.lm)
    if path.exists():
        body, settings = empty_llama(path)
    elif name in LANGUAGE_MODELS:
        settings = LANGUAGE_MODELS[name]
        body = llama_from(settings, name)
    else:
        known = ", ".join(LANGUAGE_MODELS)
        raise UserError(
            f"{name}: unknown sizes; name a local directory of it, or one of {known}"
        )
    _cast(body, conf.dtype)
    head = body.embed_tokens.weight
    if not body.config.tie_word_embeddings:
        head = nn.Parameter(torch.empty_like(head), requires_grad=False)
    mask_id = settings.get("mask_token_id", body.config.vocab_size)
    with torch.device("meta"):
        lm = Backbone(body, head, attention, mask_id)
        if lora is not None:
            add_lora(lm.body, lora)
    return lm


def _ctc(
    given: Mapping[str, Any] | None, lm: Backbone, width: int
) -> AlignmentCTC | None:
    """Embedding and head are equally large, so it does not matter which it reads."""
    if given is None:
        return None
    options = named("espnet_llada.extensions.ctc:Options")(**{**given, "scale": 1.0})
    if options.only:
        raise UserError("plan knows a ctc beside the LM's loss, not only: true")
    ctc = named("espnet_llada.extensions.ctc:AlignmentCTC")
    return ctc(lm.head, width, options)


def _cast(module: nn.Module, dtype: str) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
