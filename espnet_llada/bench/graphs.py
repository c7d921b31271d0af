"""torch.compile and CUDA graphs around a step that works in memory of its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SHAPES = 256
"""Shapes that one function may be compiled for; torch's default of 8 is for servers."""

Step = Callable[[], Tensor | None]


def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """``function`` by torch.compile, anew for each shape; never in silence without."""
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = _SHAPES
    return torch.compile(function, backend=backend, dynamic=False, fullgraph=True)


def runner(step: Step, runtime: str, device: torch.device) -> Step:
    """What runs a step: itself, or on a GPU one CUDA graph of all that it does.

    Args:
        step: reads and writes tensors that stay where they are. It is run a few times
            here, so what it works on has to be set afterwards. What it returns is
            overwritten by the next run.
        runtime: one of ``sweep.rows.RUNTIMES``; ``static`` runs kernel by kernel.
        device: where the tensors are.
    """
    if runtime == "static" or device.type != "cuda":
        return step
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # as torch's notes on CUDA graphs ask for
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pool()):
            result = step()
    _GRAPHS.add(graph)

    def replay() -> Tensor | None:
        graph.replay()
        return result

    return replay


_GRAPHS: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()


def _pool() -> Any:
    """One of all graphs: each has been read out before another one is replayed.

    It lives as long as one of them does.
    """
    return next((graph.pool() for graph in _GRAPHS), None)
