"""From a train config and a checkpoint to a model that is ready to decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from espnet_llada.checkpoint import load_trained, read_state
from espnet_llada.model import ATTENTION, WhisperLLM, is_ours
from espnet_llada.types import UserError, atomic_write
from espnet_llada.weights import cache_dir, from_hub

MODEL_FILES = (
    "model.safetensors",
    "valid.acc.ave.pth",
    "valid.acc.best.pth",
    "valid.loss.best.pth",
    "latest.pth",
)
"""Names looked for in a model directory, the first found is taken."""

Builder = Callable[[Mapping[str, Any]], nn.Module]


def load_model(
    train_config: str | Path,
    model_file: str | Path,
    device: str = "cpu",
    build_foreign: Builder | None = None,
) -> nn.Module:
    """Build a model, fill in its trained tensors and merge LoRA.

    Args:
        train_config: config.yaml of the training.
        model_file: checkpoint of the trained tensors.
        device: "cpu", "cuda", …
        build_foreign: builds a model whose encoder is not ours (ESPnet's).

    Raises:
        UserError: a file is missing or does not fit; the message names it.
    """
    config = read_train_config(train_config)
    state = read_state(model_file)  # cheap, so a wrong path is told before the LM loads
    if is_ours(config):
        model = WhisperLLM.from_config(config)
    elif build_foreign is not None:
        model = build_foreign(config)
    else:
        raise UserError(
            f"{train_config}: its encoder is ESPnet's own; use espnet_llada.Speech2Text"
        )
    load_trained(model, state, str(model_file))
    model.decoder.merge_lora()
    return model.to(device).eval()


def read_train_config(path: str | Path) -> dict[str, Any]:
    """The config.yaml of a training with one of our decoders.

    Raises:
        UserError: missing, not YAML, or of another kind of model.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path}: cannot read it ({e.strerror}); train first") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid YAML; use a training's config.yaml") from e
    if not isinstance(config, dict) or config.get("decoder") not in ATTENTION:
        raise UserError(
            f"{path}: not the config of a model with 'decoder: llada' or 'llama'"
        )
    return config


def find_model(name: str | Path, system: str = "llada") -> tuple[Path, Path]:
    """Config and checkpoint of a model directory, a tag, or a hub id.

    Args:
        name: a directory with config.yaml and a checkpoint (an ``exp/asr_…`` of the
            recipe), one with a ``llada`` and a ``llama`` directory of that kind, a
            tag of the cache (``demo``, which ``make demo`` leaves there), or a hub id
            ``owner/name``.
        system: ``llada`` or ``llama``.

    Raises:
        UserError: nothing of that name, or no checkpoint in it.
    """
    top = Path(name)
    if not top.exists():
        top = cache_dir() / "models" / str(name)
    if not top.exists() and "/" in str(name) and not str(name).startswith((".", "/")):
        top = from_hub(str(name), ("*.yaml", "*.safetensors"))
    if not top.exists():
        raise UserError(
            f"{name}: no such model directory or tag; run 'make demo', or name a "
            "trained exp directory"
        )
    directory = top if (top / "config.yaml").exists() else top / system
    if not (directory / "config.yaml").exists():
        raise UserError(f"{top}: no config.yaml in it; name a trained exp directory")
    for file in MODEL_FILES:
        if (directory / file).exists():
            return directory / "config.yaml", directory / file
    raise UserError(f"{directory}: no checkpoint in it; train first (stage 11)")


def publish(exp_dir: Path, system: str, tag: str) -> Path:
    """Copy a trained model into the cache as ``tag``; returns its directory.

    Only the trained tensors are copied (MBs); config.yaml is written last.
    """
    from safetensors.torch import save_file

    config, model_file = find_model(exp_dir, system)
    directory = cache_dir() / "models" / tag / system
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / "model.safetensors") as temporary:
        save_file(read_state(model_file), os.fspath(temporary))
    with atomic_write(directory / "config.yaml") as temporary:
        temporary.write_bytes(config.read_bytes())
    return directory
