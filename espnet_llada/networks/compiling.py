"""torch.compile for the layers, in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def for_any_shape(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Compile ``function`` once for batches of all shapes.

    Each kind of layer has a function of its own, since the number of variants that
    torch makes of one function is limited.

    Args:
        function: takes a layer first; code for one fits all of its kind.
        backend: torch.compile's.
    """
    import torch._dynamo

    return torch.compile(function, dynamic=True, backend=backend)
