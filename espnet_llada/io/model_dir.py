"""Writes the directory of a trained model: config.yaml and its tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from espnet_llada.io.files import SUFFIX, checksum_of
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.types import CALIBRATION_FILE, DECODE_FILE, atomic_write

_BESIDE = (DECODE_FILE, CALIBRATION_FILE)


def write_model(
    directory: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    source: Path | None = None,
) -> None:
    """Write a model directory that ``find_model`` takes; config.yaml comes last.

    Args:
        directory: is made where it does not exist.
        config: a train config, or what inference reads of one.
        state: see ``io.checkpoint.trained_state``.
        source: the directory of a model whose decode.yaml and calibration.yaml, if
            any, are copied.

    Raises:
        UserError: it cannot be written; an old model there is intact.
    """
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"config.yaml": yaml.safe_dump(dict(config), sort_keys=False).encode()}
    for name in _BESIDE:
        if source is not None and (source / name).exists():
            texts[name] = (source / name).read_bytes()
    texts |= {f"{n}{SUFFIX}": checksum_of(text, n) for n, text in texts.items()}
    with contextlib.ExitStack() as written:
        # Nothing is replaced before all is written: a full disk leaves the old model.
        for name, text in texts.items():
            temporary = written.enter_context(atomic_write(directory / name))
            temporary.write_bytes(text)
        save_tensors(state, directory / "model.safetensors")
        for name in _BESIDE:
            if name not in texts:  # that of an old model
                (directory / name).unlink(missing_ok=True)
                (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)
