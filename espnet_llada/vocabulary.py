"""Products with a table that has a row for each token of a vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at a time: what fits a core's cache, or keeps a GPU busy."""

FEW = 32
"""Vectors up to which a CPU is the faster with the table on the left side: measured 1.6
to 4 times with 2 to 10 of them, 1.2 to 1.5 times with 16 to 32, no gain beyond."""


def at_once(device: torch.device, tokens: int) -> int:
    """Vectors whose logits are held at a time; see ``ELEMENTS``."""
    return max(1, ELEMENTS.get(device.type, 2**24) // tokens)


def scores(hidden: Tensor, table: Tensor) -> Tensor:
    """(..., d), (V, d) -> (..., V): each vector times each row of a table.

    A matrix product divides its left side among the cores, and a handful of vectors
    leaves little to divide. A single vector counts as two: for it BLAS has a routine
    that reads the table at half the rate.
    """
    count = hidden.shape[:-1].numel()
    on_cpu = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    if not on_cpu or not 0 < count <= FEW:
        return hidden @ table.T
    rows = hidden.reshape(count, -1)
    if count == 1:
        rows = rows.repeat(2, 1)
    found = F.linear(table, rows).T[:count].contiguous()
    return found.unflatten(0, hidden.shape[:-1])
