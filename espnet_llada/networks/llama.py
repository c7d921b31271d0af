"""A minimal Llama network, which LLaMA and LLaDA share.

Our own rather than transformers', which takes longer to import than an utterance to
decode. Tests hold it to transformers' results; parameter names are the same.

Source: ``modeling_llama.py`` of huggingface/transformers; Touvron et al., "LLaMA"
(arXiv 2302.13971); the ``llama3`` frequencies are those of Llama 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from msgspec import Meta, Struct
from torch import Tensor, nn

from espnet_llada.io.schema import Count, Layers, Share, Tokens, Width, checked
from espnet_llada.types import UserError

if TYPE_CHECKING:
    from espnet_llada.networks.cache import KVCache

Positive = Annotated[float, Meta(gt=0.0, le=1e12)]


class Llama3Scaling(Struct):
    """``rope_scaling`` of a config.json, for ``rope_type: llama3``."""

    rope_type: str
    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Count


class Rope(Struct, frozen=True):
    """Rotary embedding: the base theta, and Llama 3.1's scaling of its frequencies."""

    theta: Positive = 10_000.0
    scaling: Llama3Scaling | None = None


@dataclass(frozen=True)
class LlamaConfig:
    """A Llama's sizes, most of them under the names of its config.json."""

    vocab_size: Tokens
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Layers
    num_key_value_heads: Layers
    rms_norm_eps: Share = 1e-6
    rope: Rope = field(default_factory=Rope)
    head_dim: Annotated[int, Meta(ge=0, le=4096)] = 0
    tie_word_embeddings: bool = False

    model_type = "llama"  # peft looks for it

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: object) -> LlamaConfig:
        """Read a config.json as transformers 4 or 5 writes it.

        Args:
            settings: its content.
            where: it comes from, for messages.

        Raises:
            UserError: a size is missing or does not fit, or a variant that is not
                implemented.
        """
        given = checked(settings, _Settings, where)
        rope = dict(given.rope_parameters or given.rope_scaling or {})
        rope.setdefault("rope_type", rope.pop("type", "default"))
        unknown = {
            "rope_scaling": rope["rope_type"] not in ("default", "llama3") and rope,
            "attention_bias": given.attention_bias,
            "mlp_bias": given.mlp_bias,
            "hidden_act": given.hidden_act != "silu" and given.hidden_act,
        }
        for name, strange in unknown.items():
            if strange:
                raise UserError(f"{where}: {name} {strange} is not supported")
        sizes: dict[str, Any] = {f.name: settings.get(f.name) for f in fields(cls)}
        sizes = {name: v for name, v in sizes.items() if v is not None}
        sizes.setdefault("num_key_value_heads", settings.get("num_attention_heads"))
        scaling = rope if rope["rope_type"] == "llama3" else None
        sizes["rope"] = {"scaling": scaling}
        theta = rope.get("rope_theta") or settings.get("rope_theta")
        if theta is not None:
            sizes["rope"]["theta"] = theta
        config = checked(sizes, cls, where)
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        if heads % shared:
            raise UserError(
                f"{where}: {heads} attention heads cannot share {shared} keys; fetch "
                "its config.json again"
            )
        size = config.head_dim or config.hidden_size // heads
        if not size or size % 2:
            raise UserError(f"{where}: head_dim {size} does not fit; allowed: 2, 4, …")
        return replace(config, head_dim=size)


class _Settings(Struct):
    """Parts of a config.json that tell variants which are not implemented."""

    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool | None = False
    mlp_bias: bool | None = False
    hidden_act: str = "silu"


class Llama(nn.Module):
    """Embedding, layers, final norm; no head.

    Attributes:
        kernel: ``sdpa``, or ``eager``: on a CPU its backward pass is the faster one.
        run: how a layer is run in training: ``run_layer``, or that by torch.compile.
    """

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config, self.kernel, self.run = config, "sdpa", run_layer
        # Given a weight, since drawing one on the meta device imports torch._dynamo.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(*table.shape, _weight=table)
        self.layers = nn.ModuleList(
            _Layer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config)
        self.rotary_emb = Rotary(config)

    def forward(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states (B, Q, d) behind the final norm.

        Args:
            embeds: (B, Q, d).
            mask: (B, 1, Q or 1, K), added to the attention's scores.
            positions: (B, Q) int64.
            cache: of the K - Q positions before; it takes these up.
        """
        rotary = self.rotary_emb(positions, embeds.dtype)
        run = self.run if self.training else run_layer
        for layer in self.layers:
            embeds = run(layer, embeds, mask, rotary, cache, self.kernel)
        return self.norm(embeds)


def run_layer(layer: nn.Module, embeds, mask, rotary, cache, kernel) -> Tensor:
    """Run a layer; a function, so that torch.compile shares its code among layers."""
    return layer(embeds, mask, rotary, cache, kernel)


class RMSNorm(nn.Module):
    """x / rms(x) in fp32, times a weight."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        # One kernel on a GPU. The weight stays outside: Llama rounds before it, and
        # autocast would hand fp32 to the residual stream.
        normed = F.rms_norm(x, self.weight.shape, eps=self.eps)
        return self.weight * normed.to(x.dtype)


class Rotary(nn.Module):
    """cos and sin of each position, (B, Q, 1, head_dim); frequencies in fp32.

    The first half of sin is negated, as ``_rotate`` needs it.
    """

    def __init__(self, config: LlamaConfig):
        super().__init__()
        frequencies = _frequencies(config)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions[:, :, None, None].float() * self.inv_freq
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def _frequencies(config: LlamaConfig) -> Tensor:
    with torch.device("cpu"):
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float()
    plain = 1.0 / config.rope.theta ** (powers / config.head_dim)
    given = config.rope.scaling
    if given is None:
        return plain
    # Long waves are stretched, short ones kept, those between blended.
    low, high = given.low_freq_factor, given.high_freq_factor
    turns = given.original_max_position_embeddings * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return plain * (kept + (1.0 - kept) / given.factor)


class _Layer(nn.Module):
    def __init__(self, config: LlamaConfig, number: int):
        super().__init__()
        self.self_attn = _Attention(config, number)
        self.mlp = _MLP(config)
        self.input_layernorm = RMSNorm(config)
        self.post_attention_layernorm = RMSNorm(config)

    def forward(self, x, mask, rotary, cache, kernel) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rotary, cache, kernel)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: LlamaConfig, number: int):
        super().__init__()
        self.number, self.head_dim = number, config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        shared = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, shared, bias=False)
        self.v_proj = nn.Linear(width, shared, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x, mask, rotary, cache, kernel) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # Rotated together: half the kernels, where launching them is what takes time.
        heads = q.shape[2], k.shape[2]
        q, k = _rotate(torch.cat([q, k], dim=2), *rotary).split(heads, dim=2)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, self.number)
        alone = q.shape[2] == 1
        if self.groups > 1 and alone:
            # The heads of a group are as many queries to the same keys: no copies.
            q = q.unflatten(1, (-1, self.groups)).flatten(2, 3)
        elif self.groups > 1:
            k, v = (y.repeat_interleave(self.groups, dim=1) for y in (k, v))
        mixed = _ATTEND[kernel](q, k, v, mask)
        if self.groups > 1 and alone:
            mixed = mixed.flatten(1, 2)[:, :, None]
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([second, first], dim=-1) * sin


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


_ATTEND = {"sdpa": F.scaled_dot_product_attention, "eager": _eager}


class _MLP(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
