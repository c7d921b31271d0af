"""Modules whose pretrained weights are never trained and keep their dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pretrained(nn.Module):
    """A module with frozen pretrained weights; parts of it (LoRA) may be trained.

    Its frozen parameters and its buffers follow a move to another device, and no
    change of dtype: ESPnet calls ``model.to(dtype=train_dtype)``, which would make
    32 GB of fp32 out of an 8B model in bf16. Trained parameters (LoRA) follow both.
    """

    pretrained = True  # a checkpoint leaves its tensors out, trained ones excepted

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        # What .to(), .cuda(), .float(), .half(), … all come down to.
        kept = {id(p) for p in self.parameters() if not p.requires_grad}
        kept |= {id(b) for b in self.buffers()}

        def apply(tensor: Tensor) -> Tensor:
            if id(tensor) not in kept:
                return fn(tensor)
            probe = fn(tensor.new_empty(0))
            if probe.dtype == tensor.dtype:
                return fn(tensor)
            # Only the move: a detour through another dtype may lose bits.
            return tensor.to(probe.device)

        return super()._apply(apply, recurse)

    def own_precision(self) -> torch.autocast:
        """The surrounding autocast, but for bf16 weights always in bf16.

        Weights in fp32 leave the choice to autocast. Weights in bf16 would be cast to
        fp16 at every use, and overflow there.
        """
        weight = next(p for p in self.parameters() if not p.requires_grad)
        kind = weight.device.type
        wanted = torch.is_autocast_enabled(kind)
        if weight.dtype == torch.float32:
            return torch.autocast(kind, torch.get_autocast_dtype(kind), wanted)
        return torch.autocast(kind, weight.dtype, wanted)


ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at a time: what fits a core's cache, or keeps a GPU busy."""

_ROWS = 4096, 1024
"""Of a table that a CPU multiplies at a time, for a handful of vectors and for more."""

_FEW = 32


def at_once(device: torch.device, tokens: int) -> int:
    """How many vectors to compute logits of at a time; see ``ELEMENTS``."""
    return max(1, ELEMENTS.get(device.type, 2**24) // tokens)


def scores(hidden: Tensor, table: Tensor, out: Tensor | None = None) -> Tensor:
    """(..., d), (V, d) -> (..., V): each vector times each row of a table.

    A matrix product divides its left side among the cores, and a handful of vectors
    leaves little to divide: on a CPU the table stands there, a piece of it at a time,
    which its caches hold. Measured 2 times as fast with 8 vectors, 1.0 to 1.6 times
    with 16 to 600. A single vector counts as two: for it BLAS has a routine that reads
    the table at half the rate.

    Args:
        hidden: (..., d).
        table: (V, d); where it has an ``int8`` (see ``quantize``), this is taken.
        out: (..., V), where to put them.
    """
    shape = hidden.shape[:-1]
    count = shape.numel()
    int8 = getattr(table, "int8", None)
    if int8 is not None and count and hidden.dtype == torch.float32:
        found = int8(hidden)
        return found if out is None else out.copy_(found)
    on_cpu = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    trained = torch.is_grad_enabled() and (hidden.requires_grad or table.requires_grad)
    if not on_cpu or not count or trained:
        found = hidden @ table.T
        return found if out is None else out.copy_(found)
    rows = hidden.reshape(count, -1)
    if count == 1:
        rows = rows.repeat(2, 1)
    if out is None:
        out = rows.new_empty(*shape, len(table))
    step = _ROWS[count > _FEW]
    for start in range(0, len(table), step):
        part = F.linear(table[start : start + step], rows)
        out[..., start : start + step] = part.T[:count].unflatten(0, shape)
    return out


class Scores(nn.Module):
    """``scores`` as a layer, which forward hooks see; the table is the caller's."""

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """See ``scores``."""
        return scores(hidden, table)
