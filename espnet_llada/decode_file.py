"""How a model is best decoded: ``decode.yaml`` beside its ``config.yaml``.

    decode: {strategy: diffusion, steps: 12}
    deliberate: {mask_ratio: 0.3, steps: 6}

Each section holds fields of ``SamplerOptions``. They are that model's defaults for
``espnet-llada transcribe`` (``Speech2Text``) and ``deliberate`` (``Deliberator``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from espnet_llada.sampler_options import SamplerOptions
from espnet_llada.types import UserError, nearest
from espnet_llada.yaml_file import read_yaml

DECODE_FILE = "decode.yaml"
STRATEGY = {"decode": "diffusion", "deliberate": "deliberation_low_confidence"}
"""The strategy of each task where nobody names another."""

_FIELDS = {f.name: type(f.default) for f in fields(SamplerOptions)}
_SWITCH = {"true": True, "false": False}


def make_options(values: Mapping[str, Any]) -> SamplerOptions:
    """``SamplerOptions`` from keywords.

    Raises:
        UserError: an unknown name or a value that does not fit.
    """
    for name in values:
        if name not in _FIELDS:
            hint = nearest(name, _FIELDS)
            raise UserError(f"unknown option '{name}'{hint}; known: {sorted(_FIELDS)}")
    return SamplerOptions(**values)


def model_options(config: str | Path, task: str) -> dict[str, Any]:
    """The decode options that are a model's defaults.

    Args:
        config: its config.yaml; the model need not have a decode.yaml.
        task: ``decode`` or ``deliberate``.

    Raises:
        UserError: decode.yaml has an unknown key, or a value that does not fit.
    """
    path = Path(config).parent / DECODE_FILE
    content = read_yaml(path) if path.exists() else {}
    for key in content:
        if key not in STRATEGY:
            known = " and ".join(STRATEGY)
            raise UserError(
                f"{path}: unknown key '{key}'{nearest(str(key), STRATEGY)}; the "
                f"sections are {known}"
            )
    section = content.get(task) or {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: {task}: expected 'option: value' lines below it")
    try:
        values = {"strategy": STRATEGY[task], **_typed(section)}
        options = make_options(values)
    except UserError as e:
        raise UserError(f"{path}: {task}: {e}") from e
    if options.deliberates != (task == "deliberate"):
        raise UserError(f"{path}: {task}: strategy {options.strategy} is not for this")
    return values


def _typed(section: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in section.items():
        kind = _FIELDS.get(name, str)
        try:  # by way of text: int(0.7) would be 0
            text = str(value)
            values[name] = _SWITCH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError) as e:
            raise UserError(f"'{name}: {value}' is not a valid value") from e
    return values
