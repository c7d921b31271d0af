"""Finds encoder and decoder in the two layouts that Whisper's weights come in.

Parameter names are OpenAI's; a Hugging Face directory is read through one table of
names. Errors speak of tensors by the names they have in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from torch import Tensor

from espnet_llada.io.files import read_json
from espnet_llada.io.schema import Layers, Width, checked
from espnet_llada.io.weights.tensors import (
    StoredTensor,
    check_tensors,
    is_plain,
    stored_safetensors,
    stored_torch,
)
from espnet_llada.types import UserError

# OpenAI's and Hugging Face's, replaced one after the other.
_HF_NAMES = (
    ("positional_embedding", "embed_positions.weight"),
    ("token_embedding.", "embed_tokens."),
    ("ln_post.", "layer_norm."),
    ("blocks.", "layers."),
    ("cross_attn_ln.", "encoder_attn_layer_norm."),
    ("cross_attn.query.", "encoder_attn.q_proj."),
    ("cross_attn.key.", "encoder_attn.k_proj."),
    ("cross_attn.value.", "encoder_attn.v_proj."),
    ("cross_attn.out.", "encoder_attn.out_proj."),
    ("attn_ln.", "self_attn_layer_norm."),
    ("attn.query.", "self_attn.q_proj."),
    ("attn.key.", "self_attn.k_proj."),
    ("attn.value.", "self_attn.v_proj."),
    ("attn.out.", "self_attn.out_proj."),
    ("mlp_ln.", "final_layer_norm."),
    ("mlp.0.", "fc1."),
    ("mlp.2.", "fc2."),
)


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of the encoder, or of the decoder.

    Attributes:
        d_model: width of a frame.
        layers: transformer blocks.
        heads: attention heads in each.
        ffn: width inside the feed-forward part.
        n_mels: mel bands of the input, 80 or 128.
        max_frames: rows of the position table; 1500 frames are 30 s.
    """

    d_model: Width
    layers: Layers
    heads: Layers
    ffn: Width
    n_mels: Annotated[int, Meta(ge=1, le=1024)]
    max_frames: Annotated[int, Meta(ge=1, le=1 << 16)] = 1500

    @classmethod
    def of(
        cls, given: Mapping[str, Any], names: Mapping[str, str], where: object
    ) -> WhisperConfig:
        """Read and check the sizes in a file.

        Args:
            given: by the file's names.
            names: from the attributes above to the file's names.
            where: they come from, for messages.

        Raises:
            UserError: one that is missing or does not fit.
        """
        if missing := [name for name in names.values() if name not in given]:
            raise UserError(f"{where}: lacks '{missing[0]}'; use a Whisper")
        sizes = {ours: given[theirs] for ours, theirs in names.items()}
        config = checked(sizes, cls, where)
        if config.d_model % config.heads:
            raise UserError(
                f"{where}: {config.heads} heads do not divide the width "
                f"{config.d_model}; use an unmodified Whisper"
            )
        return config


@dataclass(frozen=True)
class WhisperFile:
    """An opened ``.pt`` or directory, whose tensors are read when called for.

    Attributes:
        path: where it lies.
        config: sizes of the encoder or of the decoder.
        tensors: of the same, by the file's names.
        rename: from OpenAI's name without prefix to the file's name.
    """

    path: Path
    config: WhisperConfig
    tensors: Mapping[str, StoredTensor]
    rename: Callable[[str], str]

    def read(
        self, shapes: Mapping[str, torch.Size], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """The tensors of ``check``, read in a dtype."""
        stored = self.check(shapes)
        return {ours: tensor.read(dtype) for ours, tensor in stored.items()}

    def check(self, shapes: Mapping[str, torch.Size]) -> dict[str, StoredTensor]:
        """The tensors asked for, still in their files.

        Args:
            shapes: by OpenAI's names without prefix; all of the part's.

        Raises:
            UserError: a tensor is missing, unexpected or of another shape.
        """
        expected = {self.rename(ours): shape for ours, shape in shapes.items()}
        check_tensors(expected, self.tensors, self.path)
        return {ours: self.tensors[self.rename(ours)] for ours in shapes}


def open_whisper(path: Path, part: str = "encoder") -> WhisperFile:
    """Open the encoder or the decoder of an OpenAI ``.pt`` or Hugging Face directory.

    Raises:
        UserError: neither of them, or it cannot be read.
    """
    if path.is_dir():
        return _open_huggingface(path, part)
    if path.is_file():
        return _open_openai(path, part)
    raise UserError(
        f"{path}: no Whisper weights here; name a .pt file or a directory with "
        "config.json and model.safetensors"
    )


class _OpenAI(Struct):
    """What an openai-whisper checkpoint holds."""

    dims: dict[str, int]
    model_state_dict: dict[str, Any]


def _open_openai(path: Path, part: str) -> WhisperFile:
    prefix, kind = f"{part}.", "an openai-whisper checkpoint"
    where = f"{path}: not {kind}"
    dims: dict[str, int] = {}

    def state_of_part(content: Any) -> dict[str, Tensor]:
        opened = checked(content, _OpenAI, where)
        dims.update(opened.dims)
        state = opened.model_state_dict
        if not all(map(is_plain, state.values())):
            raise UserError(f"{where}; use OpenAI's file")
        return {name: v for name, v in state.items() if name.startswith(prefix)}

    tensors = stored_torch(path, kind, state_of_part)
    side = {"encoder": "audio", "decoder": "text"}[part]
    names = {
        "d_model": f"n_{side}_state",
        "layers": f"n_{side}_layer",
        "heads": f"n_{side}_head",
        "ffn": "ffn",
        "n_mels": "n_mels",
        "max_frames": f"n_{side}_ctx",
    }
    dims["ffn"] = 4 * dims.get(names["d_model"], 0)
    config = WhisperConfig.of(dims, names, where)
    return WhisperFile(path, config, tensors, lambda ours: prefix + ours)


def _open_huggingface(path: Path, part: str) -> WhisperFile:
    file = path / "config.json"
    config = read_json(file)
    if config.get("activation_function", "gelu") != "gelu":
        raise UserError(f"{file}: activation_function must be gelu; use a Whisper")
    positions = {"encoder": "max_source_positions", "decoder": "max_target_positions"}
    names = {
        "d_model": "d_model",
        "layers": f"{part}_layers",
        "heads": f"{part}_attention_heads",
        "ffn": f"{part}_ffn_dim",
        "n_mels": "num_mel_bins",
        "max_frames": positions[part],
    }
    sizes = WhisperConfig.of(config, names, file)
    tensors = {
        name: tensor
        for name, tensor in stored_safetensors(_weight_files(path)).items()
        if name.removeprefix("model.").startswith(f"{part}.")
    }
    # WhisperModel is saved without, WhisperForConditionalGeneration with "model."
    bare = any(name.startswith(f"{part}.") for name in tensors)
    prefix = f"{part}." if bare else f"model.{part}."
    return WhisperFile(path, sizes, tensors, lambda ours: prefix + hf_name(ours))


def hf_name(name: str) -> str:
    """OpenAI's name of a tensor -> Hugging Face's, both without prefix."""
    if name.startswith("ln."):  # the decoder's last norm
        return f"layer_norm.{name.removeprefix('ln.')}"
    for ours, theirs in _HF_NAMES:
        name = name.replace(ours, theirs)
    return name


class _Index(Struct):
    """Of model.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, Annotated[str, Meta(pattern=r"^[\w.-]+\.safetensors$")]]


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    return [path / name for name in set(read_json(index, _Index).weight_map.values())]
