"""Builds models from the sections of a train YAML.

The only file that knows both the core and the extensions of a model by name. An
extension is imported when a config uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.objective import LOSSES, Objective
from espnet_llada.core.prefix import AudioPrefix, LinearPrefix
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.io import weights
from espnet_llada.io.schema import Dtype, OptionsOf, check_options, checked, named
from espnet_llada.networks.backbone import Backbone
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.tokenizer import CASES, LMTokenizer
from espnet_llada.types import UserError

ENCODER, POSTENCODER = "whisper_frozen", "window_qformer"
POSTENCODERS = {
    POSTENCODER: "espnet_llada.core.qformer:WindowQFormer",
    "whisper_qformer": "espnet_llada.extensions.whisper_qformer:WhisperQFormer",
    "frames": "espnet_llada.extensions.whisper_qformer:Frames",
}
ATTENTION = {"llada": "bidirectional", "llama": "causal"}
"""Our names in ESPnet2's ``encoder``, ``postencoder`` and ``decoder`` choices."""


_LORA = OptionsOf("espnet_llada.networks.lora:LoraOptions")
_CTC = OptionsOf("espnet_llada.extensions.ctc:Options")
_POSTERIOR = OptionsOf("espnet_llada.extensions.posterior_prefix.prefix:Options")
_SCORER = OptionsOf("espnet_llada.extensions.whisper_scorer.network:Options")


def build_encoder(
    whisper: str = "whisper-tiny.en",
    pad_seconds: Annotated[float, Meta(ge=0.0, le=30.0)] = 30.0,
    keep_padding: bool = False,
    dtype: Dtype = "float32",
) -> WhisperEncoder:
    """The frozen encoder of ``encoder_conf``; see ``WhisperEncoder``.

    Args:
        whisper: name or path of the weights (see ``espnet_llada.io.weights``).
        pad_seconds: silence-pad every utterance to this.
        keep_padding: return the frames of the padding too.
        dtype: of the weights, ``float32`` or ``bfloat16``.
    """
    resolved = weights.resolve(whisper, "whisper")
    encoder = WhisperEncoder.from_pretrained(
        resolved.path, pad_seconds, keep_padding, dtype=getattr(torch, dtype)
    )
    encoder.weights = resolved
    return encoder


@dataclass(frozen=True)
class DecoderConf:
    """The options of ``decoder_conf`` that the paper has.

    Attributes:
        lm: name or directory of the LM (see ``espnet_llada.io.weights``).
        lora: fields of ``LoraOptions``; None: no LoRA.
        train_lm: train all layers of a small LM; its embedding and output head stay
            frozen.
        dtype: of the frozen LM.
        prompt: the instruction before the audio.
        chat_template: wrap the prompt in the LM's chat template.
        text_case: see ``LMTokenizer``.
        loss, max_eos_padding: see ``core.objective.noisy_canvas``; masked diffusion.
        compile_layers: torch.compile the layers of encoder, Q-Former and LM in
            training; for a GPU.
    """

    lm: str = "smollm2-135m"
    lora: Annotated[Mapping[str, Any], _LORA] | None = None
    train_lm: bool = False
    dtype: Dtype = "float32"
    prompt: str = "Transcribe the audio:"
    chat_template: bool = True
    text_case: Literal[CASES] = "lower"
    loss: Literal[LOSSES] = "llada"
    max_eos_padding: Annotated[int, Meta(ge=0, le=8192)] = 32
    compile_layers: bool = False

    def __post_init__(self) -> None:
        if self.lora is not None and self.train_lm:
            raise UserError("train_lm: true leaves nothing to lora; set one of them")


@dataclass(frozen=True)
class ExtensionConf:
    """The options of ``decoder_conf`` that are extensions.

    Attributes:
        ctc: CTC loss over the LM's tokens, on the adapter's vectors.
        posterior_prefix: posterior-weighted LM embeddings as audio prefix; needs
            ``postencoder: whisper_qformer`` and an LM with Whisper's tokens.
        whisper_scorer: Whisper's decoder as a scorer of drafts and first passes; needs
            a posterior prefix and an adapter with ``return_frames``.
        cached_prefix: prompt and audio do not attend to the response, so decoding
            computes their keys and values once. With a causal LM always so.
    """

    ctc: Annotated[Mapping[str, Any], _CTC] | None = None
    posterior_prefix: Annotated[Mapping[str, Any], _POSTERIOR] | None = None
    whisper_scorer: Annotated[Mapping[str, Any], _SCORER] | None = None
    cached_prefix: bool = False

    def __post_init__(self) -> None:
        if self.whisper_scorer is not None and self.posterior_prefix is None:
            raise UserError("whisper_scorer needs posterior_prefix; add it")


def read_conf(given: Mapping[str, Any] | None) -> tuple[DecoderConf, ExtensionConf]:
    """Parse a ``decoder_conf`` into its two parts.

    Raises:
        UserError: options that exclude one another.
    """
    own = {f.name for f in fields(ExtensionConf)}
    parts = {True: {}, False: {}}
    for name, value in (given or {}).items():
        parts[name in own][name] = value
    return DecoderConf(**parts[False]), ExtensionConf(**parts[True])


def decoder_parts(
    width: int,
    attention: str,
    whisper: weights.Weights | None,
    given: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], weights.Weights]:
    """The arguments of ``LMDecoder``, and the LM's weights.

    Args:
        width: width of the adapter's vectors.
        attention: ``bidirectional`` (LLaDA, masked diffusion) or ``causal`` (LLaMA).
        whisper: Whisper's weights, of the adapter or else of the encoder, whose
            tokens and decoder the extensions read; None without Whisper.
        given: ``decoder_conf``.

    Raises:
        UserError: weights or options that do not fit.
    """
    conf, more = read_conf(given)
    resolved = weights.resolve(conf.lm, "lm")
    tokenizer = LMTokenizer(resolved.path, conf.text_case)
    dtype = getattr(torch, conf.dtype)
    lm = Backbone.from_pretrained(resolved.path, attention, tokenizer.mask_id, dtype)
    if conf.lora is not None:
        from espnet_llada.networks.lora import LoraOptions, add_lora

        add_lora(lm.body, LoraOptions(**conf.lora))
    elif conf.train_lm:
        lm.train_layers()
    parts = {
        "lm": lm,
        "audio_prefix": _audio_prefix(width, lm, whisper, resolved, more),
        "tokenizer": tokenizer,
        "prompt_ids": tokenizer.prompt(conf.prompt, conf.chat_template),
        "objective": Objective(conf.loss, conf.max_eos_padding),
        "compiles": conf.compile_layers,
    }
    if more.cached_prefix:
        parts["prefix_attends"] = False
        parts["passes"] = named("espnet_llada.extensions.lm_cache:CachedPasses")
    return parts, resolved


def _audio_prefix(
    width: int,
    lm: Backbone,
    whisper: weights.Weights | None,
    resolved: weights.Weights,
    conf: ExtensionConf,
) -> AudioPrefix:
    ctc = conf.ctc
    if ctc is not None:
        ctc_options = named("espnet_llada.extensions.ctc:Options")
    if conf.posterior_prefix is None:
        projection = LinearProjection(width, lm.embedding.weight)
        if ctc is None:
            return LinearPrefix(projection)
        prefix = named("espnet_llada.extensions.ctc_prefix:CTCPrefix")
        return prefix.build(projection, lm, ctc_options(**ctc))
    if ctc is None:
        raise UserError("posterior_prefix needs ctc; give it a weight")
    if ctc.get("head", "embedding") != "embedding":
        raise UserError(
            f"ctc: {{head: {ctc['head']}}} is for the linear prefix, and "
            "posterior_prefix has a table of its own; take one of them out"
        )
    if whisper is None:
        raise UserError(
            "posterior_prefix needs a Whisper; set postencoder: whisper_qformer, or "
            "encoder: whisper_frozen"
        )
    module = "espnet_llada.extensions.posterior_prefix.prefix"
    scorer = conf.whisper_scorer
    if scorer is not None:
        own = named("espnet_llada.extensions.whisper_scorer.network:Options")
        scorer = own(**scorer)
    return named(f"{module}:PosteriorPrefix").build(
        width,
        whisper.name,
        (resolved.path, lm.width, lm.attention == "bidirectional"),
        named(f"{module}:Options")(**conf.posterior_prefix),
        ctc_options(**{"scale": 1.0, **ctc}),
        scorer,
    )


class _Sections(Struct):
    """The keys of a train config that are checked here."""

    encoder: str | None = None
    encoder_conf: dict[str, Any] | None = None
    postencoder: str | None = None
    postencoder_conf: dict[str, Any] | None = None
    decoder: str | None = None
    decoder_conf: dict[str, Any] | None = None


def check_config(config: Mapping[str, Any], where: object) -> None:
    """Check a config against the types and bounds of our parts' constructors.

    Args:
        config: a train config; parts of ESPnet's are not checked.
        where: its file, for messages.

    Raises:
        UserError: names the section, the key, and what is allowed.
    """
    sections = checked(dict(config), _Sections, where)
    if sections.encoder == ENCODER:
        _check(sections.encoder_conf, build_encoder, f"{where}: encoder_conf")
    if sections.postencoder in POSTENCODERS:
        kind = named(POSTENCODERS[sections.postencoder])
        _check(sections.postencoder_conf, kind, f"{where}: postencoder_conf")
    if sections.decoder in ATTENTION:
        both = DecoderConf, ExtensionConf
        _check(sections.decoder_conf, both, f"{where}: decoder_conf")


def _check(given: Mapping[str, Any] | None, kinds: Any, where: str) -> None:
    """Check options against a function, or against several dataclasses."""
    several = kinds if isinstance(kinds, tuple) else (kinds,)
    rest = dict(given or {})
    for kind in several[1:]:
        own = {f.name: rest.pop(f.name) for f in fields(kind) if f.name in rest}
        check_options(own, kind, where)
    check_options(rest, several[0], where)


def whisper_of(*parts: nn.Module | None) -> weights.Weights | None:
    """The Whisper weights of the first part that has some."""
    found = (getattr(part, "weights", None) for part in parts)
    return next((w for w in found if isinstance(w, weights.Weights)), None)


def compile_layers(
    encoder: nn.Module,
    postencoder: nn.Module | None,
    decoder: LMDecoder,
    backend: str = "inductor",
) -> None:
    """torch.compile the layers of our parts; the first training steps take minutes.

    Args:
        encoder, postencoder, decoder: ESPnet's, or ours.
        backend: of torch.compile.
    """
    for part in (encoder, postencoder, decoder.lm):
        if compile_part := getattr(part, "compile_layers", None):
            compile_part(backend)


def build_model(config: Mapping[str, Any]) -> WhisperLLM:
    """Build the model of a train config whose parts are all ours (``is_ours``)."""
    encoder = build_encoder(**config.get("encoder_conf") or {})
    postencoder = named(POSTENCODERS[config["postencoder"]])(
        encoder.d_model, **config.get("postencoder_conf") or {}
    )
    conf = config.get("decoder_conf")
    whisper, attention = whisper_of(postencoder, encoder), ATTENTION[config["decoder"]]
    parts, lm = decoder_parts(postencoder.hidden, attention, whisper, conf)
    decoder = LMDecoder(**parts)
    decoder.weights = lm
    if decoder.compiles:
        compile_layers(encoder, postencoder, decoder)
    return WhisperLLM(encoder, postencoder, decoder)


RENAMED = {
    "decoder.projection.": "decoder.audio_prefix.projection.",
    "decoder.ctc.": "decoder.audio_prefix.ctc.",
    "decoder.pointer.": "decoder.audio_prefix.copy_head.",
    "decoder.text_qformer.": "decoder.audio_prefix.scorer.",
    "decoder.read_again": "decoder.audio_prefix.rescored",
}
"""Prefixes of tensor names in older checkpoints, and the current ones."""


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their current names; see ``RENAMED``."""
    found = {}
    for name, tensor in state.items():
        for old, new in RENAMED.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        found[name] = tensor
    return found


def uses_our_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a train config names one of our decoders."""
    return config.get("decoder") in ATTENTION


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a train config names our encoder, Q-Former and decoder."""
    return (
        config.get("encoder") == ENCODER
        and config.get("postencoder") in POSTENCODERS
        and uses_our_decoder(config)
    )
