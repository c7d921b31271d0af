"""The process that a command runs in: its streams, and its end at an interrupt.

``espnet_llada.bin`` begins with it, before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys

_SCRIPT = "espnet-llada"

_runs_main = False


def is_command() -> bool:
    """Whether this process was started as one of our commands, and is no importer."""
    if os.path.basename(sys.argv[0] if sys.argv else "") == _SCRIPT:
        return True
    _, option, module = " ".join(sys.orig_argv[:8]).partition(" -m ")
    return bool(option) and re.split("[. ]", module)[0] == "espnet_llada"


def begin(runs_main: bool = False) -> None:
    """Set up streams and interrupts; once more does no harm.

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


def end() -> None:
    """What is left is the interpreter's own end, which an interrupt may cut short."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(signum: int, frame) -> None:
    if _runs_main and not _imports(frame):
        raise KeyboardInterrupt
    # The C code of a module that is being imported turns a KeyboardInterrupt into an
    # ImportError, or forgets it. There is nothing to clean up either.
    say("interrupted")
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
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (for all the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream, encoding in ((sys.stdout, "utf-8"), (sys.stderr, None)):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def say(message: str) -> None:
    """A line on stderr, whatever is in a name; where stderr is shut, to nobody."""
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(map(_printable, message)) + "\n")
        sys.stderr.flush()


def _printable(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def flush_stdout() -> OSError | None:
    """Write what is waiting; else the reason, and it will not be tried again."""
    try:
        sys.stdout.flush()
    except OSError as e:
        _put(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return e
    return None


def _put(handle: int, number: int) -> None:
    if handle == number:
        os.set_inheritable(number, True)
        return
    os.dup2(handle, number)
    os.close(handle)
