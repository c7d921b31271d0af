"""atomic_write into all that a path can name, and the checks before it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from espnet_llada.types import (
    UserError,
    atomic_write,
    check_directory,
    check_writable,
    nearest,
)

LONG = "x" * 300


def write(path: str | Path, text: str = "new\n") -> None:
    check_writable(path)
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_whole_and_keeps_its_rights(tmp_path):
    file = tmp_path / ("n" * 255)  # as long as a name can be
    file.write_text("old\n")
    file.chmod(0o640)
    with pytest.raises(ZeroDivisionError), atomic_write(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old\n"
    write(file)
    assert file.read_text() == "new\n" and file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far/real", tmp_path / "link"
    if there:
        target.write_text("old\n")
    link.symlink_to("middle")
    (tmp_path / "middle").symlink_to(target)
    write(link)
    assert link.is_symlink() and (tmp_path / "middle").is_symlink()
    assert target.read_text() == "new\n" and not target.is_symlink()


def test_a_pipe_a_device_and_an_open_file_stay(tmp_path):
    fifo, got = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    write(fifo)
    reader.join()
    assert got == ["new\n"] and fifo.is_fifo()
    write(os.devnull)
    assert Path(os.devnull).is_char_device()
    with open(tmp_path / "open", "w+") as f:
        f.write("before\n")
        f.flush()
        for path in (f"/dev/fd/{f.fileno()}", f"/proc/self/fd/{f.fileno()}"):
            write(path)
        f.write("behind\n")  # the position is that of the open file
    assert (tmp_path / "open").read_text() == "before\nnew\nnew\nbehind\n"


def test_dev_stdout_is_the_process_s_own(tmp_path):
    code = (
        "from espnet_llada.types import atomic_write\n"
        "with atomic_write('/dev/stdout') as temporary: temporary.write_text('new\\n')"
    )
    out = tmp_path / "out"
    out.write_text("before\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with open(out, "a") as f:
        subprocess.run([sys.executable, "-c", code], stdout=f, check=True, env=env)
    assert out.read_text() == "before\nnew\n"


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").touch()
    for name, reason in (
        ("a", "Too many levels of symbolic links"),
        ("", "Is a directory"),
        ("none/x", "No such file or directory"),
        ("file/x", "Not a directory"),
        (LONG, "File name too long"),
        ("/dev/fd/999", "No such file or directory"),
    ):
        path = tmp_path / name
        with pytest.raises(UserError, match=rf"^{path}: cannot write .*{reason}"):
            check_writable(path)
    with pytest.raises(UserError, match=r"/dev/full: writing failed \(No space left"):
        write("/dev/full")
    assert Path("/dev/full").is_char_device()
    for name, reason in ((LONG, "too long"), ("file", "Not a d"), ("a/x", "Too many")):
        with pytest.raises(UserError, match=reason):
            check_directory(tmp_path / name)
    check_directory(tmp_path / "new/and/deep")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "file"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("--stps", " (did you mean '--steps'?)"),
        ("--ctc_weight", ""),  # half of the letters are another's, too
        ("--maxlenratio", ""),
    ],
)
def test_a_hint_names_what_was_meant_or_nothing(name, hint):
    known = ["--steps", "--joint.weight", "--mask_ratio"]
    assert nearest(name, known) == hint
