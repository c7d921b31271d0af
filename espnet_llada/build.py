"""Composes models from the sections of a train YAML, and what goes beyond the paper.

The one file that knows core and extensions by name. An extension is imported when a
config, or the options of a decoding, ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.masking import LogitsFn, Plan
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.objective import LOSSES, Objective
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import AudioPrefix, LinearPrefix, Prefix
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.core.recognizer import Batch, DecodingHook, MakeHook
from espnet_llada.core.sampler import MakePlan, SamplerResult
from espnet_llada.io import weights
from espnet_llada.io.schema import Dtype, OptionsOf, check_options, checked
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.lm.backbone import Backbone
from espnet_llada.networks.lm.lora import LoraOptions, add_lora
from espnet_llada.networks.lm.tokenizer import CASES, LMTokenizer
from espnet_llada.networks.random import RowRandom
from espnet_llada.types import UserError

ENCODER, POSTENCODER = "whisper_frozen", "window_qformer"
POSTENCODERS = {
    POSTENCODER: "espnet_llada.core.qformer:WindowQFormer",
    "whisper_qformer": "espnet_llada.extensions.whisper_qformer:WhisperQFormer",
    "frames": "espnet_llada.extensions.whisper_qformer:Frames",
}
ATTENTION = {"llada": "bidirectional", "llama": "causal"}
"""Our names in ESPnet2's ``encoder``, ``postencoder`` and ``decoder`` choices."""

EXTENSIONS = {
    "draft_refinement": "espnet_llada.extensions.draft_refinement",
    "canvas_size": "espnet_llada.extensions.canvas_size",
    "mask_ctc": "espnet_llada.extensions.mask_ctc",
    "confidence": "espnet_llada.extensions.confidence",
    "placeholders": "espnet_llada.extensions.placeholders",
    "joint": "espnet_llada.extensions.joint_decoding",
    "rescoring": "espnet_llada.extensions.rescoring",
    "block_cache": "espnet_llada.extensions.lm_cache",
}
"""Of decoding, by the names of their options, in the order in which they act. Each has
``Options``, a dataclass, and ``Hook``, a ``DecodingHook``."""

_WITHOUT_AUDIO = ("block_cache",)


def named(place: str) -> Any:
    """What ``module:name`` says.

    Raises:
        UserError: this installation lacks the module.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as e:
        raise UserError(
            f"{name}: this installation of espnet_llada lacks {module}; install it "
            "whole"
        ) from e


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
        keep_padding: hand the frames of the padding on.
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
    """``decoder_conf``; the last four are extensions.

    Attributes:
        lm: name or directory of the LM (see ``espnet_llada.io.weights``).
        lora: fields of ``LoraOptions``; None trains no LoRA.
        train_lm: train the LM's layers themselves, for a small LM; its embedding and
            head stay frozen.
        dtype: of the frozen LM.
        prompt: the instruction before the audio.
        chat_template: wrap the prompt in the LM's chat template.
        text_case: see ``LMTokenizer``.
        loss, max_eos_padding: see ``core.objective.noisy_canvas``; masked diffusion.
        compile_layers: training runs the layers of encoder, Q-Former and LM by
            torch.compile (``compile_layers``); for a GPU.
        ctc: a loss over the LM's tokens, on the adapter's vectors.
        posterior_prefix: the audio as mixtures of the LM's own embeddings, for
            ``postencoder: whisper_qformer`` and an LM with Whisper's tokens.
        whisper_scorer: Whisper's decoder along drafts and first passes, for a posterior
            prefix and an adapter with ``return_frames``.
        cached_prefix: prompt and audio do not see the response, so decoding runs them
            once, not in every pass. A causal LM's do not in any case.
    """

    lm: str = "smollm2-135m"
    lora: Annotated[Mapping[str, Any], OptionsOf(LoraOptions)] | None = None
    train_lm: bool = False
    dtype: Dtype = "float32"
    prompt: str = "Transcribe the audio:"
    chat_template: bool = True
    text_case: Literal[CASES] = "lower"
    loss: Literal[LOSSES] = "llada"
    max_eos_padding: Annotated[int, Meta(ge=0, le=8192)] = 32
    compile_layers: bool = False
    ctc: (
        Annotated[Mapping[str, Any], OptionsOf("espnet_llada.extensions.ctc:Options")]
        | None
    ) = None
    posterior_prefix: (
        Annotated[
            Mapping[str, Any],
            OptionsOf("espnet_llada.extensions.posterior_prefix.prefix:Options"),
        ]
        | None
    ) = None
    whisper_scorer: (
        Annotated[
            Mapping[str, Any],
            OptionsOf("espnet_llada.extensions.whisper_scorer.network:Options"),
        ]
        | None
    ) = None
    cached_prefix: bool = False

    def __post_init__(self) -> None:
        if self.lora is not None and self.train_lm:
            raise UserError("train_lm: true leaves nothing to lora; set one of them")
        if self.whisper_scorer is not None and self.posterior_prefix is None:
            raise UserError("whisper_scorer needs posterior_prefix; add it")


def decoder_parts(
    width: int, attention: str, whisper: weights.Weights | None, conf: DecoderConf
) -> tuple[dict[str, Any], weights.Weights]:
    """What ``LMDecoder`` is made of, and the LM's weights.

    Args:
        width: of the adapter's vectors.
        attention: ``bidirectional`` (LLaDA, masked diffusion) or ``causal`` (LLaMA).
        whisper: the adapter's, or else the encoder's, whose tokens and whose decoder
            extensions read; None where neither is one.
        conf: see there.

    Raises:
        UserError: weights or options that do not fit.
    """
    resolved = weights.resolve(conf.lm, "lm")
    tokenizer = LMTokenizer(resolved.path, conf.text_case)
    dtype = getattr(torch, conf.dtype)
    lm = Backbone.from_pretrained(resolved.path, attention, tokenizer.mask_id, dtype)
    if conf.lora is not None:
        add_lora(lm.body, LoraOptions(**conf.lora))
    elif conf.train_lm:
        lm.train_layers()
    parts = {
        "lm": lm,
        "audio_prefix": _audio_prefix(width, lm, whisper, resolved, conf),
        "tokenizer": tokenizer,
        "prompt_ids": tokenizer.prompt(conf.prompt, conf.chat_template),
        "objective": Objective(conf.loss, conf.max_eos_padding),
        "compiles": conf.compile_layers,
    }
    if conf.cached_prefix:
        parts["prefix_attends"] = False
        parts["passes"] = named("espnet_llada.extensions.lm_cache:CachedPasses")
    return parts, resolved


def _audio_prefix(
    width: int,
    lm: Backbone,
    whisper: weights.Weights | None,
    resolved: weights.Weights,
    conf: DecoderConf,
) -> AudioPrefix:
    ctc = conf.ctc
    if ctc is not None:
        ctc_options = named("espnet_llada.extensions.ctc:Options")
    if conf.posterior_prefix is None:
        projection = LinearProjection(width, lm.embedding.weight)
        if ctc is None:
            return LinearPrefix(projection)
        head = named("espnet_llada.extensions.ctc:AlignmentCTC")
        head = head(lm.embedding.weight, width, ctc_options(**ctc))
        return named("espnet_llada.extensions.ctc_prefix:CTCPrefix")(projection, head)
    if ctc is None:
        raise UserError("posterior_prefix needs ctc; give it a weight")
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
    """The keys of a config that are read here; training has many more."""

    encoder: str | None = None
    encoder_conf: dict[str, Any] | None = None
    postencoder: str | None = None
    postencoder_conf: dict[str, Any] | None = None
    decoder: str | None = None
    decoder_conf: dict[str, Any] | None = None


def check_config(config: Mapping[str, Any], where: object) -> None:
    """Hold a config to what the constructors of our parts are annotated with.

    Args:
        config: of a training; parts that are not ours are not looked at.
        where: it comes from, for messages.

    Raises:
        UserError: names the section, the key, and what fits.
    """
    sections = checked(dict(config), _Sections, where)
    takes = {
        "encoder": build_encoder if sections.encoder == ENCODER else None,
        "postencoder": sections.postencoder in POSTENCODERS
        and named(POSTENCODERS[sections.postencoder]),
        "decoder": DecoderConf if sections.decoder in ATTENTION else None,
    }
    for part, constructor in takes.items():
        if constructor:
            given = getattr(sections, f"{part}_conf") or {}
            check_options(given, constructor, f"{where}: {part}_conf")


def whisper_of(*parts: nn.Module | None) -> weights.Weights | None:
    """The weights of the first part that is made of Whisper's."""
    found = (getattr(part, "weights", None) for part in parts)
    return next((w for w in found if isinstance(w, weights.Weights)), None)


def compile_layers(
    encoder: nn.Module,
    postencoder: nn.Module | None,
    decoder: LMDecoder,
    backend: str = "inductor",
) -> None:
    """Have training run the layers by torch.compile, of those parts that are ours.

    The first steps take minutes for it.

    Args:
        encoder, postencoder, decoder: ESPnet's, or ours.
        backend: torch.compile's.
    """
    for part in (encoder, postencoder, decoder.lm):
        if compile_part := getattr(part, "compile_layers", None):
            compile_part(backend)


def build_model(config: Mapping[str, Any]) -> WhisperLLM:
    """The model of a train config whose parts are all ours (see ``is_ours``)."""
    encoder = build_encoder(**config.get("encoder_conf") or {})
    postencoder = named(POSTENCODERS[config["postencoder"]])(
        encoder.d_model, **config.get("postencoder_conf") or {}
    )
    conf = DecoderConf(**config.get("decoder_conf") or {})
    whisper, attention = whisper_of(postencoder, encoder), ATTENTION[config["decoder"]]
    parts, lm = decoder_parts(postencoder.hidden, attention, whisper, conf)
    decoder = LMDecoder(**parts)
    decoder.weights = lm
    if decoder.compiles:
        compile_layers(encoder, postencoder, decoder)
    return WhisperLLM(encoder, postencoder, decoder)


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a train config names our encoder, Q-Former and decoder."""
    return (
        config.get("encoder") == ENCODER
        and config.get("postencoder") in POSTENCODERS
        and config.get("decoder") in ATTENTION
    )


def make_hook(
    decoder: LMDecoder,
    sampler: SamplerOptions,
    extensions: Mapping[str, Any],
    use_audio: bool = True,
) -> MakeHook | None:
    """What extensions do to a decoding; None: nothing.

    Args:
        decoder: of the model.
        sampler: the paper's options.
        extensions: {name: its options}, of ``EXTENSIONS``; other names are passed over.
        use_audio: whether the LM is shown any.

    Raises:
        UserError: an extension does not fit the model, or another option.
    """
    kinds = []
    for name, module in EXTENSIONS.items():
        if name not in extensions:
            continue
        if not use_audio and name not in _WITHOUT_AUDIO:
            raise UserError(
                f"{name}: without audio there is nothing to ask; leave it out"
            )
        kind = named(f"{module}:Hook")
        kind.check(extensions[name], decoder, sampler, extensions)
        kinds.append(partial(kind, extensions[name]))
    if not kinds:
        return None

    def make(decoder: LMDecoder, sampler: SamplerOptions, batch: Batch) -> _Chain:
        given = decoder, sampler, batch
        return _Chain([kind(*given) for kind in kinds], *given)

    return make


class _Chain(DecodingHook):
    """Several hooks, one after the other."""

    def __init__(self, hooks: Sequence[DecodingHook], *given: Any):
        super().__init__(None, *given)
        self._hooks = hooks

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        for hook in self._hooks:
            prefix, canvas = hook.open(prefix, canvas)
        return prefix, canvas

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        for hook in self._hooks:
            make = partial(hook.plan, make)
        return make(logits_fn, canvas, random)

    def passes(self, prefix: Prefix, lengths: Tensor) -> LogitsFn | None:
        found = (hook.passes(prefix, lengths) for hook in self._hooks)
        return next((passes for passes in found if passes is not None), None)

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        first = None
        for hook in self._hooks:
            log_probs, settled = hook.process(tokens, masked, log_probs)
            if settled is not None:
                first = settled if first is None else first | settled
        return log_probs, first

    def next_token(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor | None:
        found = [hook.next_token(rows, texts) for hook in self._hooks]
        found = [values for values in found if values is not None]
        return sum(found) if found else None

    def accept(self, canvas: Canvas, result: SamplerResult) -> SamplerResult:
        for hook in self._hooks:
            result = hook.accept(canvas, result)
        return result
