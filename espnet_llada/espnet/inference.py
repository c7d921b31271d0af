"""Decoding with ESPnet: of models with its parts, and by its own commands."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn


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
