"""Writes an LM in Hugging Face's Llama layout: names translated, LoRA merged."""

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


def export_llama(
    source: Path,
    target: Path,
    dtype: torch.dtype | None = None,
    updates: Mapping[str, Update] | None = None,
) -> None:
    """Write ``source`` as a Llama directory: config, weights, tokenizer.

    Args:
        source: directory in LLaDA's or Hugging Face's Llama layout.
        target: existing directory to write into.
        dtype: of the weights written; that of each tensor in ``source`` by default.
        updates: LoRA to merge, by the weight's name inside ``Llama``. The sum is
            rounded once; bf16 loses updates below 1/256 of a weight.

    Raises:
        UserError: see ``networks.llama_files``.
    """
    body, settings = empty_llama(source)
    stored = stored_llama(source, body)
    updates = updates or {}
    names = {n if n == HEAD else f"model.{n}": n for n in sorted(stored, key=_order)}
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
    written = dtype or stored["embed_tokens.weight"].dtype
    content = _config(body.config, settings, written, source)
    write_json(target / "config.json", content)
    for pattern in _TOKENIZER:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _converted(
    stored: StoredTensor, dtype: torch.dtype | None, update: Update | None
) -> Tensor:
    if update is None:
        return stored.read(dtype)
    return update.merged(stored.read()).to(dtype or stored.dtype)


def _order(name: str) -> tuple[int, str]:
    """The network's, so that a layer's tensors share a file."""
    parts = name.split(".")
    return (int(parts[1]) if parts[0] == "layers" else -1, name)


class _LladaTokens(Struct):
    """Parts of a LLaDA's config.json that only a Llama's config.json needs."""

    max_sequence_length: Count
    eos_token_id: Natural
    mask_token_id: Natural


def _config(
    config: LlamaConfig, settings: Mapping[str, Any], dtype: torch.dtype, source: Path
) -> dict[str, Any]:
    """config.json: a Llama's as it was; a LLaDA's as transformers 4 and 5 read it."""
    if settings["model_type"] == "llama":
        content = dict(settings)
    else:
        tokens = checked(settings, _LladaTokens, source)
        content = asdict(config)
        content |= {
            "model_type": config.model_type,
            "rope_theta": content.pop("rope").theta,
            "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": tokens.max_sequence_length,
            "bos_token_id": None,
            "eos_token_id": tokens.eos_token_id,
            "mask_token_id": tokens.mask_token_id,
        }
    content.pop("dtype", None)  # transformers 5's name of the next
    return content | {"torch_dtype": str(dtype).removeprefix("torch.")}
