"""How a model is best decoded: ``decode.yaml`` next to its ``config.yaml``.

    decode: {steps: 12, threshold: 0.9}
    deliberate: {mask_ratio: 0.3, steps: 6, joint: {weight: 0.5}}
    semi_ar: {num_blocks: 4, steps: 16}

Each section holds options of ``inference.options``. They are that model's defaults,
whichever way it is used: ``espnet-llada``, ``Speech2Text`` and ``Deliberator``,
``asr_inference``, the recipe's stage 12. ``decode`` transcribes, ``deliberate`` has a
first pass; the name of a strategy is for whoever asks for one that is not the task's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_llada.core.options import STRATEGIES
from espnet_llada.inference.options import (
    DecodingOptions,
    full_name,
    make_options,
    merged,
    without_thresholds,
)
from espnet_llada.io.data_file import read_yaml
from espnet_llada.types import DECODE_FILE, UserError, nearest

STRATEGY = {"decode": "diffusion", "deliberate": "deliberation_low_confidence"}
"""The strategy of each task where nobody names another."""


def job_options(
    config: str | Path, task: str, given: Mapping[str, Any], use_audio: bool = True
) -> DecodingOptions:
    """What decoding does: what the user has said, and else what ``model_options`` says.

    Every way to decode with a model comes here, so that all give the same text. (The
    rows of a sweep or a bench say everything themselves.)

    Args:
        config: the model's config.yaml.
        task: ``decode`` or ``deliberate``.
        given: the options that the user has given, and no others.
        use_audio: see ``Recognizer``.

    Raises:
        UserError: decode.yaml, or an option, does not fit.
    """
    if "strategy" in given:
        known = [strategy for strategy in STRATEGIES if task_of(strategy) == task]
        given = {**given, "strategy": full_name(given["strategy"], known)}
    defaults = model_options(config, task, {**given, "use_audio": use_audio})
    return make_options(merged(defaults, given))


def task_of(strategy: str) -> str:
    """The task that a strategy is for."""
    return "deliberate" if strategy.startswith("deliberation") else "decode"


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
    asked = given.get("strategy")
    if asked in STRATEGIES and (asked in content or asked != values["strategy"]):
        values = _section(path, content, asked, asked)
    return without_thresholds(values, given)


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
        values = {"strategy": strategy, **section}
        return {**values, "strategy": make_options(values).strategy}
    except UserError as e:
        raise UserError(f"{path}: {name}: {e}") from e
