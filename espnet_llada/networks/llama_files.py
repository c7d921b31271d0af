"""Reads a Llama or LLaDA checkpoint directory into a ``Llama``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import asdict
from torch import nn

from espnet_llada.io.files import read_json
from espnet_llada.io.schema import Layers, Natural, Share, Tokens, Width, checked
from espnet_llada.io.weights.tensors import (
    StoredTensor,
    check_tensors,
    stored_safetensors,
)
from espnet_llada.networks.llama import Llama, LlamaConfig, Positive, Rotary
from espnet_llada.types import UserError

# LLaDA's names (ML-GSAI/LLaDA modeling_llada.py) -> transformers' Llama names, ours.
_LLADA_TOP = {
    "model.transformer.wte.weight": "embed_tokens.weight",
    "model.transformer.ln_f.weight": "norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
_LLADA_BLOCK = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",  # through SiLU
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


HEAD = "lm_head.weight"


def load_llama(
    path: Path, dtype: torch.dtype
) -> tuple[Llama, nn.Parameter, int | None]:
    """The body, the head's weight and the mask token's id where the config has one.

    Names and shapes are checked before the first tensor is read. Tensors are then read
    and converted one by one, so the peak is one tensor above the result.

    Raises:
        UserError: no such directory, not a Llama or LLaDA, or tensors do not match.
    """
    body, settings = empty_llama(path)
    stored = stored_llama(path, body)
    tensors = {name: tensor.read(dtype) for name, tensor in stored.items()}
    head = tensors.pop(HEAD, None)
    body.load_state_dict(tensors, assign=True)
    if head is None:
        weight = body.embed_tokens.weight
    else:
        weight = nn.Parameter(head, requires_grad=False)
    return body, weight, settings.get("mask_token_id")


def empty_llama(path: Path) -> tuple[Llama, dict[str, Any]]:
    """A ``Llama`` without memory for its weights; and config.json.

    Raises:
        UserError: no such directory, or not a Llama or LLaDA.
    """
    settings = read_json(path / "config.json")
    return llama_from(settings, path), settings


def llama_from(settings: dict[str, Any], path: object) -> Llama:
    """The same from the content of a config.json, of a Llama or a LLaDA.

    Raises:
        UserError: it is of neither; ``path`` is where it comes from, for messages.
    """
    kind = checked(settings, _Named, path).model_type
    if kind == "llada":
        settings = asdict(checked(settings, _Llada, path))
        settings["vocab_size"] = settings["embedding_size"] or settings["vocab_size"]
    elif kind != "llama":
        raise UserError(
            f"{path}: model_type '{kind}' is neither llama nor llada; name another LM"
        )
    config = LlamaConfig.from_settings(settings, path)
    with torch.device("meta"):
        body = Llama(config)
    body.rotary_emb = Rotary(config)  # its buffer is not in the files
    return body


def stored_llama(path: Path, body: Llama) -> dict[str, StoredTensor]:
    """The tensors for ``body`` by its own names, and ``HEAD`` unless it is tied.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; a file is
            damaged.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path}: no *.safetensors in it; convert the checkpoint first")
    tensors = stored_safetensors(files).items()
    stored = {our_name(name): tensor for name, tensor in tensors}
    expected = {name: p.shape for name, p in body.named_parameters()}
    if body.config.tie_word_embeddings:
        stored.pop(HEAD, None)  # some files repeat the embedding under this name
    else:
        expected[HEAD] = expected["embed_tokens.weight"]
    check_tensors(expected, stored, path)
    return stored


class _Named(Struct):
    """Which of the two a config.json is of, and what both may have."""

    model_type: str = "nothing"
    mask_token_id: Natural | None = None


_LLADA_SIZES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "mlp_hidden_size",
    "tie_word_embeddings": "weight_tying",
}


class _Llada(Struct, rename=_LLADA_SIZES):
    """A LLaDA's config.json under a Llama's names, as far as it is read here."""

    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Layers
    intermediate_size: Width
    vocab_size: Tokens
    rms_norm_eps: Share
    rope_theta: Positive
    tie_word_embeddings: bool
    num_key_value_heads: Layers | None = None
    embedding_size: Tokens | None = None


def our_name(name: str) -> str:
    """LLaDA's or Hugging Face's name of a tensor -> that inside ``Llama``."""
    if name in _LLADA_TOP:
        return _LLADA_TOP[name]
    if name.startswith("model.transformer.blocks."):
        place = name.removeprefix("model.transformer.blocks.")
        layer, _, rest = place.partition(".")
        part, _, kind = rest.rpartition(".")
        return f"layers.{layer}.{_LLADA_BLOCK.get(part, part)}.{kind}"
    return name.removeprefix("model.")
