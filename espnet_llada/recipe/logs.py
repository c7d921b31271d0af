"""Log lines in asr.sh's format, and a progress bar that stays away when not wanted."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


def log_to_stdout() -> None:
    """Log as asr.sh does: ``2026-01-31T23:59:59 (driver.py:42:main) message``."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format="%(asctime)s (%(filename)s:%(lineno)d:%(funcName)s) %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )


def progress_bar(total: int | None, what: str, unit: str = "utt") -> tqdm:
    """A bar on stderr, shown after 2 s; where that is no terminal, every 30 s.

    ``update(0)`` moves its clock on.
    """
    # Smoothed, the rate would leave out the time of each update(0).
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        delay=2.0,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        miniters=0,
        smoothing=0.0,
    )
