"""A pool of processes that end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from espnet_llada.types import UserError

# Spawned: CUDA does not survive a fork, nor do locks that a thread holds.
CONTEXT = multiprocessing.get_context("spawn")


class ProcessPool(ProcessPoolExecutor):
    """Processes for a ``with`` block, after which no job begins.

    An interrupt ends the jobs, and so does the end of the parent, whatever ended it.
    Use ``submit``: ``map`` cancels, which Python 3.11 takes amiss in a broken pool.

    Args:
        processes: how many.
        start, arguments: called in each process before its first job.
        hint: how to go on where a process was killed, for the error.

    Raises:
        UserError: at the end of the block, where a process was killed.
    """

    def __init__(
        self,
        processes: int,
        start: Callable[..., None] | None = None,
        arguments: Sequence[Any] = (),
        hint: str = "start again with a smaller --nj",
    ):
        super().__init__(processes, CONTEXT, _begin, (start, arguments))
        self._hint = hint

    def submit(self, job: Callable[..., Any], /, *args, **kwargs) -> Future:
        """As ProcessPoolExecutor's."""
        return super().submit(_run, job, *args, **kwargs)

    def __exit__(self, kind, error, traceback) -> None:
        if error and not isinstance(error, Exception):  # an interrupt
            for process in multiprocessing.active_children():
                process.terminate()
        self.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                f"a process was killed (out of memory?); {self._hint}"
            ) from error


_ending = False  # of a process of the pool: it has been interrupted


def _begin(start: Callable[..., None] | None, arguments: Sequence[Any]) -> None:
    _on_interrupt(signal.SIG_DFL)  # the parent says "interrupted"
    # Of a parent that was killed nothing else would tell.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start:
        start(*arguments)


def _run(job: Callable[..., Any], /, *args, **kwargs) -> Any:
    """A job that removes its temporary files when it is interrupted."""
    _on_interrupt(_interrupt)
    try:
        return job(*args, **kwargs)
    except KeyboardInterrupt:
        os._exit(130)
    finally:
        _on_interrupt(signal.SIG_DFL)


def _on_interrupt(action: Any) -> None:
    signal.signal(signal.SIGTERM, action)
    # A shell starts what runs behind it (&) with SIGINT ignored; so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, action)


def _interrupt(signum: int, frame) -> None:
    global _ending
    if not _ending:  # the pool sends another
        _ending = True
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    # A signal that this thread took would not wake the job.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(5)  # enough to tidy up
    os._exit(1)
