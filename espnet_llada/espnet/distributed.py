"""Collective operations of a distributed training.

Every process must call these at the same points. Without distributed training they
return their input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def total(*values: float) -> tuple[float, ...]:
    """Each number summed over all processes."""
    return _reduced(values, distributed.ReduceOp.SUM)


def largest(value: int) -> int:
    """The largest of all processes' numbers."""
    return int(_reduced((value,), distributed.ReduceOp.MAX)[0])


def gather(mine: list[Any]) -> list[Any]:
    """The lists of all processes, concatenated, on every process."""
    if not _several():
        return mine
    lists: list[list[Any]] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(lists, mine)
    return [item for part in lists for item in part]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _reduced(values: tuple[float, ...], op: Any) -> tuple[float, ...]:
    if not _several():
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(numbers, op)
    return tuple(numbers.tolist())
