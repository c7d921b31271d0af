"""How a command ends: its streams may be shut or full, and it may be interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PLAN = "-m espnet_llada.bin.plan"  # the lightest of the commands


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a line of bash; exit status, stdout and stderr, as bytes."""
    folder = tmp_path_factory.mktemp("shell")

    def run(line: str, **env: str) -> tuple[int, bytes, bytes]:
        env = {**os.environ, "PYTHONPATH": str(REPO), "PYTHON": sys.executable, **env}
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, env=env, cwd=folder, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        (">/dev/full", 2, b"error: stdout: No space left on device\n"),
        (">/dev/full ", 2, b"error: stdout: No space left on device\n"),  # unbuffered
        (">&-", 2, b"error: stdout: Bad file descriptor\n"),
        (">&- 2>&-", 2, b""),
        ("2>&-", 0, b""),
        ("| true", 1, b""),
    ],
)
def test_output_that_is_lost_is_said(shell, streams, status, said):
    """--help is argparse's, which forgets a write that fails."""
    line = f'"$PYTHON" {PLAN} --help {streams}; exit ${{PIPESTATUS[0]}}'
    unbuffered = "1" if streams.endswith(" ") else ""
    code, _, err = shell(line, PYTHONUNBUFFERED=unbuffered)
    assert (code, err) == (status, said)


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_an_error_that_nobody_can_read_is_one_all_the_same(shell, stderr):
    assert shell(f'"$PYTHON" {PLAN} {stderr}') == (2, b"", b"")


def test_a_closed_stdout_is_no_file_that_is_opened_later(shell):
    code = (
        "import sys; from espnet_llada.bin.options import run_main\n"
        "def main(cmd):\n"
        "    with open('result', 'w') as f: sys.stdout.write('x\\n'); f.write('y\\n')\n"
        "run_main(main)"
    )
    (shell.folder / "code.py").write_text(code)
    assert shell('"$PYTHON" code.py <&- >&-')[0] == 2
    assert (shell.folder / "result").read_text() == "y\n"


def test_text_is_utf_8_and_a_name_is_printable_whatever_the_locale(shell):
    code = (
        "import sys; from espnet_llada.bin.options import run_main\n"
        "from espnet_llada.types import UserError\n"
        "def main(cmd):\n"
        "    sys.stdout.write('caf\\xe9\\n')\n"
        "    raise UserError(f'{sys.argv[1]}: no')\n"
        "run_main(main)"
    )
    (shell.folder / "text.py").write_text(code)
    name = r"""$'a b\x1b[0m\xe9'"""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for env in (locale, {"PYTHONIOENCODING": "ascii"}, {}):
        code, out, err = shell(f'"$PYTHON" text.py {name}', **env)
        assert (code, out) == (2, "café\n".encode())
        assert err == rb"error: a b\x1b[0m\xe9: no" + b"\n"


def test_files_and_memory_that_fail_are_one_line(shell):
    code = (
        "import sys; from pathlib import Path\n"
        "from espnet_llada.bin.options import run_main\n"
        "def main(cmd):\n"
        "    sys.argv[1] == 'big' and bytearray(1 << 62)\n"
        "    Path(sys.argv[1]).is_file()\n"
        "run_main(main)"
    )
    (shell.folder / "fail.py").write_text(code)
    (shell.folder / "loop").symlink_to("loop")
    for name, reason in (
        ("x" * 300, f"{'x' * 300}: File name too long"),
        ("big", "out of memory"),
    ):
        code, out, err = shell(f'"$PYTHON" fail.py {name}')
        assert (code, out, err.count(b"\n")) == (2, b"", 1)
        assert err.decode().startswith(f"error: {reason}")


@pytest.mark.parametrize("program", ["-m espnet_llada.bin.score", "espnet-llada"])
@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupt_while_a_library_is_imported(shell, program, swallowed):
    """A module of C turns it into another error."""
    stub = (
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(10)\n"
        "except KeyboardInterrupt as e:\n"
        f"    {'raise ImportError from e' if swallowed else 'raise'}\n"
    )
    (shell.folder / "jiwer.py").write_text(stub)
    (shell.folder / "espnet-llada").write_text(
        "from espnet_llada.bin.cli import entry\nentry()\n"  # as pip's script does
    )
    path = f"{shell.folder}:{REPO}"
    line = f'"$PYTHON" {program} {"score" * (program[0] == "e")} ref hyp'
    assert shell(line, PYTHONPATH=path) == (130, b"", b"interrupted\n")


def test_an_interrupt_in_the_middle_cleans_up_and_one_behind_is_quiet(shell):
    code = (
        "import os, signal, atexit, sys\n"
        "from espnet_llada.bin.options import run_main\n"
        "from espnet_llada.types import atomic_write\n"
        "def kill(): os.kill(os.getpid(), signal.SIGINT)\n"
        "def main(cmd):\n"
        "    with atomic_write('sums'): sys.argv[1] == 'main' and kill()\n"
        "    sys.argv[1] == 'end' and atexit.register(kill)\n"
        "run_main(main)"
    )
    (shell.folder / "kill.py").write_text(code)
    for when, there in (("main", False), ("end", True)):
        line = f'"$PYTHON" kill.py {when}'
        assert shell(line) == (130, b"", b"interrupted\n")
        assert (shell.folder / "sums").exists() == there
        assert not list(shell.folder.glob(".sums*"))


def test_who_starts_it_behind_a_shell_is_not_interrupted(shell):
    code = (
        "import os, signal; from espnet_llada.bin.options import run_main\n"
        "run_main(lambda cmd: os.kill(os.getpid(), signal.SIGINT))"
    )
    (shell.folder / "ignored.py").write_text(code)
    assert shell("trap '' INT; \"$PYTHON\" ignored.py") == (0, b"", b"")
