"""Finds encoder and decoder in the two layouts that Whisper's weights come in.

Parameter names are OpenAI's; a Hugging Face directory is read through one table of
names. Errors speak of tensors by the names they have in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from espnet_llada.types import UserError
from espnet_llada.weights.tensors import (
    StoredTensor,
    stored_safetensors,
    stored_torch,
)

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

    d_model: int
    layers: int
    heads: int
    ffn: int
    n_mels: int
    max_frames: int = 1500


@dataclass(frozen=True)
class WhisperFile:
    """An opened ``.pt`` or directory, whose tensors are read when called for.

    Attributes:
        path: where it lies.
        part: ``encoder`` or ``decoder``.
        config: sizes of that part.
        tensors: of that part, by the file's names.
        rename: from OpenAI's name without prefix to the file's name.
    """

    path: Path
    part: str
    config: WhisperConfig
    tensors: Mapping[str, StoredTensor]
    rename: Callable[[str], str]

    def read(
        self, shapes: Mapping[str, torch.Size], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Copies of exactly the tensors asked for.

        Args:
            shapes: by OpenAI's names without prefix; all of the part's.
            dtype: of the copies.

        Raises:
            UserError: a tensor is missing, unexpected or of another shape.
        """
        stored = self.check(shapes)
        return {ours: tensor.read(dtype) for ours, tensor in stored.items()}

    def check(self, shapes: Mapping[str, torch.Size]) -> dict[str, StoredTensor]:
        """The tensors asked for, still in their files; see ``read``."""
        names = {self.rename(ours): ours for ours in shapes}
        self._refuse("missing", names.keys() - self.tensors.keys())
        self._refuse("unexpected", self.tensors.keys() - names.keys())
        for theirs, ours in names.items():
            shape = self.tensors[theirs].shape
            if shape != shapes[ours]:
                raise UserError(
                    f"{self.path}: {self.part} tensor {theirs} has shape "
                    f"{tuple(shape)}, its sizes say {tuple(shapes[ours])}; the weights "
                    "and their config do not belong together"
                )
        return {ours: self.tensors[theirs] for theirs, ours in names.items()}

    def _refuse(self, problem: str, names: set[str]) -> None:
        if names:
            raise UserError(
                f"{self.path}: {problem} {self.part} tensor {min(names)} ({len(names)} "
                "in all); use an unmodified Whisper of the sizes in its config"
            )


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


def _open_openai(path: Path, part: str) -> WhisperFile:
    prefix, kind = f"{part}.", "an openai-whisper checkpoint"
    dims: dict[str, int] = {}

    def state_of_part(content: Mapping) -> dict[str, Tensor]:
        dims.update(content["dims"])
        state = content["model_state_dict"]
        return {name: v for name, v in state.items() if name.startswith(prefix)}

    try:
        tensors = stored_torch(path, kind, state_of_part)
        side = {"encoder": "audio", "decoder": "text"}[part]
        config = WhisperConfig(
            d_model=dims[f"n_{side}_state"],
            layers=dims[f"n_{side}_layer"],
            heads=dims[f"n_{side}_head"],
            ffn=4 * dims[f"n_{side}_state"],
            n_mels=dims["n_mels"],
            max_frames=dims[f"n_{side}_ctx"],
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not {kind} ({e} is amiss); use OpenAI's file") from e
    return WhisperFile(path, part, config, tensors, lambda ours: prefix + ours)


def _open_huggingface(path: Path, part: str) -> WhisperFile:
    config = _read_json(path / "config.json")
    if config.get("activation_function", "gelu") != "gelu":
        raise UserError(
            f"{path}/config.json: activation_function must be gelu; use a Whisper"
        )
    positions = {"encoder": "max_source_positions", "decoder": "max_target_positions"}
    try:
        sizes = WhisperConfig(
            d_model=config["d_model"],
            layers=config[f"{part}_layers"],
            heads=config[f"{part}_attention_heads"],
            ffn=config[f"{part}_ffn_dim"],
            n_mels=config["num_mel_bins"],
            max_frames=config[positions[part]],
        )
    except KeyError as e:
        raise UserError(f"{path}/config.json: lacks {e}; use a Whisper") from e
    tensors = {
        name: tensor
        for name, tensor in stored_safetensors(_weight_files(path)).items()
        if name.removeprefix("model.").startswith(f"{part}.")
    }
    # WhisperModel is saved without, WhisperForConditionalGeneration with "model."
    bare = any(name.startswith(f"{part}.") for name in tensors)
    prefix = f"{part}." if bare else f"model.{part}."
    return WhisperFile(path, part, sizes, tensors, lambda ours: prefix + hf_name(ours))


def hf_name(name: str) -> str:
    """OpenAI's name of a tensor -> Hugging Face's, both without prefix."""
    if name.startswith("ln."):  # the decoder's last norm
        return f"layer_norm.{name.removeprefix('ln.')}"
    for ours, theirs in _HF_NAMES:
        name = name.replace(ours, theirs)
    return name


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    return [path / name for name in set(_read_json(index)["weight_map"].values())]


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not readable ({e}); download it again") from e
