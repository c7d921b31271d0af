"""Reads the paper's released checkpoint (liuzhan22/Diffusion-ASR) under our names.

Its ``.pth`` holds what was trained: queries, Q-Former, projection and LoRA. Of the
Q-Former's BERT it also holds what speech never passes: the text branch, the word
embeddings and the head. Those are listed as unused; any other surprise is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada.core.qformer import WindowQFormer
from espnet_llada.io.weights.tensors import is_plain, torch_load
from espnet_llada.types import UserError

_BERT = "adapter.bert."
_LAYER = f"{_BERT}encoder.layer."
_LORA = "llada.base_model.model.model.transformer.blocks."
_TOP = {
    "speech_query_tokens": "postencoder.queries",
    f"{_BERT}embeddings.LayerNorm.weight": "postencoder.norm.weight",
    f"{_BERT}embeddings.LayerNorm.bias": "postencoder.norm.bias",
    "linear_proj.weight": "decoder.audio_prefix.projection.weight",
    "linear_proj.bias": "decoder.audio_prefix.projection.bias",
}
# BERT's modules in a layer -> ours; the "query" branch is the one that queries take.
_MODULES = {
    **{
        f"{theirs}.{part}": f"{ours}.{name}"
        for theirs, ours in (
            ("attention", "self_attention"),
            ("crossattention", "cross_attention"),
        )
        for part, name in (
            ("self.query", "query"),
            ("self.key", "key"),
            ("self.value", "value"),
            ("output.dense", "output"),
            ("output.LayerNorm", "norm"),
        )
    },
    "intermediate_query.dense": "ffn_in",
    "output_query.dense": "ffn_out",
    "output_query.LayerNorm": "ffn_norm",
}
_CROSS_KEY = "postencoder.layers.0.cross_attention.key.weight"
_UNUSED = re.compile(
    r"adapter\.(cls\..*"
    r"|bert\.embeddings\.(word_embeddings|position_embeddings|position_ids)(\..*)?"
    r"|bert\.encoder\.layer\.\d+\.(intermediate|output)\..*)"
)


@dataclass(frozen=True)
class ReleaseTensors:
    """Content of a release checkpoint.

    Attributes:
        state: fp32 tensors by the names of our checkpoints (``io.checkpoint``), without
            the identity of the frozen weights, which the file does not know. They may
            lie in a memory map of the file.
        unused: names of the tensors left out, as the file has them.
        hidden, layers, queries, ffn: sizes of the Q-Former.
        encoder_width, lm_width, lm_layers: of the frozen models it was trained on.
        lora_rank: r.
    """

    state: dict[str, Tensor]
    unused: list[str]
    hidden: int
    layers: int
    queries: int
    ffn: int
    encoder_width: int
    lm_width: int
    lm_layers: int
    lora_rank: int


def read_release(path: str | Path) -> ReleaseTensors:
    """Read a release checkpoint; only tensors are unpickled.

    Raises:
        UserError: no such file, not such a checkpoint, or a tensor is missing,
            unexpected or of a shape that does not fit the others.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the release's checkpoint .pth")
    theirs = _tensors(torch_load(path, "a release checkpoint")[0], path)
    unused = sorted(name for name in theirs if _UNUSED.fullmatch(name))
    used = {name: v for name, v in theirs.items() if not _UNUSED.fullmatch(name)}
    layers, lm_layers = _count(used, _LAYER), _count(used, _LORA)
    names = _names(layers, lm_layers)
    _refuse(path, "missing", names.keys() - used.keys())
    _refuse(path, "unexpected", used.keys() - names.keys())
    state = {ours: used[name].float() for name, ours in names.items()}
    state["postencoder.queries"] = state["postencoder.queries"].squeeze(0)
    release = ReleaseTensors(
        state=state,
        unused=unused,
        hidden=_size(path, state, "postencoder.queries", 1),
        layers=layers,
        queries=_size(path, state, "postencoder.queries", 0),
        ffn=_size(path, state, "postencoder.layers.0.ffn_in.weight", 0),
        encoder_width=_size(path, state, _CROSS_KEY, 1),
        lm_width=_size(path, state, "decoder.audio_prefix.projection.weight", 0),
        lm_layers=lm_layers,
        lora_rank=_size(path, state, lora_name(0, "q_proj", "A"), 0),
    )
    check_shapes(path, state, _shapes(release))
    return release


def lora_name(layer: int, projection: str, matrix: str) -> str:
    """Our name of LoRA matrix ``A`` or ``B``."""
    place = f"decoder.lm.body.layers.{layer}.self_attn.{projection}"
    return f"{place}.lora_{matrix}.default.weight"


def _names(layers: int, lm_layers: int) -> dict[str, str]:
    """The release's name -> ours, for all that is used."""
    names = dict(_TOP)
    for layer in range(layers):
        for theirs, ours in _MODULES.items():
            for kind in ("weight", "bias"):
                name = f"{_LAYER}{layer}.{theirs}.{kind}"
                names[name] = f"postencoder.layers.{layer}.{ours}.{kind}"
    for layer in range(lm_layers):
        for part in ("q_proj", "k_proj", "v_proj"):
            for matrix in "AB":
                name = f"{_LORA}{layer}.{part}.lora_{matrix}.default.weight"
                names[name] = lora_name(layer, part, matrix)
    return names


def _size(path: Path, state: Mapping[str, Tensor], name: str, dim: int) -> int:
    if state[name].dim() != 2:
        shape = tuple(state[name].shape)
        raise UserError(f"{path}: {name} has shape {shape}; it should be a matrix")
    return state[name].shape[dim]


def _shapes(release: ReleaseTensors) -> dict[str, torch.Size]:
    """By our names, of all but LoRA's B, whose height is the LM's to say."""
    with torch.device("meta"):
        parts = nn.Module()
        parts.postencoder = WindowQFormer(
            release.encoder_width,
            release.hidden,
            release.layers,
            heads=1,  # no shape depends on it
            ffn=release.ffn,
            queries=release.queries,
        )
        parts.decoder = nn.Module()
        parts.decoder.audio_prefix = prefix = nn.Module()
        prefix.projection = nn.Linear(release.hidden, release.lm_width)
    shapes = {name: v.shape for name, v in parts.state_dict().items()}
    a = torch.Size((release.lora_rank, release.lm_width))
    return shapes | {name: a for name in release.state if "lora_A" in name}


def check_shapes(
    source: Path, state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> None:
    """Refuse a tensor of ``state`` whose shape is not that in ``shapes``.

    Raises:
        UserError: names the first one.
    """
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(state[name].shape)} where "
                f"{tuple(shape)} is needed; the checkpoint does not belong to these "
                "models, or is damaged"
            )


def _tensors(content: Any, path: Path) -> Mapping[str, Tensor]:
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and is_plain(v) for k, v in state.items()
    ):
        raise UserError(
            f"{path}: not a release checkpoint (no tensors under 'model'); name the "
            "release's checkpoint_best.pth"
        )
    return state


def _count(names: Mapping[str, Tensor], prefix: str) -> int:
    """Layers: one more than the highest number; those below must all be there.

    A damaged name may have any number: more layers than tensors there cannot be.
    """
    numbers = [
        int(number)
        for name in names
        if name.startswith(prefix)
        and (number := name.removeprefix(prefix).partition(".")[0]).isdecimal()
    ]
    return min(max(numbers, default=0), len(names)) + 1


def _refuse(path: Path, problem: str, names: set[str]) -> None:
    if names:
        raise UserError(
            f"{path}: {problem} tensor {min(names)} ({len(names)} in all); use the "
            "release's checkpoint as published"
        )
