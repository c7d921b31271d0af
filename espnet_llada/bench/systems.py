"""The models that ``--model random`` measures."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_llada.baseline.faster_whisper import missing
from espnet_llada.bench.random_model import random_model
from espnet_llada.inference.loading import read_train_config
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.types import UserError


class RandomSystems:
    """Stands in for ``sweep.systems.Systems``: each model is made when it is needed.

    Args:
        configs: {system: its train config}.
        device: "cpu", "cuda", ...
    """

    def __init__(self, configs: Mapping[str, Path], device: str):
        self.configs = {name: read_train_config(p) for name, p in configs.items()}
        self.paths, self.device = configs, device
        self._models: dict[tuple[str, str, bool], nn.Module] = {}

    @property
    def dtype(self) -> str:
        """Of the LMs."""
        confs = [config.get("decoder_conf") or {} for config in self.configs.values()]
        return next(iter(conf.get("dtype", "float32") for conf in confs), "float32")

    def recognizer(self, row: SweepRow) -> Any:
        """What decodes a row.

        Raises:
            UserError: the row's system has no train config, or one that does not fit.
        """
        from espnet_llada.inference.recognizer import Transcriber

        key = row.system, row.bench.weights, row.bench.cached_prefix
        if key not in self._models:
            self._models[key] = self._made(row)
        given = row.decoding.use_audio, row.decoding.output_case
        return Transcriber(self._models[key], row.options, *given)

    def _made(self, row: SweepRow) -> nn.Module:
        config = dict(self.configs[row.system])
        if row.bench.cached_prefix:
            conf = config.get("decoder_conf") or {}
            config["decoder_conf"] = {**conf, "cached_prefix": True}
        try:
            model = random_model(config, self.device)
        except UserError as e:
            raise UserError(f"{self.paths[row.system]}: {e}") from e
        if row.bench.weights == "int8":
            in_int8(model)
        return model


def in_int8(model: nn.Module) -> None:
    """Round the LM's linear layers to int8, for each output one scale, by torchao.

    Products stay in the dtype of what comes in; embedding and head keep theirs.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model.decoder.lm.body, Int8WeightOnlyConfig())


def refusal(row: SweepRow, systems: Any, device: str) -> str | None:
    """Why a row cannot be measured here; None where it can."""
    random = isinstance(systems, RandomSystems)
    if row.system == "text":
        return "system text decodes nothing"
    if row.system in ("whisper", "faster_whisper") and random:
        return f"system {row.system} has no random weights"
    if row.system == "faster_whisper" and (reason := missing()):
        return reason
    if random and row.system not in systems.configs:
        return f"no {row.system} in train_configs; name its train config there"
    if row.bench.weights == "int8" and importlib.util.find_spec("torchao") is None:
        return "weights int8 needs the package torchao; install it"
    if row.bench.weights and not random:
        return f"weights {row.bench.weights} is for --model random"
    if row.bench.cached_prefix and not random:
        return "cached_prefix is for --model random; a trained model has it or not"
    if row.decoding.quantize_asr_model and random:
        return "quantize_asr_model is for trained models; write weights: int8"
    if row.bench.runtime != "plain" and "block_cache" in row.options.extensions:
        return f"runtime {row.bench.runtime}: block_cache; leave it out"
    if row.bench.runtime == "graph" and torch.device(device).type != "cuda":
        return f"runtime graph needs --device cuda, not {device}"
    return None


def measurable(
    rows: Sequence[SweepRow], systems: Any, device: str, where: str, strict: bool
) -> list[SweepRow]:
    """The rows that can be measured here; of the others the user is told why not.

    Args:
        rows: of the YAML.
        systems: see there.
        device: "cpu", "cuda", ...
        where: the YAML, for messages.
        strict: the user has named the rows, and wants all of them.

    Raises:
        UserError: a named row, or all rows, cannot be measured.
    """
    fit, lines = [], []
    for row in rows:
        if reason := refusal(row, systems, device):
            lines.append(f"{where}: row {row.key}: {reason}")
        else:
            fit.append(row)
    if lines and (strict or not fit):
        raise UserError(lines[0])
    for line in lines:
        logging.warning(f"left out: {line}")
    return fit
