"""Checkpoints hold the trained tensors only, and say which frozen weights they need.

The identity of the frozen weights (name and sha256 of each) travels inside the state
dict as one float32 tensor of UTF-8 bytes, because that is what survives everything
ESPnet does to a state dict: ``torch.save``, ``weights_only`` loading, averaging of the
n best epochs (equal values stay equal), packing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from espnet_llada.io.schema import checked
from espnet_llada.io.weights import verify
from espnet_llada.io.weights.tensors import (
    check_crc,
    check_tensors,
    is_finite,
    is_plain,
    why_unreadable,
)
from espnet_llada.types import UserError, atomic_write

IDENTITY = "frozen_weights"


class _Names(TypedDict):
    name: str
    sha256: str


_Identity = dict[str, _Names]


def frozen_weights(model: nn.Module) -> dict[str, dict[str, str]]:
    """{part: {"name", "sha256"}} of the children that carry pretrained weights."""
    return {
        part: {"name": child.weights.name, "sha256": child.weights.sha256}
        for part, child in model.named_children()
        if hasattr(child, "weights")
    }


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without pretrained tensors, plus their identity."""
    full, pretrained = nn.Module.state_dict(model), _pretrained_names(model)
    state = {k: v for k, v in full.items() if k not in pretrained}
    state[IDENTITY] = identity_tensor(frozen_weights(model))
    return state


def identity_tensor(parts: Mapping[str, Mapping[str, str]]) -> Tensor:
    """What ``frozen_weights`` returned, as a tensor for a checkpoint."""
    text = json.dumps(parts, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.float32)


def read_identity(
    state: Mapping[str, Tensor], source: object
) -> dict[str, dict[str, str]]:
    """What ``identity_tensor`` was given for this state dict.

    Raises:
        UserError: there is none in it; ``source`` is the file, for the message.
    """
    if IDENTITY not in state:
        raise UserError(
            f"{source}: says not which frozen weights it belongs to; it is no "
            "espnet_llada checkpoint"
        )
    numbers = state[IDENTITY].flatten().double().round()
    try:
        if not ((numbers >= 0) & (numbers < 256)).all():
            raise ValueError("no bytes")
        parts = json.loads(bytes(numbers.to(torch.uint8).tolist()))
    except (ValueError, RecursionError) as e:
        raise UserError(
            f"{source}: its identity is damaged ({e}); copy it again"
        ) from e
    return checked(parts, _Identity, source)


def load_trained(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put trained tensors into ``model``.

    Args:
        model: built from the config that the checkpoint belongs to.
        state: what ``trained_state`` returned.
        source: the file, for messages.

    Raises:
        UserError: other frozen weights, a missing or an unexpected tensor, a shape or
            a value that does not fit. The model is unchanged then.
    """
    state = dict(state)
    _check_identity(model, read_identity(state, source), source)
    del state[IDENTITY]
    expected = trained_state(model)
    del expected[IDENTITY]
    if state.keys() != expected.keys():
        _rename_as_upgrades_do(model, state)
    check_tensors({k: v.shape for k, v in expected.items()}, state, source)
    for name, tensor in state.items():
        floats = tensor.is_floating_point()
        if floats != expected[name].is_floating_point() or not is_finite(tensor):
            raise UserError(
                f"{source}: {name} holds what is no number; train or copy it again"
            )
    nn.Module.load_state_dict(model, state, strict=False)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth`` (never unpickling code) or ``.safetensors`` file.

    Raises:
        UserError: missing, damaged, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one or name another")
    verify(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        check_crc(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        # torch and safetensors raise half a dozen types for a damaged file.
        raise UserError(
            f"{path}: not a readable checkpoint ({why_unreadable(e)}); train or copy "
            "it again"
        ) from e
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and is_plain(v) for k, v in state.items()
    ):
        raise UserError(
            f"{path}: holds more than model tensors; name an N-epoch or averaged model"
        )
    return state


def atomic_torch_save(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
    """``torch.save`` that replaces an existing file only by a whole new one.

    Raises:
        UserError: the disk is full or the directory not writable; the old file, if
            any, is intact.
    """
    if not isinstance(path, (str, Path)):
        _torch_save(content, path, *args, **kwargs)
        return
    with atomic_write(path) as temporary:
        try:
            _torch_save(content, temporary, *args, **kwargs)
        except RuntimeError as e:  # how torch's zip writer reports a full disk
            raise OSError(28, "No space left, or the write was refused") from e


_torch_save = torch.save


def _pretrained_names(model: nn.Module) -> set[str]:
    modules = dict(model.named_modules())
    roots = [n for n, m in modules.items() if getattr(m, "pretrained", False)]
    guests = [n for n, m in modules.items() if getattr(m, "guest", False)]

    def inside(name: str, places: Sequence[str]) -> bool:
        return any(name.startswith(f"{place}.") for place in places)

    return {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if inside(name, roots)
        # What is trained inside a pretrained module; LoRA, the mask's embedding and
        # modules that say so even where a training has frozen them.
        and not (parameter.requires_grad or inside(name, guests))
        and "lora_" not in name
        and not name.endswith("mask_embedding")
    }


def _rename_as_upgrades_do(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Let modules rename, in ``state``, what a former version of theirs has saved.

    ESPnet 202611's subsampling does so in ``_load_from_state_dict``. It is called on a
    copy without tensors, because ``model`` must not change yet.
    """
    for place, module in model.named_modules():
        if type(module)._load_from_state_dict is nn.Module._load_from_state_dict:
            continue
        empty = copy.copy(module)
        vars(empty).update(_parameters={}, _buffers={}, _modules={})
        empty._load_from_state_dict(state, f"{place}.", {}, False, [], [], [])


def _check_identity(
    model: nn.Module, wanted: Mapping[str, Mapping[str, str]], source: str
) -> None:
    for part, have in frozen_weights(model).items():
        want = wanted.get(part, {"name": "nothing", "sha256": ""})
        if want["sha256"] != have["sha256"]:
            raise UserError(
                f"{source}: was trained on {part} '{want['name']}' (sha256 "
                f"{want['sha256'][:12]}…), but this config names '{have['name']}' "
                f"({have['sha256'][:12]}…); name the weights it was trained on"
            )
