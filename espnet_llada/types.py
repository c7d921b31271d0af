"""What passes between the modules: results, and the one error users see.

This module sits at the bottom of the import order; it imports the standard library
only, so that ``import espnet_llada`` and every ``--help`` stay instant.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SAMPLE_RATE = 16_000
"""Every waveform inside the package is mono float32 at this rate (Hz)."""

CALIBRATION_FILE = "calibration.yaml"
"""Next to it: what was measured of its word times and confidences."""

DECODE_FILE = "decode.yaml"
"""Next to a model's config.yaml: how it is best decoded, see ``inference.options``."""

ESPNET_TOKENS = ("<blank>", "<unk>", "<sos/eos>")
"""ESPnet's token list in our models. The LM has a tokenizer of its own; its 49k to 126k
tokens would cost a CTC head, and megabytes of YAML that each process parses for 3 s."""

_ALIKE = 0.74  # of names: as a misspelt one and its own

_LINKS = 40  # that a path may lead through, as the kernel has it


_LINE_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class UserError(Exception):
    """Bad input. The message is one line that names the file and the mend."""

    def __init__(self, message: str):
        # Whatever a user's text has, e.g. the name of a file.
        super().__init__(_LINE_ENDS.sub(lambda m: ascii(m[0])[1:-1], message))


def os_reason(error: OSError) -> str:
    """Its file, where there is one, and the system's words, without the number."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name; empty when no known one is near."""
    for near in difflib.get_close_matches(name, list(known), n=3):
        # Others that share some letters in the middle: ctc_weight, joint.weight.
        plain = name.lstrip("-"), near.lstrip("-")
        alike = difflib.SequenceMatcher(None, *plain).ratio() >= _ALIKE
        if alike or plain[0][:3] == plain[1][:3]:
            return f" (did you mean '{near}'?)"
    return ""


def local_path(name: str | os.PathLike) -> Path:
    """The path that a user has written; ``~`` is a home directory if it is one's.

    Raises:
        UserError: a name in it that is longer than any file's.
    """
    path = Path(os.path.expanduser(name))
    if any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise UserError(f"{str(name)[:60]}…: too long for a file's name; check it")
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path whose content becomes that of ``path`` on success.

    A file is replaced whole, the one behind a link where ``path`` is a link. What is
    no regular file (a pipe, a device, an open file of /dev/fd) stays what it is: the
    whole content is written into it. On any exception the temporary file is removed
    and nothing else has changed, so a full disk or an interrupt never leaves half a
    file.

    Raises:
        UserError: ``path`` cannot be written.
    """
    with _temporary(path) as (place, temporary):
        try:
            yield temporary
            if (stream := open_stream(path)) is None:
                _replace(place, temporary)
                return
            with stream, open(temporary, "rb") as f:
                shutil.copyfileobj(f, stream)
        except OSError as e:
            raise UserError(
                f"{path}: writing failed ({e.strerror}); the old file, if any, is "
                "intact: make room and run it again"
            ) from e


def check_writable(path: str | os.PathLike) -> None:
    """Raise before the work what ``atomic_write`` would raise after it."""
    with _temporary(path):
        pass


def check_not_read(path: str | os.PathLike, inputs: Iterable[object]) -> None:
    """Refuse to replace a file by what is made of it.

    Args:
        path: of the result.
        inputs: of the files that are read; what is no file is passed over.

    Raises:
        UserError: one of them is ``path``, by whatever name.
    """
    for file in inputs:
        both = file and os.path.isfile(path) and os.path.isfile(str(file))
        if both and os.path.samefile(path, str(file)):
            raise UserError(f"{path}: is read from, as {file}; name another output")


def check_inside(name: str, what: str) -> None:
    """Refuse a name that leads out of the directory that it shall be a part of.

    Raises:
        UserError: it is no name, an absolute path, or has ``..`` in it.
    """
    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise UserError(f"{what} {name!r}: leads elsewhere; write a name, not a path")


def check_directory(path: str | os.PathLike) -> None:
    """The same for a directory of results, which need not be there yet."""
    place = Path(path).absolute()
    try:
        while not _status(place):
            place = place.parent
        with tempfile.TemporaryDirectory(prefix=".", dir=place):
            pass
    except OSError as e:
        raise _unwritable(path, e) from e


def open_stream(path: str | os.PathLike) -> BinaryIO | None:
    """``path`` to write into as results come; None where it is, or will be, a file.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        place = _behind_links(path)
        if not _is_stream(place):
            return None
        own = place.parent == Path(f"/proc/{os.getpid()}/fd")
        # The open file itself: opened anew it would have another position.
        return open(os.dup(int(place.name)) if own else place, "ab")
    except OSError as e:
        raise _unwritable(path, e) from e


@contextlib.contextmanager
def _temporary(path: str | os.PathLike) -> Iterator[tuple[Path, Path]]:
    """What to replace, and an empty file next to it."""
    try:
        place = _behind_links(path)
        there, stream = _status(place), _is_stream(place)
        if there and stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Of a file a rename would ask its directory alone.
        if (stream or there) and not os.access(place, os.W_OK):
            reason = errno.EACCES if there else errno.ENOENT
            raise OSError(reason, os.strerror(reason))
        # Of a long name a part: the file's own may be as long as names can be.
        handle, name = tempfile.mkstemp(
            prefix=f".{place.name:.40}.", dir=None if stream else place.parent
        )
    except OSError as e:
        raise _unwritable(path, e) from e
    os.close(handle)
    temporary = Path(name)
    try:
        yield place, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _replace(place: Path, temporary: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    there = _status(place)
    # mkstemp makes 0600; a result is for sharing, unless the old one was not.
    temporary.chmod(stat.S_IMODE(there.st_mode) if there else 0o666 & ~umask)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, place)


def _behind_links(path: str | os.PathLike) -> Path:
    """Where ``path`` leads; that of a dangling link is not there yet."""
    place = Path(path).absolute()
    for _ in range(_LINKS):
        place = Path(os.path.realpath(place.parent), place.name)
        # A link there names an open file, which need not have a path.
        if place.parts[:2] == ("/", "proc") or not place.is_symlink():
            return place
        place = place.parent / os.readlink(place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_stream(place: Path) -> bool:
    there = _status(place)
    return place.parts[:2] == ("/", "proc") or bool(
        there and not stat.S_ISREG(there.st_mode) and not stat.S_ISDIR(there.st_mode)
    )


def _unwritable(path: str | os.PathLike, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot write it ({error.strerror}); name a file in a writable "
        "directory"
    )


@dataclass(frozen=True)
class LoadOptions:
    """How a trained model is loaded.

    Attributes:
        device: "cpu", "cuda", ...
        lm, whisper: the frozen weights, instead of where the config says they are.
        quantize_asr_model: linear layers in int8, see ``quantize``; CPUs only. The
            name is ESPnet's.
        trust_model: the config may name parts that could run code, see ``trust``.
    """

    device: str = "cpu"
    lm: str | Path | None = None
    whisper: str | Path | None = None
    quantize_asr_model: bool = False
    trust_model: bool = False


@dataclass(frozen=True)
class SpecialTokens:
    """Ids in the LM's vocabulary that the sampler must know.

    Attributes:
        mask: the id of a masked position. It may lie one past the vocabulary, when
            the mask embedding is a trained parameter of ours.
        eos: end of the response; also fills the canvas behind it.
    """

    mask: int
    eos: int


@dataclass(frozen=True)
class Word:
    """A word of a transcript; see ``inference.words``.

    Attributes:
        text: as in the transcript.
        start, end: when it is spoken (s from the beginning of the recording); None
            where that is not known.
        confidence: in [0, 1]; None where nothing was measured.
        within: (s, s), the segment that was decoded with it; None if unknown.
        evidence: natural log-probabilities by LM, CTC and scorer, of its least
            probable token; from these a calibration makes the confidence.
    """

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None
    within: tuple[float, float] | None = None
    evidence: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScoredText:
    """A text of an n-best list, with its natural log-probability."""

    text: str
    score: float = 0.0


FirstPasses = tuple[ScoredText, ...]
"""The n-best list of an utterance, best first; at least one text."""


@dataclass(frozen=True)
class Hypothesis:
    """One transcript of one utterance.

    Attributes:
        text: as written to Kaldi's ``text``.
        tokens: the LM's token strings, without EOS.
        token_ids: the same as ids.
        score: sum of the natural log-probabilities at which the tokens were
            committed (a token kept from a first pass counts 0).
        passes: LLM forward passes spent on this utterance.
        confidence: for each token its probability when committed, in [0, 1]; 1 for a
            token kept from a first pass. With ``calibrated`` the probability that the
            token is right.
        eos: the LM's id of the end.
        words: of ``text``, with times and confidences; empty without ``word_times``.
        calibrated: whether confidences were calibrated on other speech.
        evidence: for each token, as ``Word.evidence``; empty where several hypotheses'
            words are one text.
        alternatives: other transcripts, best first, without words; empty without
            ``nbest``.
        canvases: what each canvas came out as; empty without ``canvases``.
        risk: with ``canvases`` word errors to expect if each of them may be true.
    """

    text: str
    tokens: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    score: float = 0.0
    passes: int = 0
    confidence: tuple[float, ...] = ()
    eos: int = 0
    words: tuple[Word, ...] = ()
    calibrated: bool = False
    evidence: tuple[tuple[float, ...], ...] = ()
    alternatives: tuple[Hypothesis, ...] = ()
    canvases: tuple[Hypothesis, ...] = ()
    risk: float = 0.0

    @property
    def yseq(self):
        """ESPnet's: ids (N + 2,) between two of the end, as a tensor."""
        import torch

        return torch.tensor([self.eos, *self.token_ids, self.eos])


@dataclass(frozen=True)
class Cell:
    """A position of the canvas.

    Attributes:
        token: the LM's token string; empty while the position is masked.
        committed: the pass just made decided the token.
        given: the token is of the first pass and is never masked.
        probability: of the token at the pass that decided it (that measured it, for a
            first pass), in [0, 1]; None where neither was.
        end: the token is EOS.
    """

    token: str
    committed: bool = False
    given: bool = False
    probability: float | None = None
    end: bool = False


@dataclass(frozen=True)
class Frame:
    """The canvas of one utterance at one moment.

    Attributes:
        kind: what has just happened to it: ``masked``, ``measured`` or ``pass``; or
            ``kept``, the words that are left in the end.
        passes: forward passes so far.
        cells: the positions, left to right.
    """

    kind: str
    passes: int
    cells: tuple[Cell, ...]
