"""What a GPU was given to do: how often, and how long it was busy with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType

from espnet_llada.bench.meter import synchronize

Span = tuple[float, float]


def kernels_of(function: Callable[[], Any]) -> tuple[int, float] | None:
    """Kernels and copies that a call launches, and the seconds in which any ran.

    A GPU that is busy for less than the call takes waits for the host.

    Returns:
        None where no GPU is in use.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return None
    from torch.profiler import ProfilerActivity, profile

    synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
        synchronize()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA
    ]
    return len(spans), 1e-6 * covered(spans)


def covered(spans: Iterable[Span]) -> float:
    """The length of what spans cover together; where they overlap it counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
