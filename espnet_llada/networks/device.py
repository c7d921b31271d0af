"""Where a model runs: "cpu", "cuda", "cuda:1", …"""

from __future__ import annotations

import torch

from espnet_llada.types import UserError


def check_device(name: str) -> None:
    """Refuse a device that is not here, before anything is loaded for it.

    Raises:
        UserError: torch knows no such device, or sees none.
    """
    try:
        torch.zeros(1, device=name).cpu()  # meta, e.g., gives nothing back
    except (RuntimeError, AssertionError) as e:
        raise UserError(device_problem(name, e)) from e


def device_problem(name: str, error: Exception) -> str:
    """The error for a device that is not there or too small, with torch's reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"device {name}: {reason:.160}; name one that is here and has room, e.g. cpu"
