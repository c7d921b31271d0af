from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet_llada.bin import score
from espnet_llada.bin.options import run_main


def _files(folder: Path, ref: bytes, hyp: bytes) -> list[str]:
    (folder / "ref").write_bytes(ref)
    (folder / "hyp").write_bytes(hyp)
    return [str(folder / "ref"), str(folder / "hyp")]


def test_last_line_and_breakdown(tmp_path, capsys):
    ref = b"u1 THE COLOUR RED\nu2 TWO\n"
    score.main(_files(tmp_path, ref, b"u2 2\nu1 THE COLOR\n"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "WER raw 75.00 norm 25.00 words 4 utts 2"
    assert [line.split() for line in lines[:-1]] == [
        "percent units corr sub del ins err s.err".split(),
        "words 4 25.00 50.00 25.00 0.00 75.00 100.00".split(),
        "words normalised 4 75.00 0.00 25.00 0.00 25.00 50.00".split(),
        "chars 17 52.94 5.88 41.18 0.00 47.06 100.00".split(),
    ]


@pytest.mark.parametrize(
    ("ref", "hyp", "what"),
    [
        (b"", b"u1 A\n", "ref: the file is empty"),
        (b"u1 A\n", b"u1 \xff\n", "hyp:1: not UTF-8"),
        (b"u1 A\nu1 B\n", b"u1 A\n", "ref:2: utterance u1 again"),
        (b"u1 A\nu2 B\n", b"u1 A\n", "hyp: lacks 1 of 2 utterances (u2)"),
        (b"u1 A\n", b"u1 A\nu2 B\n", "hyp: holds 1 of 2 utterances (u2)"),
        (b"u1\n", b"u1 A\n", "ref: no words"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys, ref, hyp, what):
    with pytest.raises(SystemExit) as e:
        run_main(score.main, _files(tmp_path, ref, hyp))
    assert e.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {tmp_path}/{what}")
    assert err.count("\n") == 1


def test_as_a_program(tmp_path):
    program = [sys.executable, "-m", "espnet_llada.bin.score"]
    helped = subprocess.run([*program, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    assert "example:\n  espnet-llada score data/test/text" in helped.stdout
    missing = [str(tmp_path / "nope")] * 2
    done = subprocess.run([*program, *missing], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/nope: cannot read it")
    assert done.stderr.count("\n") == 1
