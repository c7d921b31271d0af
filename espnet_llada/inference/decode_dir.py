"""Output directory of a decoding job, which resumes after it was killed.

The unit is the batch: a restarted job repeats batches that are incomplete on disk and
keeps the others, so the files equal those of an uninterrupted job, except ``seconds``:
each line there is the time that its utterance took when it was decoded.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from espnet_llada.inference.batches import Outcome, Utterance
from espnet_llada.io.files import read_json, write_json
from espnet_llada.io.weights import cached_sha256
from espnet_llada.types import UserError, atomic_write

FILES = ("text", "token", "token_int", "score", "passes", "seconds")
IDENTITY = "decoding.json"
_NO_DECODING = ("report", "recipe")  # code that cannot change a line


def identity_of(
    options: Mapping[str, Any],
    utterances: Sequence[Utterance],
    files: Mapping[str, str | Path],
) -> dict[str, Any]:
    """Everything that determines the output; audio files are assumed unchanged.

    Args:
        options: values that change the output, the batch size included.
        utterances: ids, paths and first-pass transcripts, in order.
        files: {name: path}, compared by content.
    """
    lines = (f"{u.utt_id}\t{u.path}\t{u.nbest or u.transcript}\n" for u in utterances)
    return {
        "options": dict(options),
        "utterances": _digest(line.encode("utf-8", "surrogatepass") for line in lines),
        **{name: _file_digest(Path(path)) for name, path in files.items()},
        "code": [_code_digest(), metadata.version("torch")],
    }


@functools.cache
def _code_digest() -> str:
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    return _digest(
        f.read_bytes()
        for f in files
        if f.relative_to(package).parts[0] not in _NO_DECODING
    )


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    return cached_sha256(path) if path.is_file() else ""  # loading it will complain


class DecodeDir:
    """The files of one decoding job: a context manager that locks the directory.

    with DecodeDir(output_dir, identity, utterances, batch_size) as directory:
        directory.begin()  # nothing is changed on disk before this
        for outcome in decode_all(recognizer, directory.todo, batch_size):
            directory.write(outcome)
        failures = directory.finish()

    Args:
        output_dir: ``1best_recog/``, ``failed`` and ``decoding.json`` are written here.
        identity: from ``identity_of``; output of another identity is not kept.
        utterances: all of the job, in the order of the output.
        batch_size: utterances decoded together.
        resume: False keeps nothing.
        more: {file: the value of its line, from the outcome} beyond ``FILES``.

    Attributes:
        todo: the utterances to decode: batches that are incomplete on disk, or have a
            failed utterance.

    Raises:
        UserError: the directory cannot be written.
    """

    def __init__(
        self,
        output_dir: Path,
        identity: Mapping[str, Any],
        utterances: Sequence[Utterance],
        batch_size: int,
        resume: bool = True,
        more: Mapping[str, Callable[[Outcome], str]] | None = None,
    ):
        self.more = more or {}
        self.files = (*FILES, *self.more)
        self.top, self.recog = output_dir, output_dir / "1best_recog"
        self.identity, self.resume = dict(identity), resume
        self.utterances, self.batch_size = utterances, batch_size
        self._stack = contextlib.ExitStack()
        self._failures: list[str] = []

    def __enter__(self) -> DecodeDir:
        self._claim()
        self._kept = self._wanted() if self.resume else {}
        self.todo = [u for u in self.utterances if u.utt_id not in self._kept]
        return self

    def __exit__(self, *exception: object) -> None:
        self._remove_empty()  # while nobody else can be about to use it
        # A full disk shows again when a file is closed; the first error is enough.
        with contextlib.suppress(OSError):
            self._stack.close()

    def begin(self) -> None:
        """Drop lines of incomplete batches and open the files."""
        if self._kept:
            logging.info(
                f"resume: {len(self._kept)} of {len(self.utterances)} utterances were "
                "decoded before"
            )
        for (
            name
        ) in self.files:  # before `failed`: a failure is never taken for a result
            self._rewrite(name, self._kept)
        with self._writing():
            (self.top / "failed").unlink(missing_ok=True)
            write_json(self.top / IDENTITY, self.identity)
            self._files = {name: self._open(self.recog / name) for name in self.files}
            self._failed = self._open(self.top / "failed")

    def write(self, outcome: Outcome) -> None:
        """Append the lines of an utterance.

        Raises:
            UserError: the disk is full; what was written before is kept.
        """
        utt_id, hypothesis = outcome.utterance.utt_id, outcome.hypothesis
        logging.info(f"best hypo: {hypothesis.text}")
        values = {
            "text": hypothesis.text,
            "token": " ".join(map(one_word, hypothesis.tokens)),
            "token_int": " ".join(map(str, hypothesis.token_ids)),
            # More digits would be those of a float32 sum, which differ by the batch.
            "score": f"{hypothesis.score:.3f}",
            "passes": str(hypothesis.passes),
            "seconds": f"{outcome.decode_seconds:.6f} {outcome.audio_seconds:.6f}",
            **{name: value(outcome) for name, value in self.more.items()},
        }
        with self._writing():
            if outcome.error:
                self._failures.append(f"{utt_id} {outcome.error}")
                _append(self._failed, self._failures[-1])
            for name, value in values.items():
                _append(self._files[name], f"{utt_id} {value}")

    def finish(self) -> list[str]:
        """Sort the lines; returns ``id reason`` of each failed utterance.

        Raises:
            UserError: lines were removed meanwhile, or the disk is full.
        """
        lines = self._lines()
        if lost := [u.utt_id for u in self.utterances if u.utt_id not in lines]:
            raise UserError(
                f"{self.top}: {len(lost)} of {len(self.utterances)} utterances are no "
                "longer in it; leave it alone until the end, and start again"
            )
        for name in self.files:
            self._rewrite(name, {u.utt_id: lines[u.utt_id] for u in self.utterances})
        return self._failures

    def lines(self, name: str = "text", without: Collection[str] = ()) -> list[str]:
        """The ``id value`` lines of a file; ``without``: ids to leave out."""
        lines = _read(self.recog / name)
        return [lines[u].rstrip() for u in lines if u not in without]

    def remove(self) -> None:
        """Delete the files, and the directories if they are empty then."""
        files = [*(self.recog / n for n in self.files), self.top / "failed"]
        for file in (*files, self.top / IDENTITY):
            file.unlink(missing_ok=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.recog.rmdir()
            self.top.rmdir()

    def _claim(self) -> None:
        """Make the directory and lock it."""
        while True:
            with self._writing():
                self.recog.mkdir(parents=True, exist_ok=True)
                try:
                    handle = os.open(self.recog, os.O_RDONLY)
                except FileNotFoundError:  # removed in between
                    continue
            self._stack.callback(os.close, handle)
            self._lock(handle)
            # Whoever held the lock may have removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(self.recog)):
                    return

    def _lock(self, handle: int) -> None:
        # Of a process that ends in any way the system frees the lock.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning(f"{self.top}: another process decodes into it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            logging.debug(f"{self.top}: no locks on this file system")

    def _wanted(self) -> dict[str, dict[str, str]]:
        """{id: {file: line}} of a former job, complete batches only."""
        try:
            former = read_json(self.top / IDENTITY)
        except UserError:
            return {}
        if former != self.identity:
            changed = [k for k, v in self.identity.items() if former.get(k) != v]
            logging.warning(
                f"{self.top}: other {', '.join(changed)} before; starting anew"
            )
            return {}
        done, failed = self._lines(), _read(self.top / "failed")
        wanted = {}
        for i in range(0, len(self.utterances), self.batch_size):
            batch = [u.utt_id for u in self.utterances[i : i + self.batch_size]]
            if all(utt_id in done and utt_id not in failed for utt_id in batch):
                wanted |= {utt_id: done[utt_id] for utt_id in batch}
        return wanted

    def _lines(self) -> dict[str, dict[str, str]]:
        tables = {name: _read(self.recog / name) for name in self.files}
        every = set.intersection(*(set(table) for table in tables.values()))
        return {u: {name: tables[name][u] for name in self.files} for u in every}

    def _rewrite(self, name: str, lines: Mapping[str, Mapping[str, str]]) -> None:
        content = "".join(lines[utt_id][name] for utt_id in lines).encode()
        path = self.recog / name
        if path.is_file() and path.read_bytes() == content:
            return
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    def _open(self, path: Path) -> TextIO:
        # A reason may name a file whose name is no UTF-8.
        options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        return self._stack.enter_context(open(path, "a", **options))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UserError(
                f"{e.filename or self.top}: cannot write ({e.strerror}); make room and "
                "start again, which goes on from here, or choose another output"
            ) from e


def _read(path: Path) -> dict[str, str]:
    """{id: its last complete line}; a killed job may leave half a line."""
    if not path.is_file():
        return {}
    whole = path.read_bytes().decode(errors="replace").split("\n")[:-1]
    return {line.partition(" ")[0]: f"{line}\n" for line in whole}


def _append(file: TextIO, line: str) -> None:
    file.write(f"{line}\n")
    file.flush()


def one_word(token: str) -> str:
    """Escape white space inside a token, since the file separates by it."""
    return "".join(f"\\x{ord(c):02x}" if c.isspace() else c for c in token)
