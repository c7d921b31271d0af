"""Help of the commands: fits a terminal, has an example, loads nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from espnet_llada.bin import cli
from espnet_llada.inference.options import GROUPS, all_names


@pytest.mark.parametrize(
    "command", ["transcribe", "deliberate", "score", "features", "plan"]
)
def test_help_shows_an_example_and_loads_nothing_heavy(repo, command):
    code = (
        "import sys; from espnet_llada.bin import cli\n"
        f"try: cli.main(['{command}', '--help'])\n"
        "except SystemExit as e: status = e.code\n"
        "assert not {'torch', 'transformers', 'espnet2'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    env = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert f"espnet-llada {command} " in done.stdout.split("example")[1]


def help_of(capsys, *words: str) -> list[str]:
    with pytest.raises(SystemExit) as e:
        cli.main([*words])
    assert not e.value.code
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", ["transcribe", "deliberate"])
def test_help_fits_a_terminal(capsys, monkeypatch, command):
    """80 columns, 45 lines, an option on one or two of them; the rest by --help all."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(capsys, command, "--help")
    assert len(lines) <= 45 and max(map(len, lines)) <= 80
    every = help_of(capsys, command, "--help", "all")
    assert max(map(len, every)) <= 80
    for before, after in pairwise([*lines, *every]):
        assert not (before.startswith(" " * 20) and after.startswith(" " * 20)), after
    text, whole = "\n".join(lines), "\n".join(every)
    options = [name for name in all_names() if "." in name]
    for name in (*GROUPS, *options):
        assert f"--{name} " in whole and f"--{name} " not in text, name
    for name in all_names():
        assert f"--{name} " in whole, name
    for name in ("lm", "whisper", "trust_model", "quantize_asr_model", "output_case"):
        assert f"--{name} " in whole and f"--{name} " not in text
