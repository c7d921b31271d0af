"""Writes an LM: in Hugging Face's Llama layout, or in its own with LoRA merged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from msgspec import Struct
from torch import Tensor

from espnet_llada.io.files import write_json
from espnet_llada.io.schema import Count, Natural, checked
from espnet_llada.io.weights.tensors import StoredTensor, save_tensors
from espnet_llada.networks.llama import LlamaConfig
from espnet_llada.networks.llama_files import HEAD, empty_llama, stored_llama

SHARD_BYTES = 4_000_000_000
"""A shard is in memory while it is written, so it bounds the memory needed."""

_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class Update:
    """A LoRA update of one weight: W + scale * B A.

    Attributes:
        a: (r, inputs).
        b: (outputs, r).
        scale: alpha / r.
    """

    a: Tensor
    b: Tensor
    scale: float

    def merged(self, weight: Tensor) -> Tensor:
        """The sum, in fp64, so that rounding it is the only error."""
        b, a = self.b.double(), self.a.double()
        return torch.addmm(weight.double(), b, a, alpha=self.scale)


def export_llama(source: Path, target: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``source`` as a Llama directory: config, weights, tokenizer.

    Args:
        source: directory in LLaDA's or Hugging Face's Llama layout.
        target: existing directory to write into.
        dtype: of the weights written; that of each tensor in ``source`` by default.

    Raises:
        UserError: see ``networks.llama_files``.
    """
    body, settings = empty_llama(source)
    stored = stored_llama(source, body)
    names = {n if n == HEAD else f"model.{n}": n for n in _in_order(stored)}
    _write_tensors(names, stored, target, dtype, {})
    content = _llama_config(body.config, settings, source)
    _write_config(content, stored, target, dtype)
    _copy(source, target, _TOKENIZER)


def export_merged(
    source: Path,
    target: Path,
    updates: Mapping[str, Update],
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``source`` in its own layout with LoRA merged.

    A LLaDA thus stays as engines and hubs know it (``model_type: llada``,
    ``model.transformer.blocks.N.q_proj``, …), but for its code files and what names
    them; whoever loads it by transformers' remote code adds those of the original.

    Args:
        source, target, dtype: see ``export_llama``.
        updates: by the weight's name inside ``Llama``. The sum is rounded once; bf16
            loses updates below 1/256 of a weight.

    Raises:
        UserError: see ``networks.llama_files``.
    """
    body, settings = empty_llama(source)
    stored = stored_llama(source, body)
    names = {stored[n].name: n for n in _in_order(stored)}
    _write_tensors(names, stored, target, dtype, updates)
    content = {key: value for key, value in settings.items() if key != "auto_map"}
    _write_config(content, stored, target, dtype)
    _copy(source, target, (*_TOKENIZER, "generation_config.json"))


def _in_order(stored: Mapping[str, StoredTensor]) -> list[str]:
    """The network's order, so that a layer's tensors share a file."""

    def place(name: str) -> tuple[int, str]:
        parts = name.split(".")
        return (int(parts[1]) if parts[0] == "layers" else -1, name)

    return sorted(stored, key=place)


def _write_tensors(
    names: Mapping[str, str],
    stored: Mapping[str, StoredTensor],
    target: Path,
    dtype: torch.dtype | None,
    updates: Mapping[str, Update],
) -> None:
    """Shard by shard; ``names``: written -> inside ``Llama``, in the order wanted."""
    split = split_state_dict_into_shards_factory(
        {theirs: stored[ours] for theirs, ours in names.items()},
        get_storage_size=lambda t: t.shape.numel() * (dtype or t.dtype).itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    for file, chosen in split.filename_to_tensors.items():
        tensors = {
            theirs: _converted(stored[ours], dtype, updates.get(ours))
            for theirs, ours in names.items()
            if theirs in chosen
        }
        save_tensors(tensors, target / file)
        del tensors  # before the next shard is read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(target / "model.safetensors.index.json", index)


def _write_config(
    content: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    target: Path,
    dtype: torch.dtype | None,
) -> None:
    written = str(dtype or stored["embed_tokens.weight"].dtype)
    content = {key: value for key, value in content.items() if key != "dtype"}
    # The name that transformers 4 and 5 both read.
    content["torch_dtype"] = written.removeprefix("torch.")
    write_json(target / "config.json", content)


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _converted(
    stored: StoredTensor, dtype: torch.dtype | None, update: Update | None
) -> Tensor:
    if update is None:
        return stored.read(dtype)
    return update.merged(stored.read()).to(dtype or stored.dtype)


class _LladaTokens(Struct):
    """Parts of a LLaDA's config.json that only a Llama's config.json needs."""

    max_sequence_length: Count
    eos_token_id: Natural
    mask_token_id: Natural


def _llama_config(
    config: LlamaConfig, settings: Mapping[str, Any], source: Path
) -> dict[str, Any]:
    """A Llama's config.json as it was; a LLaDA's as transformers 4 and 5 read it."""
    if settings["model_type"] == "llama":
        return dict(settings)
    tokens = checked(settings, _LladaTokens, source)
    content = asdict(config)
    return content | {
        "model_type": config.model_type,
        "rope_theta": content.pop("rope").theta,
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": tokens.max_sequence_length,
        "bos_token_id": None,
        "eos_token_id": tokens.eos_token_id,
        "mask_token_id": tokens.mask_token_id,
    }
