"""Archives from strangers: arrays are read, nothing is run."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.kaldi.archive import read_entry
from espnet_llada.io.kaldi.pipe import Pipe
from espnet_llada.types import UserError

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)


class Evil:
    """Unpickled, it makes the file ``ran`` in the working directory."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def entry(content: bytes) -> str:
    """An archive with one utterance; returns its place."""
    Path("x.ark").write_bytes(b"u1 " + content)
    return "x.ark:3"


def numpy_entry(content: bytes) -> str:
    """One that says NumPy."""
    size = len(content).to_bytes(2, "little")
    return entry(b"NPY" + bytes([2]) + size + content)


def saved(kind: str | None) -> str:
    with open("x.ark", "wb") as f:
        kaldiio.save_ark(f, {"u1": MATRIX}, write_function=kind)
    return "x.ark:3"


@pytest.mark.parametrize("kind", [None, "numpy"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", MATRIX),
        ("[1:2]", MATRIX[1:3]),
        ("[:,0:1]", MATRIX[:, :2]),
        ("[0:0,2:2]", MATRIX[:1, 2:]),
    ],
)
def test_arrays(kind: str | None, rows: str, expected: np.ndarray):
    read = read_entry(saved(kind) + rows)
    assert np.array_equal(read, expected) and read.dtype == np.float32


def test_text_and_waveforms():
    assert read_entry(entry(b" [\n 1 2\n 3 4 ]\n")).tolist() == [[1, 2], [3, 4]]
    audio = np.arange(8, dtype=np.int16)
    wave = {"u1": (16_000, audio)}
    kaldiio.save_ark("w.ark", wave)
    kaldiio.save_ark("f.ark", wave, write_function="soundfile")
    rate, samples = read_entry("w.ark:3")
    assert rate == 16_000 and np.array_equal(samples, audio)
    assert np.allclose(load_audio("f.ark:3"), audio / 32768)
    Path("a:b [1].ark").write_bytes(Path("w.ark").read_bytes())
    assert read_entry("a:b [1].ark:3[2:3]")[1].tolist() == [2, 3]


@pytest.mark.parametrize("reader", [read_entry, load_audio])
def test_no_pickle_is_loaded(reader):
    evil, objects = pickle.dumps(Evil()), io.BytesIO()
    np.save(objects, np.array([Evil()], dtype=object), allow_pickle=True)
    for place in (
        entry(b"PKL" + evil),
        entry(evil),
        numpy_entry(evil),
        numpy_entry(objects.getvalue()),
    ):
        with pytest.raises(UserError, match=r"x\.ark:3: "):
            reader(place)


@pytest.mark.parametrize("reader", [read_entry, load_audio])
@pytest.mark.parametrize(
    "place",
    ["touch ran |", "touch ran|", " touch ran | ", "|touch ran", "|touch ran #.ark:3"],
)
def test_no_command_is_run(reader, place: str):
    with pytest.raises(UserError):
        reader(place)
    # Somebody may also ship a file of that name, which is a file.
    audio = io.BytesIO()
    soundfile.write(audio, np.full(99, 0.5), 16_000, "PCM_16", format="WAV")
    file, _, offset = place.partition(":")
    Path(file).write_bytes(b"u1 "[: int(offset or 0)] + audio.getvalue())
    read = reader(place)
    assert len(read[1] if reader is read_entry else read) == 99


def test_a_command_that_may_run():
    saved(None)
    assert np.array_equal(read_entry(Pipe("tail -c +4 x.ark |")), MATRIX)
    soundfile.write("a.flac", np.zeros(800), 8_000)
    assert len(load_audio(Pipe("cat a.flac | cat |"))) == 1_600
    with pytest.raises(UserError, match=r"^cat nope \|: exit code 1 \(cat: nope: No"):
        load_audio(Pipe("cat nope |"))
    with pytest.raises(UserError, match=r"^echo hi \|: not readable as audio"):
        load_audio(Pipe("echo hi |"))
    assert type(pickle.loads(pickle.dumps(Pipe("x |")))) is Pipe  # to other processes


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nope.ark:3", "no such archive"),
        ("-", "no such archive"),
        ("fifo", "no such archive"),  # whose writer may never come
        ("x" * 300, "File name too long"),
        ("x.ark", "no array and no waveform"),
        ("x.ark:999", "no array and no waveform"),
        ("x.ark:3[a:b]", "no such archive"),
        ("x.ark:3[1:2:3]", "not a range"),
        ("x.ark.gz:3", "no array and no waveform"),
        ("cut.ark:3", "truncated or corrupt"),
        ("huge.ark:3", "truncated or corrupt"),
    ],
)
def test_what_cannot_be_read_is_named(place: str, message: str):
    saved(None)
    content = Path("x.ark").read_bytes()
    Path("x.ark.gz").write_bytes(b"\x1f\x8b" + content)
    Path("cut.ark").write_bytes(content[:-5])
    huge = b"u1 \0BFM \4" + b"\xff\xff\xff\x7f\4\xff\xff\xff\x7f"
    Path("huge.ark").write_bytes(huge)
    os.mkfifo("fifo")
    with pytest.raises(UserError, match=message) as e:
        read_entry(place)
    assert str(e.value).startswith(place[:20].partition(":")[0])
    assert "\n" not in str(e.value)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from([None, "numpy", "pickle", "soundfile"]),
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3),
)
def test_any_archive_is_read_or_refused_in_one_line(kind: str | None, edits: list):
    with open("x.ark", "wb") as f:
        value = (16_000, MATRIX[:, 0]) if kind == "soundfile" else MATRIX
        kaldiio.save_ark(f, {"u1": value}, write_function=kind)
    content = bytearray(Path("x.ark").read_bytes())
    for where, new in edits:
        content[where : where + len(new)] = new
    Path("x.ark").write_bytes(content)
    try:
        read = read_entry("x.ark:3")
    except UserError as e:
        assert len(str(e).splitlines()) == 1 and "x.ark" in str(e)
        return
    assert isinstance(read[1] if isinstance(read, tuple) else read, np.ndarray)
