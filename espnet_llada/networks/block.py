"""The layer of Whisper's encoder, and of its decoder without the cross-attention.

Source: ``ResidualAttentionBlock`` in openai/whisper ``whisper/model.py``, whose
parameter names are kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.networks.whisper_file import WhisperConfig

Projected = tuple[Tensor, Tensor]
"""Keys and values, (B, H, K, D) each."""


class Attention(nn.Module):
    """Multi-head self-attention of (B, L, d_model)."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        if x.shape[1] == 1:  # the weight of one position is 1, whatever query and key
            return self.out(self.value(x))
        q, k, v = (self._heads(p(x)) for p in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def behind(
        self, x: Tensor, past: Projected, seen: Tensor
    ) -> tuple[Tensor, Projected]:
        """Attention of new positions, with the cached keys and values of earlier ones.

        Args:
            x: (B, L, d_model).
            past: of P positions.
            seen: (B, 1, L, P + L) bool, what each position attends to.

        Returns:
            (B, L, d_model), and the keys and values of ``x``.
        """
        own = self._heads(self.key(x)), self._heads(self.value(x))
        k, v = (torch.cat(pair, dim=2) for pair in zip(past, own, strict=True))
        query = self._heads(self.query(x))
        mixed = F.scaled_dot_product_attention(query, k, v, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).flatten(2)), own

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, d_model) -> (B, H, L, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a feed-forward part, LayerNorm before each."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.attn_ln = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.ffn), nn.GELU(), nn.Linear(config.ffn, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))
