"""Model and preprocessor of ESPnet2's ASR task for configs with our decoders."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from espnet2.tasks import asr
from espnet2.train.preprocessor import AbsPreprocessor

from espnet_llada.build import (
    POSTENCODER,
    check_config,
    read_conf,
    uses_our_decoder,
    whisper_of,
)
from espnet_llada.espnet.model import TOKENIZER, EncoderSide, ESPnetLLMModel
from espnet_llada.espnet.modules import FrozenWhisperEncoder
from espnet_llada.io import weights
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.types import ESPNET_TOKENS, UserError


def hook(task: type[asr.ASRTask]) -> None:
    """Let ``task`` build configs with our parts by the functions below."""
    if getattr(task, "_espnet_llada", False):
        return
    stock_model = task.build_model.__func__
    stock_preprocess = task.build_preprocess_fn.__func__

    def build_model(cls, args):
        if uses_our_decoder(vars(args)):
            return build_llm_model(cls, args, stock_model)
        _prepare_encoder(args)
        return stock_model(cls, args)

    def build_preprocess_fn(cls, args, train):
        if uses_our_decoder(vars(args)) and args.use_preprocessor:
            # Without a token type the stock preprocessor processes speech only: noise,
            # reverberation, volume.
            speech_only = argparse.Namespace(**{**vars(args), "token_type": None})
            inner = stock_preprocess(cls, speech_only, train)
            # Stage 10 writes the shape of every entry of a batch.
            marks = not getattr(args, "collect_stats", False)
            return LMPreprocessor(train, text_tokenizer(args), inner, marks)
        return stock_preprocess(cls, args, train)

    task.build_model = classmethod(build_model)
    task.build_preprocess_fn = classmethod(build_preprocess_fn)
    task._espnet_llada = True


def build_llm_model(
    cls: type[asr.ASRTask], args: argparse.Namespace, stock_model: Callable
) -> ESPnetLLMModel | EncoderSide:
    """Build encoder and adapter by ESPnet, the decoder by us.

    For stage 10, which collects statistics of the features, the frontend alone.

    Raises:
        UserError: a section of the config has an unknown key or a wrong value.
    """
    # config.yaml is written from args afterwards: keep it small and portable.
    args.token_list = list(ESPNET_TOKENS)
    _prepare(args)
    check_config(vars(args), getattr(args, "config", None) or "config")
    sides = copy.copy(args)
    sides.decoder, sides.model = None, "espnet"
    sides.ctc_conf, sides.model_conf = {}, {}
    if getattr(args, "collect_stats", False):
        sides.encoder = sides.postencoder = sides.preencoder = None
    with mock.patch.dict(asr.model_choices.classes, espnet=EncoderSide):
        parts = stock_model(cls, sides)
    if parts.encoder is None:
        return parts
    _check_data(args, parts.encoder)  # before the LM is read
    tail = parts.postencoder or parts.encoder or parts.preencoder or parts.frontend
    decoder_class = asr.decoder_choices.get_class(args.decoder)
    decoder = decoder_class(
        vocab_size=len(ESPNET_TOKENS),
        encoder_output_size=tail.output_size(),
        whisper=whisper_of(parts.postencoder, parts.encoder),
        **args.decoder_conf,
    )
    return ESPnetLLMModel(parts, decoder, _cpu_amp(args))


def _cpu_amp(args: argparse.Namespace) -> bool:
    if not getattr(args, "use_amp", False) or getattr(args, "ngpu", 0):
        return False
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return True
    logging.warning(
        "use_amp: this CPU has no bf16, which would be slower; fp32 is used"
    )
    return False


def _prepare(args: argparse.Namespace) -> None:
    """Set what our parts imply; warn of unused options, refuse what cannot work."""
    if getattr(args, "use_adapter", False):
        raise UserError(
            f"use_adapter: ESPnet's adapters are not for decoder: {args.decoder}; "
            "take it out, and give the LM LoRA by decoder_conf: {lora: {r: 8}}"
        )
    for option in ("interctc_use_conditioning", "ctc_trim"):
        if (args.encoder_conf or {}).get(option):
            raise UserError(
                f"encoder_conf: {option}: true needs a CTC over ESPnet's tokens, which "
                f"decoder: {args.decoder} does not have; take it out"
            )
    if _prepare_encoder(args) and args.postencoder is None:
        args.postencoder = POSTENCODER
    args.model = "llada"
    stock = sorted(set(args.model_conf or {}) - {"extract_feats_in_collect_stats"})
    if stock:
        logging.warning(
            f"decoder: {args.decoder} has losses of its own (decoder_conf: loss, ctc); "
            f"not used: model_conf {', '.join(stock)}"
        )
    args.model_conf = {"extract_feats_in_collect_stats": False}


def _prepare_encoder(args: argparse.Namespace) -> bool:
    """Set what ``encoder: whisper_frozen`` implies; returns whether it is that."""
    name = getattr(args, "encoder", None)  # tasks with other parts have none
    encoder = asr.encoder_choices.classes.get(name)
    if not getattr(encoder, "takes_waveform", False):
        return False
    if args.normalize == "global_mvn":
        logging.warning(f"normalize: global_mvn is not used: {name} takes waveforms")
    args.input_size, args.frontend = 1, None
    args.specaug, args.normalize, args.preencoder = None, None, None
    args.normalize_conf = {}
    if args.init is not None:
        logging.warning(f"init: {args.init} would overwrite {name}; not used")
        args.init = None
    return True


def _check_data(args: argparse.Namespace, encoder: Any) -> None:
    """Raise for cached frames that do not match ``encoder``."""
    for kind in ("train", "valid"):
        option = f"{kind}_data_path_and_name_and_type"
        for path, name, loader in getattr(args, option, None) or ():
            # In decoding the training data may be gone; training fails in ESPnet.
            here = (name, loader) == ("speech", "kaldi_ark") and Path(path).is_file()
            if here and isinstance(encoder, FrozenWhisperEncoder):
                encoder.check_data(Path(path))


def text_tokenizer(args: argparse.Namespace) -> LMTokenizer:
    """The tokenizer of the decoder of this config."""
    conf, _ = read_conf(args.decoder_conf)
    return LMTokenizer(weights.resolve(conf.lm, "lm").path, conf.text_case)


class LMPreprocessor(AbsPreprocessor):
    """Text to the LM's token ids; speech by the stock preprocessor.

    Args:
        train: training or inference.
        tokenizer: of the LM.
        inner: the stock preprocessor, or None.
        marks: add the tokenizer's fingerprint as ``TOKENIZER``, by which
            ``ESPnetLLMModel.forward`` refuses ids of another tokenizer.
    """

    def __init__(
        self,
        train: bool,
        tokenizer: LMTokenizer,
        inner: Callable | None = None,
        marks: bool = True,
    ):
        super().__init__(train)
        self.tokenizer, self.inner, self.marks = tokenizer, inner, marks

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        text = data.pop("text", None)
        if self.inner is not None:
            data = self.inner(uid, data)
        if text is not None:
            data["text"] = np.array(self.tokenizer.encode(text), dtype=np.int64)
            if self.marks:
                data[TOKENIZER] = np.array([self.tokenizer.fingerprint])
        return data
