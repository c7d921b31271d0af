from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_llada.bin import score
from espnet_llada.bin.options import run_main
from espnet_llada.types import UserError


def _files(folder: Path, ref: bytes, hyp: bytes) -> list[str]:
    (folder / "ref").write_bytes(ref)
    (folder / "hyp").write_bytes(hyp)
    return [str(folder / "ref"), str(folder / "hyp")]


def test_last_line_and_breakdown(tmp_path, capsys):
    ref = b"u1 THE COLOUR RED\nu2 TWO\n"
    score.main(_files(tmp_path, ref, b"u2 2\nu1 THE COLOR\n"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "WER raw 75.00 norm 25.00 words 4 utts 2"
    assert [line.split() for line in lines[:4]] == [
        "percent units corr sub del ins err s.err".split(),
        "words 4 25.00 50.00 25.00 0.00 75.00 100.00".split(),
        "words normalised 4 75.00 0.00 25.00 0.00 25.00 50.00".split(),
        "chars 17 52.94 5.88 41.18 0.00 47.06 100.00".split(),
    ]
    assert lines[4:6] == [
        "raw  75.00 [66.67, 100.00]  (95% CI, bootstrap over 2 utterances)",
        "norm 25.00 [0.00, 33.33]  (95% CI, bootstrap over 2 utterances)",
    ]


def _set(folder: Path, readers: int) -> list[str]:
    """Two chapters of each reader; the hypothesis misses a word in every other one."""
    utts = [f"{s}-{c}-0000" for s in range(100, 100 + readers) for c in (1, 2)]
    (folder / "utt2spk").write_text("".join(f"{u} {u[:-5]}\n" for u in utts))
    ref = "".join(f"{u} RED GREEN BLUE PINK\n" for u in utts).encode()
    return _files(folder, ref, ref.replace(b"-1-0000 RED", b"-1-0000"))


def test_comparison_with_a_first_pass(tmp_path, capsys):
    ref, hyp = _set(tmp_path, 12)
    worse = tmp_path / "first_pass"
    worse.write_bytes(Path(ref).read_bytes().replace(b"RED GREEN", b""))
    score.main([ref, hyp, "--against", str(worse)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4:6] == [
        "raw  12.50 [12.50, 12.50]  (95% CI, bootstrap over 12 speakers)",
        "     from 50.00: absolute -37.50 [-37.50, -37.50], "
        "relative -75.00 [-75.00, -75.00] %, p <0.001",
    ]
    assert lines[6].startswith("norm 12.50 ")
    assert lines[-1] == "WER raw 12.50 norm 12.50 words 96 utts 24"


def test_speakers_from_another_file(tmp_path, capsys):
    files = _set(tmp_path, 12)
    (tmp_path / "utt2spk").rename(tmp_path / "who")
    score.main([*files, "--utt2spk", str(tmp_path / "who")])
    assert "over 12 speakers" in capsys.readouterr().out
    score.main(files)  # without utt2spk the name up to the first hyphen is the speaker
    assert "over 12 speakers" in capsys.readouterr().out
    (tmp_path / "who").write_text("100-1-0000 a\n")
    with pytest.raises(UserError, match="who: no speaker for utterance 100-2-0000"):
        score.main([*files, "--utt2spk", str(tmp_path / "who")])


@pytest.mark.parametrize(
    ("ref", "hyp", "what"),
    [
        (b"", b"u1 A\n", "ref: the file is empty"),
        (b"u1 A\n", b"u1 \xff\n", "hyp:1: not UTF-8"),
        (b"u1 A\nu1 B\n", b"u1 A\n", "ref:2: 'u1' occurs twice"),
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


def test_each_input_is_read_once(tmp_path, capsys):
    """They may be pipes, as of the shell's <(...)."""
    ref, hyp = _set(tmp_path, 12)
    speakers, arguments = tmp_path / "utt2spk", []
    for path in (Path(ref), Path(hyp), Path(ref), speakers):
        reader, writer = os.pipe()
        os.write(writer, path.read_bytes())
        os.close(writer)
        arguments.append(f"/dev/fd/{reader}")
    score.main([*arguments[:2], "--against", arguments[2], "--utt2spk", arguments[3]])
    piped = capsys.readouterr().out
    score.main([ref, hyp, "--against", ref])
    assert piped == capsys.readouterr().out and "over 12 speakers" in piped


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
