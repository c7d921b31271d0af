"""Models whose encoder side is ESPnet's own, for decoding."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import nn


def build_with_espnet(config: Mapping[str, Any]) -> nn.Module:
    """A model whose encoder side is ESPnet's own, e.g. a Conformer."""
    from espnet_llada.espnet.register import register

    register()
    from espnet_llada.espnet.task import ASRTask

    return ASRTask.build_model(argparse.Namespace(**config)).eval()
