"""Standard streams and interrupts of a command's process.

``espnet_llada.bin`` begins with it, before anything heavy is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from typing import Any, NoReturn

_SCRIPT = "espnet-llada"

_runs_main = False


def is_command() -> bool:
    """Whether this process was started as one of our commands."""
    if os.path.basename(sys.argv[0] if sys.argv else "") == _SCRIPT:
        return True
    _, option, module = "\n".join(sys.orig_argv).partition("\n-m\n")
    return bool(option) and module.startswith("espnet_llada.")


def begin(runs_main: bool = False) -> None:
    """Set up streams and interrupts; may be called again.

    Args:
        runs_main: from here on an interrupt has something to clean up.
    """
    global _runs_main
    _runs_main = _runs_main or runs_main
    _open_streams()
    # A shell starts what runs behind it (&) with SIGINT ignored; so it stays.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, _interrupt)
            # Last of all: what is left then takes no handler, and is soon over.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def end(status: Any) -> NoReturn:
    """End the process; an interrupt may cut short what is left.

    A command does what the interpreter does at its end, except to take apart what has
    been imported: of torch that is 0.4 s.

    Raises:
        SystemExit: with the status, where this is no process of ours.
    """
    global _runs_main
    _runs_main = False
    if is_command() and isinstance(status, int):
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(status & 0xFF)
    try:
        sys.stderr.flush()
    except OSError:  # the interpreter would try again, and end with a status of its own
        _put(os.open(os.devnull, os.O_WRONLY), 2)
    raise SystemExit(status)


def _interrupt(signum: int, frame) -> None:
    if _runs_main and not _imports(frame):
        raise KeyboardInterrupt
    # The C code of a module that is being imported turns a KeyboardInterrupt into an
    # ImportError, or forgets it. Nor is there anything to clean up.
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


def _imports(frame) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _open_streams() -> None:
    """Text is UTF-8, whatever the locale; nothing else opens as a closed stream.

    A closed stdout becomes one that refuses what is written, so that it is missed.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _put(os.open(os.devnull, mode), number)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  (for all the process)
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(errors="backslashreplace")
    if sys.stdout is sys.__stdout__ and not _is_ours(sys.stdout):
        if sys.stdout:
            sys.stdout.flush()
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(1, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=os.isatty(1),
            write_through=getattr(sys.stdout, "write_through", False),
        )


class _Stdout(io.FileIO):
    """Descriptor 1; what could not be written there is never forgotten."""

    lost: OSError | None = None

    def write(self, data) -> int | None:
        """As FileIO's."""
        if self.lost:
            return len(data)  # the interpreter tries again at its end
        try:
            return super().write(data)
        except OSError as e:
            e.filename = "stdout"
            self.lost = e
            raise


def _is_ours(stream: object) -> bool:
    return isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Stdout)


def say(message: str) -> None:
    """Write a line to stderr, with any characters; nothing if it is closed."""
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(message) + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    r"""Escape invisible characters and those that are no UTF-8: ``\\xe9``."""
    return "".join(map(_printable, text))


def _printable(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def flush_stdout() -> OSError | None:
    """Flush stdout; returns the reason if output was lost, now or before."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return sys.stdout.buffer.raw.lost if _is_ours(sys.stdout) else None


def _put(handle: int, number: int) -> None:
    if handle == number:
        os.set_inheritable(number, True)
        return
    os.dup2(handle, number)
    os.close(handle)
