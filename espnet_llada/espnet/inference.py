"""Decoding with ESPnet: of models with its parts, and by its own commands."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from espnet_llada.build import uses_our_decoder
from espnet_llada.inference.api import Speech2Text
from espnet_llada.io.files import read_yaml
from espnet_llada.types import UserError


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
        if cls is not Stock or config is None:
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

    Stock.__new__ = new


def _config_of_ours(given: Mapping[str, Any]) -> Path | None:
    """The config among ESPnet's arguments, if it is of one of our decoders."""
    config, model_file = given.get("asr_train_config"), given.get("asr_model_file")
    if model_file is None:
        return None
    config = Path(model_file).parent / "config.yaml" if config is None else Path(config)
    try:
        ours = uses_our_decoder(read_yaml(config))
    except UserError:  # ESPnet says so in its words
        return None
    return config if ours else None
