"""glibc's malloc as a process that computes on a CPU wants it."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_NEVER = 2**31 - 1
_AHEAD = 2**26


def keep_freed_memory() -> None:
    """Have freed memory kept for the next tensor, not handed back to the system.

    By default each tensor above 32 MiB comes as new pages, which the system has to
    clear first: up to a seventh of the time of decoding a batch of 16, a quarter of
    that of a training step, on 2 cores. Other C libraries than glibc are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _NEVER)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_TOP_PAD, _AHEAD)
