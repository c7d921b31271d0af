"""Runs the long commands of a stage side by side, each with a log of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_llada.io.files import make_dir
from espnet_llada.types import UserError

ESPNET = "espnet_llada.run -m"
"""Before the name of a module of ESPnet's: it runs with our classes registered."""

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_ERROR_LINE = re.compile(r"^(error: .+|[\w.]*(Error|Exception|Interrupt)\b.*)")


@dataclass(frozen=True)
class Job:
    """A command and the file that takes what it prints.

    Attributes:
        command: program and arguments.
        log: replaced by the job, unless ``append``.
        append: keep what the log already holds.
    """

    command: Sequence[str]
    log: Path
    append: bool = False


def python_command(
    python: str, module: str, values: Mapping[str, Any], more: str = ""
) -> list[str]:
    """``python -m module --name value … more``.

    Args:
        python: how Python is run; a command line.
        module: what is run, with the arguments that it has in any case.
        values: of the options, by name: a switch as ``true`` or ``false``, of a list
            each item. Those that are None or empty are left out.
        more: the rest of the command line; it wins.
    """
    command = [*shlex.split(python), "-m", *module.split()]
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, ""):
                text = str(one).lower() if isinstance(one, bool) else str(one)
                command += [f"--{name}", text]
    return command + shlex.split(more)


def run_script(command: Sequence[str]) -> None:
    """Run a script of the recipe; it writes to our stdout and stderr.

    Raises:
        UserError: it failed.
    """
    if code := subprocess.run(command, check=False).returncode:
        raise UserError(f"{command[0]} ended with exit code {code}; see above")


class Tail:
    """Reads what was added to a file since the last look."""

    def __init__(self, path: Path, at_end: bool = False) -> None:
        self.path = path
        self.offset = path.stat().st_size if at_end and path.exists() else 0

    def read(self) -> bytes:
        """The complete lines added; nothing while the file does not exist."""
        try:
            with open(self.path, "rb") as f:
                f.seek(self.offset)
                added = f.read()
        except FileNotFoundError:
            return b""
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole


def count_lines(tails: Iterable[Tail]) -> int:
    """Number of lines added to several files since the last look."""
    return sum(tail.read().count(b"\n") for tail in tails)


def run_jobs(jobs: Iterable[Job], poll: Callable[[], None] = lambda: None) -> None:
    """Run all jobs at once and wait; the first failure ends the others.

    No job outlives this call, however it ends (Ctrl-C included).

    Args:
        jobs: what to run.
        poll: called several times a second, e.g. to advance a progress bar.

    Raises:
        UserError: a job failed; the message has its last error line and its log.
    """
    jobs = list(jobs)
    running: list[tuple[Job, subprocess.Popen]] = []
    try:
        for job in jobs:
            running.append((job, _start(job, len(jobs))))
        while running:
            for job, process in list(running):
                if (code := process.poll()) is not None:
                    running.remove((job, process))
                    if code:
                        raise UserError(_failure(job, code))
            poll()
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        _stop([process for _, process in running])


def _start(job: Job, count: int) -> subprocess.Popen:
    make_dir(job.log.parent)
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    # Without a limit each of the jobs would take a thread for every core.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with open(job.log, "ab" if job.append else "wb") as log:
        log.write(f"# {shlex.join(job.command)}\n".encode())
        log.flush()
        try:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # a group of its own, so that _stop gets all
            )
        except OSError as e:
            raise UserError(
                f"{job.command[0]}: cannot run it ({e.strerror}); set --python"
            ) from e


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Terminate process groups; kill what is still there after some seconds."""
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    _signal([p for p in processes if p.poll() is None], signal.SIGKILL)
    for process in processes:
        process.wait()


def _signal(processes: Sequence[subprocess.Popen], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _failure(job: Job, code: int) -> str:
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            how += ", often for want of memory: try a smaller --nj or batch"
    return f"{last_error(job.log)} ({how}); the whole log: {job.log}"


def last_error(log: Path) -> str:
    """The last line of a log that states an error, or else its last line."""
    with open(log, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 65536))
        lines = f.read().decode(errors="replace").splitlines()
    begins = [i for i, line in enumerate(lines) if line.startswith("# ")]
    lines = lines[begins[-1] if begins else 0 :]  # an appended log holds older runs
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    last = (errors or lines or ["no output"])[-1]
    return last.removeprefix("error: ")
