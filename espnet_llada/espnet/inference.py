"""Decoding with ESPnet: of models with its parts, and by its own commands."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from espnet_llada.build import uses_our_decoder
from espnet_llada.inference.api import InferenceAPI, Speech2Text
from espnet_llada.io.files import read_yaml
from espnet_llada.types import UserError

_DECODE = "use espnet_llada.Speech2Text, or python -m espnet_llada.bin.asr_inference"
_ALIGN = (
    "for word times use word_times=True of espnet_llada.Speech2Text; for those of a "
    "known text espnet-llada deliberate --mask_ratio 0 --format ctm"
)
_CANNOT = {
    "asr_inference_streaming": (
        "Speech2TextStreaming",
        "streaming is not supported, an utterance is encoded as a whole",
        f"{_DECODE} (asr.sh without use_streaming)",
    ),
    "asr_inference_maskctc": (
        "Speech2Text",
        "its search is for decoder: mlm",
        f"{_DECODE} with mask_ctc: true (asr.sh without use_maskctc)",
    ),
    "asr_inference_k2": (
        "k2Speech2Text",
        "there is no CTC over ESPnet's tokens",
        f"{_DECODE} (asr.sh without use_k2)",
    ),
    "asr_align": ("CTCSegmentation", "there is no CTC over ESPnet's tokens", _ALIGN),
    "align": ("ForcedAligner", "there is no CTC over ESPnet's tokens", _ALIGN),
}
"""Modules of ``espnet2.bin`` that cannot use our models: the class, why, the mend."""


def cannot(module: str) -> str:
    """One line: why a module of ``espnet2.bin`` cannot use a model of ours."""
    name = module.removeprefix("espnet2.bin.")
    _, reason, mend = _CANNOT.get(name, ("", "it is for other models", _DECODE))
    return f"espnet2.bin.{name}: not for decoder: llada or llama, {reason}; {mend}"


def build_with_espnet(config: Mapping[str, Any]) -> nn.Module:
    """A model whose encoder side is ESPnet's own, e.g. a Conformer."""
    from espnet_llada.espnet.register import register

    register()
    from espnet_llada.espnet.task import ASRTask

    return ASRTask.build_model(argparse.Namespace(**config)).eval()


@contextlib.contextmanager
def espnet_command() -> Iterator[None]:
    """Run one of ESPnet's own commands with our parts, readers and guards.

    What it reads may come from anybody; ``ALLOW_UNSAFE`` is ESPnet's opt-in.
    """
    from espnet_llada.espnet.readers import our_readers
    from espnet_llada.espnet.register import register
    from espnet_llada.trust import ALLOW_UNSAFE, tensors_only

    register()
    with our_readers(), tensors_only(os.environ.get(ALLOW_UNSAFE) == "1"):
        yield


def decode_by_espnet(words: Sequence[str]) -> None:
    """``espnet2.bin.asr_inference`` with its own options."""
    with espnet_command():
        from espnet2.bin import asr_inference

        asr_inference.main(list(words))


def hook_speech2text() -> None:
    """Have ``espnet2.bin.asr_inference.Speech2Text`` of our configs return ours.

    What builds it by name (``from_pretrained``, ESPnet 202611's ``espnet.load``) gets
    ours too. Calling it again changes nothing.
    """
    from espnet2.bin.asr_inference import Speech2Text as Stock

    if "__new__" in vars(Stock):
        return
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Stock.__init__).parameters.items()
        if name != "self"
    }

    def new(cls, *args, **kwargs):
        given = {**dict(zip(defaults, args, strict=False)), **kwargs}
        config = _config_of_ours(given)
        if cls is not Stock or config is None or not given.get("asr_model_file"):
            return object.__new__(cls)
        # ESPnet's commands pass all its defaults, which ask for nothing.
        asked = {
            name: value
            for name, value in given.items()
            if name not in defaults or value != defaults[name]
        }
        asked |= {"asr_train_config": config, "asr_model_file": given["asr_model_file"]}
        ours = Speech2Text(**asked)
        ours.asr_train_args = argparse.Namespace(**read_yaml(config))
        return ours

    # On the class, since programs that have imported it before register() shall get
    # ours too, which another class in its place in the module would not reach. ESPnet's
    # registry (ClassChoices) knows a model's parts, not what decodes with it.
    Stock.__new__ = new


def hook_others() -> None:
    """Have ESPnet's other classes refuse our models, in one line.

    Calling it again changes nothing.
    """
    for module, (name, *_) in _CANNOT.items():
        # Not there: in ESPnet 202511 align, without their packages k2 and asr_align.
        with contextlib.suppress(ImportError):
            found = importlib.import_module(f"espnet2.bin.{module}")
            _refuse_ours(getattr(found, name), cannot(module))


def _refuse_ours(stock: type, message: str) -> None:
    init = stock.__init__
    if getattr(init, "refuses_ours", False):
        return
    _, *names = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked_init(self, *args, **kwargs):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        trained = vars(given.get("asr_train_args") or argparse.Namespace())
        ours = isinstance(given.get("model"), InferenceAPI) or uses_our_decoder(trained)
        if ours or _config_of_ours(given) is not None:
            raise UserError(message)
        init(self, *args, **kwargs)

    checked_init.refuses_ours = True
    stock.__init__ = checked_init


def _config_of_ours(given: Mapping[str, Any]) -> Path | None:
    """The config among ESPnet's arguments, if it is of one of our decoders."""
    config, model_file = given.get("asr_train_config"), given.get("asr_model_file")
    if config is None and model_file is None:
        return None
    config = Path(model_file).parent / "config.yaml" if config is None else Path(config)
    try:
        ours = uses_our_decoder(read_yaml(config))
    except UserError:  # ESPnet says so in its words
        return None
    return config if ours else None
