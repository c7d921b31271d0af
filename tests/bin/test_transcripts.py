"""transcribe --output, whatever ends it; and what names the files may have."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llada.bin import cli
from espnet_llada.bin.options import run_main
from espnet_llada.inference.decode_dir import DecodeDir
from espnet_llada.io.kaldi.table import read_text
from espnet_llada.types import UserError

COUNT, BATCH = 12, 3


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> list[Path]:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("audio")
    files = [folder / f"utt{i:02d}.flac" for i in range(COUNT)]
    for file in files:
        soundfile.write(file, rng.normal(0, 0.1, 8_000), 16_000)
    return files


# Random draws, which the id decides: no line is that of another utterance.
OPTIONS = ["--canvas_length", 30, "--steps", 15, "--temperature", 1]
OPTIONS += ["--batch_size", BATCH]


@pytest.fixture
def transcribe(model_dir, audio, tmp_path):
    """The command, with options behind it; ``files`` are those it names."""

    def command(*more: object, files=audio, output: object = tmp_path / "text"):
        places = ("--model", model_dir, "--output", output)
        words = ["transcribe", *files, *places, *OPTIONS, *more]
        return [os.fsdecode(w) if isinstance(w, bytes) else str(w) for w in words]

    return command


@pytest.fixture(scope="module")
def whole(model_dir, audio, tmp_path_factory) -> list[str]:
    """The lines of a run that nothing disturbs."""
    output = tmp_path_factory.mktemp("whole") / "text"
    words = ["transcribe", *audio, "--model", model_dir, "--output", output, *OPTIONS]
    assert cli.main([str(w) for w in words]) == 0
    assert list(output.parent.iterdir()) == [output]
    lines = output.read_text().splitlines()
    assert [line.split()[0] for line in lines] == [file.stem for file in audio]
    assert len({line.partition(" ")[2] for line in lines}) == COUNT
    return lines


def start(
    command: list[str], log: Path, room: int | None = None, lines: int = COUNT
) -> int:
    """Run it in a process of its own, which waits after ``lines``; returns its id."""
    if (pid := os.fork()) > 0:
        return pid
    code, write = 1, DecodeDir.write

    def write_and_wait(self, outcome) -> None:
        write(self, outcome)
        if outcome.utterance.utt_id == f"utt{lines - 1:02d}":
            time.sleep(60)

    if lines < COUNT:
        DecodeDir.write = write_and_wait
    logging.root.handlers.clear()  # of the tests before it
    try:
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout = sys.__stdout__ = open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w")  # noqa: SIM115
        if room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        run_main(cli.main, command)
    except SystemExit as e:
        code = e.code
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines_of(partial: Path) -> list[str]:
    text = partial / "1best_recog/text"
    return text.read_text().splitlines() if text.exists() else []


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        signal.SIGINT,
    ],
)
def test_a_run_that_is_ended_keeps_what_it_has(
    capsys, transcribe, whole, tmp_path, how
):
    output, partial, log = (tmp_path / n for n in ("text", "text.partial", "log"))
    output.write_text("an older one\n")
    pid = start(transcribe(), log, lines=2 * BATCH + 1)
    while len(lines_of(partial)) < 2 * BATCH + 1:
        time.sleep(0.002)
    os.kill(pid, how)
    status = end(pid)
    assert output.read_text() == "an older one\n"
    have = lines_of(partial)
    assert have == whole[: 2 * BATCH + 1]
    said = log.read_text()
    if how == signal.SIGINT:
        assert status == 130 and said.splitlines()[-1] == "interrupted"
        assert f"{partial}: keeps what was decoded" in said
    else:
        assert (status, said) == (-how, "")
    assert cli.main(transcribe()) == 0
    assert f"{partial}: has {2 * BATCH} of {COUNT}; going on" in capsys.readouterr().err
    assert output.read_text().splitlines() == whole
    assert not partial.exists()


def test_a_disk_that_is_full_in_the_middle(transcribe, tmp_path):
    output, partial, log = (tmp_path / n for n in ("text", "text.partial", "log"))
    more = ("--canvas_length", 80, "--steps", 5)
    assert cli.main(transcribe(*more, output=tmp_path / "whole")) == 0
    assert end(start(transcribe(*more), log, room=3000)) == 2
    assert log.read_text().count("\n") == 1
    assert "cannot write" in log.read_text() and "goes on from here" in log.read_text()
    whole = (tmp_path / "whole").read_text()
    have = lines_of(partial)
    assert BATCH <= len(have) < COUNT and have == whole.splitlines()[: len(have)]
    assert not output.exists()
    assert cli.main(transcribe(*more)) == 0
    assert output.read_text() == whole


def half_done(command: list[str], monkeypatch, after: int) -> None:
    """Interrupted behind so many utterances, in this process."""
    with monkeypatch.context() as patch:
        decode_all = cli.decode_all

        def some(*args):
            outcomes = decode_all(*args)
            yield from (next(outcomes) for _ in range(after))
            raise KeyboardInterrupt

        patch.setattr(cli, "decode_all", some)
        with pytest.raises(KeyboardInterrupt):
            cli.main(command)


def test_what_another_run_has_left_is_not_taken(
    capsys, monkeypatch, transcribe, whole, audio, tmp_path
):
    files = [tmp_path / file.name for file in audio[: 2 * BATCH]]
    for file, source in zip(files, audio, strict=False):
        file.write_bytes(source.read_bytes())
    for change in ("options", "audio"):
        half_done(transcribe(files=files), monkeypatch, BATCH)
        assert lines_of(tmp_path / "text.partial") == whole[:BATCH]
        if change == "audio":
            soundfile.write(files[0], np.zeros(9_000), 16_000)
        more = ("--seed", 1) if change == "options" else ()
        capsys.readouterr()
        assert cli.main(transcribe(*more, files=files)) == 0
        assert "going on" not in capsys.readouterr().err
        lines = (tmp_path / "text").read_text().splitlines()
        same = [line == right for line, right in zip(lines, whole, strict=False)]
        assert same == [False] * 6 if more else [False] + [True] * 5


def test_another_run_s_lines_are_not_dropped_in_silence(
    monkeypatch, transcribe, caplog, tmp_path
):
    half_done(transcribe(), monkeypatch, BATCH)
    assert cli.main(transcribe("--seed", 1)) == 0
    assert "text.partial: other options before; starting anew" in caplog.text


def test_a_directory_that_is_removed_meanwhile(transcribe, monkeypatch, tmp_path):
    folder, write = tmp_path / "folder", DecodeDir.write
    folder.mkdir()

    def write_and_remove(self, outcome) -> None:
        write(self, outcome)
        if outcome.utterance.utt_id == "utt05":
            shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(DecodeDir, "write", write_and_remove)
        with pytest.raises(UserError, match="12 of 12 utterances are no longer in it"):
            cli.main(transcribe(output=folder / "text"))
    assert not folder.exists()


def test_one_that_ends_leaves_the_directory_to_one_that_waits(monkeypatch, tmp_path):
    ended, job = threading.Event(), (tmp_path / "out", {}, [], 1)
    remove_empty = DecodeDir._remove_empty

    def slowly(self) -> None:
        ended.wait(0.3)
        remove_empty(self)

    def other() -> None:
        with DecodeDir(*job) as directory:
            ended.set()
            directory.begin()

    monkeypatch.setattr(DecodeDir, "_remove_empty", slowly)
    second = threading.Thread(target=other)
    with DecodeDir(*job):
        second.start()
        time.sleep(0.1)  # it waits for the lock
        assert not ended.is_set()
    second.join(5)
    assert (tmp_path / "out/1best_recog/text").exists()


@pytest.mark.parametrize("name", ["utt00.flac", "sub/../utt00.flac", "soft", "hard"])
def test_what_is_read_is_not_replaced(transcribe, audio, tmp_path, name):
    file, first = tmp_path / "utt00.flac", tmp_path / "first"
    file.write_bytes(audio[0].read_bytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "soft").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    with pytest.raises(UserError, match=f"{name}: is read from, as .*utt00.flac"):
        cli.main(transcribe(files=[file], output=tmp_path / name))
    assert file.read_bytes() == audio[0].read_bytes()
    first.write_text("utt00 THE DOG\n")
    command = transcribe("--first_pass", first, files=[file], output=first)
    with pytest.raises(UserError, match=r"first: is read from, as .*first; name an"):
        cli.main(["deliberate", *command[1:]])
    assert first.read_text() == "utt00 THE DOG\n"


def test_a_file_that_must_not_be_written_is_left(transcribe, monkeypatch, tmp_path):
    """The system's answer is made up: for root every file is writable."""
    file, access = tmp_path / "text", os.access
    file.write_text("an older one\n")
    file.chmod(0o444)

    def as_user(path, mode) -> bool:
        return access(path, mode) and (mode != os.W_OK or Path(path) != file)

    monkeypatch.setattr(os, "access", as_user)
    with pytest.raises(UserError, match=r"text: cannot write it \(Permission denied"):
        cli.main(transcribe(output=file))
    assert [*tmp_path.iterdir()] == [file] and file.read_text() == "an older one\n"


def test_a_wrong_model_leaves_what_there_is(monkeypatch, transcribe, whole, tmp_path):
    half_done(transcribe(), monkeypatch, BATCH)
    for wrong in (("--model", "nowhere"), ("--device", "abacus")):
        with pytest.raises(UserError, match=wrong[1]):
            cli.main(transcribe(*wrong))
    assert lines_of(tmp_path / "text.partial") == whole[:BATCH]
    with pytest.raises(UserError, match="abacus"):
        cli.main(transcribe("--device", "abacus", output=tmp_path / "other"))
    assert {p.name for p in tmp_path.iterdir()} == {"text.partial"}


def test_files_of_the_user_s_are_never_removed(transcribe, audio, tmp_path):
    partial = tmp_path / "text.partial"
    partial.mkdir()
    (partial / "thesis").touch()
    assert cli.main(transcribe(files=audio[:1])) == 0
    assert [p.name for p in partial.iterdir()] == ["thesis"]
    (tmp_path / "a.partial").touch()
    with pytest.raises(UserError, match=r"a\.partial.*cannot write"):
        cli.main(transcribe(output=tmp_path / "a"))


def test_a_pipe_gets_each_line_when_it_is_decoded(transcribe, whole, tmp_path):
    fifo, times, lines = tmp_path / "fifo", [], []
    os.mkfifo(fifo)

    def read() -> None:
        with open(fifo) as f:
            for line in f:
                lines.append(line.rstrip("\n"))
                times.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    assert cli.main(transcribe(output=fifo)) == 0
    finished = time.monotonic()
    reader.join()
    assert lines == whole and finished - times[0] > (finished - times[-1]) + 0.01
    with pytest.raises(UserError, match=r"/dev/full: writing failed \(No space left"):
        cli.main(transcribe(output="/dev/full"))
    assert {p.name for p in tmp_path.iterdir()} == {"fifo"}


def test_names_that_are_long_empty_or_no_utf_8(
    capsys, transcribe, whole, audio, tmp_path
):
    content = audio[0].read_bytes()
    names = [b"caf\xe9.flac", b" .flac", "é.flac".encode(), b"a\nb.flac"]
    names += ["\ufeffq.flac".encode(), "w\u200b(2).flac".encode()]
    files = [os.fsencode(tmp_path) + b"/" + name for name in names]
    for file in files:
        with open(file, "wb") as f:
            f.write(content)
    long = tmp_path / f"{'x' * 300}.flac"
    (tmp_path / "loop").symlink_to("loop")
    bad = [long, tmp_path / "loop/a.flac", tmp_path / "none\n.flac", b"no\xe9.flac"]
    assert cli.main(transcribe(files=[*bad, *files])) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 4
    reasons = "Too many", r"no\xe9.flac: no such", r"none\n.flac: no", "name too long"
    assert all(r in line for r, line in zip(reasons, errors, strict=True)), errors
    lines = (tmp_path / "text").read_bytes().decode("utf-8").splitlines()
    ids = [r"\ufeffq", "_", "a_b", r"caf\xe9", r"w\u200b(2)", "é"]
    assert [line.split()[0] for line in lines] == ids
    assert list(read_text(tmp_path / "text")) == ids  # whoever reads it finds the same
    with pytest.raises(UserError, match="File name too long"):
        cli.main(transcribe(files=[long]))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_id_is_found_in_either_form_of_unicode(
    capsys, model_dir, audio, tmp_path, form
):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    names = [unicodedata.normalize(f, "é") for f in (form, other)]
    file = tmp_path / f"{names[0]}.flac"
    file.write_bytes(audio[0].read_bytes())
    first = tmp_path / "first"
    first.write_text(f"{names[1]} THE DOG\n")
    command = ["deliberate", str(file), "--model", str(model_dir)]
    command += ["--first_pass", str(first), "--strategy", "random", "--mask_ratio", "0"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == "\u00e9 THE DOG\n"  # the composed form
    first.write_text(f"{names[1]} THE DOG\n{names[0]} THE FOX\n")
    with pytest.raises(UserError, match=f"{first}:2: 'é' occurs twice"):
        cli.main(["score", str(first), str(first)])
    twin = tmp_path / f"{names[1]}.flac"
    twin.write_bytes(audio[1].read_bytes())
    with pytest.raises(UserError, match="share an id"):
        cli.main(["transcribe", str(file), str(twin), "--model", str(model_dir)])
