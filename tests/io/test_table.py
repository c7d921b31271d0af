"""Tables as people have them: from Windows, from macOS, from a shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_llada.io.kaldi.pipe import Pipe
from espnet_llada.io.kaldi.table import (
    read_numbers,
    read_recordings,
    read_scp,
    read_table,
    scan_table,
)
from espnet_llada.types import UserError

NFC, NFD = "caf\u00e9", "cafe\u0301"
RARE = "a\u2028b\x0bc\x85d\u00a0e\x1cf"  # str.splitlines cuts there, or str.split


def table(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffu1 a\nu2 b", {"u1": "a", "u2": "b"}),
        ("u1 a\n\ufeffu2 b\n", {"u1": "a", "u2": "b"}),  # cat of two such files
        ("u1 a\r\nu2\tb \r\n", {"u1": "a", "u2": "b"}),
        ("u2 a  b  \nu1\n", {"u2": "a  b", "u1": ""}),
        (f"u1 {RARE}\n", {"u1": RARE}),
        (f"{NFD} {NFD}.flac\n", {NFC: f"{NFD}.flac"}),  # the path is the file's name
    ],
)
def test_tables(tmp_path: Path, content: str, expected: dict):
    read = read_table(table(tmp_path / "text", content))
    assert read == expected
    assert list(read) == list(expected)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "text: the file is empty"),
        ("\ufeff\n", "text: the file is empty"),
        ("u1 a\n\nu2 b\n", "text:2: blank line"),
        ("u1 a\n A B\n", "text:2: no id before 'A B'"),
        ("\tA B\n", "text:1: no id before 'A B'"),
        ("u1 a\nu2 b\nu1 c\n", "text:3: 'u1' occurs twice"),
        (f"{NFC} a\n{NFD} b\n", f"text:2: '{NFC}' occurs twice"),
        ("u1 a\ru2 b\r", "text:1: has a carriage return in it"),
        ("u1\u00a0a\n", "text:1: its id has U+00A0"),
        ("u1\u2028 a\n", "text:1: its id has U+2028"),
        ("u1\u200b a\n", "text:1: its id has U+200B"),
        ("u\0 a\n", "text:1: its id has U+0000"),
        ("u1 a\n".encode("utf-16"), "text:1: not UTF-8 (byte 0)"),
    ],
)
def test_what_cannot_be_right_is_named(tmp_path: Path, content, complaint: str):
    with pytest.raises(UserError) as e:
        read_table(table(tmp_path / "text", content))
    assert str(e.value).startswith(f"{tmp_path}/{complaint}")
    assert len(str(e.value).splitlines()) == 1


def test_every_complaint_at_once(tmp_path: Path):
    found, complaints = scan_table(table(tmp_path / "text", "u1 a\n b\n\nu1 c\nu2 d\n"))
    assert found == {"u1": "c", "u2": "d"}
    assert [c.partition(": ")[0][-1] for c in complaints] == ["2", "3", "4"]


def test_a_value_that_is_needed(tmp_path: Path):
    path = table(tmp_path / "utt2spk", "u1 s\nu2\n")
    assert read_table(path)["u2"] == ""
    with pytest.raises(UserError, match="utt2spk:2: no speaker for 'u2'"):
        read_table(path, "speaker")


@pytest.mark.parametrize("value", ["", "x", "nan", "1e999", "1,,2"])
def test_numbers(tmp_path: Path, value: str):
    path = table(tmp_path / "shape", "\ufeffu1 12,3\nu2 4\n")
    assert read_numbers(path, separator=",") == {"u1": [12, 3], "u2": [4]}
    with pytest.raises(UserError, match="u3"):
        read_numbers(table(path, f"u1 1\nu3 {value}\n"), float, ",")
    with pytest.raises(UserError, match="'u3': expected numbers"):
        read_numbers(table(path, f"u1 1\nu3 1{'0' * 400}\n"))


@pytest.mark.parametrize("name", ["nope", ".", "x" * 300, "a\0b"])
def test_no_such_file(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="cannot read it"):
        read_table(tmp_path / name)


def test_a_pipe_is_read_once():
    code = (
        "from espnet_llada.io.kaldi.table import read_table as r;print(r('/dev/stdin'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="u1 A B\n", capture_output=True, text=True
    )
    assert done.stdout == "{'u1': 'A B'}\n", done.stderr


@pytest.mark.parametrize("place", ["sox a.wav -t wav - |", "cat a.wav|", "- |"])
def test_a_command_needs_permission(tmp_path: Path, place: str):
    path = table(tmp_path / "wav.scp", f"u1 a.wav\nu2 {place}  \r\n")
    with pytest.raises(
        UserError, match=r"wav\.scp: 'u2' is a pipe.*--allow_pipes true"
    ):
        read_recordings(path)
    places = read_recordings(path, allow_pipes=True)
    assert places == {"u1": "a.wav", "u2": place}
    assert [type(p) for p in places.values()] == [str, Pipe]


@pytest.mark.parametrize("place", ["-", "|cat", "|", "| cat a.wav |"])
@pytest.mark.parametrize("allow_pipes", [False, True])
def test_what_is_no_file_at_all(tmp_path: Path, place: str, allow_pipes: bool):
    path = table(tmp_path / "wav.scp", f"u1 {place}\n")
    with pytest.raises(UserError, match=r"wav\.scp: 'u1': .* no file to read"):
        read_scp(path, allow_pipes)


def test_segments_are_refused(tmp_path: Path):
    path = table(tmp_path / "wav.scp", "rec rec.flac\n")
    table(tmp_path / "segments", "u1 rec 0.0 1.5\nu2 rec 1.5 3.0\n")
    with pytest.raises(UserError, match=r"/segments: not supported here; let stage 3"):
        read_recordings(path)
    assert read_scp(path) == {"rec": "rec.flac"}


PIECES = ["u1", "u2", " ", "\t", "\n", "\r\n", "\r", "\ufeff", "a.wav", "|", "-", RARE]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12))
def test_any_table_is_read_or_refused_in_one_line(tmp_path: Path, pieces: list[str]):
    content = "".join(pieces).encode("utf-8", "surrogatepass")
    path = table(tmp_path / "wav.scp", content)
    try:
        found = read_scp(path)
    except UserError as e:
        assert len(str(e).splitlines()) == 1 and str(path) in str(e)
        return
    assert len(found) == len([x for x in content.split(b"\n") if x.strip()])
    for key, place in found.items():
        assert key.isprintable() and " " not in key and key
        assert place and not place.endswith("|") and not place.startswith("|")
