"""Processes end with their parent, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_llada.io.process_pool import ProcessPool
from espnet_llada.types import UserError

SCRIPT = """
import os, sys, time
from pathlib import Path

from espnet_llada.bin.options import run_main
from espnet_llada.io.process_pool import ProcessPool
from espnet_llada.types import atomic_write

def job(name):
    with atomic_write(name) as temporary:
        temporary.write_text("half")
        Path(f"{name}.pid").write_text(f"{os.getpid()} ")
        time.sleep(60)

def main(cmd):
    with ProcessPool(2) as pool:
        for future in [pool.submit(job, name) for name in "abcdefgh"]:
            future.result()

if __name__ == "__main__":
    run_main(main)
"""


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # nobody may have waited for it


@pytest.mark.parametrize(
    ("number", "send", "status", "said"),
    [
        pytest.param(signal.SIGINT, os.killpg, 130, "interrupted\n", id="Ctrl-C"),
        pytest.param(signal.SIGINT, os.kill, 130, "interrupted\n", id="interrupt"),
        pytest.param(signal.SIGKILL, os.kill, -9, "", id="kill -9"),
    ],
)
def test_jobs_end_and_tidy_up(tmp_path, number, send, status, said):
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "script.py").write_text(SCRIPT)
    stderr = tmp_path / "stderr"
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=stderr.open("w"),
        start_new_session=True,
        # A background shell job ignores SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files, deadline = [tmp_path / "a.pid", tmp_path / "b.pid"], time.monotonic() + 30
    while not all(f.exists() and f.read_text().endswith(" ") for f in files):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    send(process.pid, number)
    assert process.wait(timeout=30) == status
    while any(runs(int(f.read_text())) for f in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert said in (stderr.read_text(), "")  # of kill -9, multiprocessing says more
    names = sorted(f.name for f in tmp_path.iterdir())
    assert names == ["a.pid", "b.pid", "script.py", "stderr"]


def test_a_killed_process_is_one_line():
    message = r"^a process was killed \(out of memory\?\); run it again$"
    with (
        pytest.raises(UserError, match=message),
        ProcessPool(2, hint="run it again") as pool,
    ):
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_an_error_of_a_job_is_its_own():
    with (
        pytest.raises(UserError, match=r"^a\.wav: corrupt$"),
        ProcessPool(1) as pool,
    ):
        pool.submit(_fail, "a.wav").result()


def _fail(name: str) -> None:
    raise UserError(f"{name}: corrupt")
