"""How a model is best decoded: ``decode.yaml`` beside its ``config.yaml``.

    decode: {strategy: mask_ctc, steps: 12}
    deliberate: {mask_ratio: 0.3, steps: 6}
    semi_ar: {num_blocks: 4, steps: 16}

Each section holds fields of ``SamplerOptions``. They are that model's defaults for
``espnet-llada transcribe`` (``Speech2Text``) and ``deliberate`` (``Deliberator``), or,
under the name of a strategy, for whoever asks for one that is not the task's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from espnet_llada.sampler_options import STRATEGIES, SamplerOptions
from espnet_llada.types import UserError, nearest
from espnet_llada.yaml_file import read_yaml

DECODE_FILE = "decode.yaml"
STRATEGY = {"decode": "diffusion", "deliberate": "deliberation_low_confidence"}
"""The strategy of each task where nobody names another."""

_FIELDS = {f.name: type(f.default) for f in fields(SamplerOptions)}
_SWITCH = {"true": True, "false": False}


def make_options(values: Mapping[str, Any]) -> SamplerOptions:
    """``SamplerOptions`` from keywords; the release's transcripts keep their length.

    Raises:
        UserError: an unknown name or a value that does not fit.
    """
    for name in values:
        if name not in _FIELDS:
            hint = nearest(name, _FIELDS)
            raise UserError(f"unknown option '{name}'{hint}; known: {sorted(_FIELDS)}")
    tail = {"tail": 0} if values.get("profile") == "release" else {}
    return SamplerOptions(**{**tail, **values})


def model_options(
    config: str | Path, task: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The decode options that are a model's defaults.

    Args:
        config: its config.yaml; the model need not have a decode.yaml.
        task: ``decode`` or ``deliberate``.
        given: what the user has said. Another strategy than the task's has defaults
            of its own; the release's profile, and whoever does without the audio, has
            none of the model's; a share to be masked takes the place of a probability.

    Raises:
        UserError: decode.yaml has an unknown key, or a value that does not fit.
    """
    path, given = Path(config).parent / DECODE_FILE, given or {}
    content = read_yaml(path) if path.exists() else {}
    known = *STRATEGY, *STRATEGIES
    for key in content:
        if key not in known:
            raise UserError(
                f"{path}: unknown key '{key}'{nearest(str(key), known)}; the "
                f"sections are {', '.join(known)}"
            )
    first = task if task in content else STRATEGY[task]
    values = _section(path, content, first, STRATEGY[task])
    if make_options(values).deliberates != (task == "deliberate"):
        raise UserError(
            f"{path}: {task}: strategy {values['strategy']} is not for this"
        )
    if given.get("profile") == "release" or not given.get("use_audio", True):
        return {"strategy": STRATEGY[task]}
    named = given.get("strategy", values["strategy"])
    if named in STRATEGIES and named != values["strategy"]:
        values = _section(path, content, named, named)
    if "mask_ratio" in given:
        values.pop("mask_below", None)
    return values


def _section(
    path: Path, content: Mapping[str, Any], name: str, strategy: str
) -> dict[str, Any]:
    """What a file says below a name; ``strategy`` is the one where it names none."""
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: {name}: expected 'option: value' lines below it")
    if name in STRATEGIES and "strategy" in section:
        raise UserError(f"{path}: {name}: is a strategy; take its 'strategy' out")
    try:
        values = {"strategy": strategy, **_typed(section)}
        make_options(values)
    except UserError as e:
        raise UserError(f"{path}: {name}: {e}") from e
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
