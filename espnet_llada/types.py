"""What passes between the modules: results, and the one error users see.

This module sits at the bottom of the import order; it imports the standard library
only, so that ``import espnet_llada`` and every ``--help`` stay instant.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 16_000
"""Every waveform inside the package is mono float32 at this rate (Hz)."""

ESPNET_TOKENS = ("<blank>", "<unk>", "<sos/eos>")
"""ESPnet's token list in our models. The LM has a tokenizer of its own; its 49k to 126k
tokens would cost a CTC head, and megabytes of YAML that each process parses for 3 s."""


class UserError(Exception):
    """Bad input. The message is one line that names the file and the mend."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # whatever a user's text has


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name; empty when no known one is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


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
    """Yield a temporary path beside ``path`` that replaces it on success.

    On any exception the temporary file is removed and ``path`` keeps its old
    content, so a full disk or an interrupt never leaves half a file.

    Raises:
        UserError: when the directory cannot be written.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as e:
        raise UserError(
            f"{target}: cannot write here ({e.strerror}); choose a writable directory"
        ) from e
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes 0600; a result is for sharing
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except OSError as e:
        raise UserError(
            f"{target}: writing failed ({e.strerror}); the old file, if any, is intact"
        ) from e
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class LoadOptions:
    """How a trained model is loaded.

    Attributes:
        device: "cpu", "cuda", ...
        lm, whisper: the frozen weights, instead of where the config says they are.
        quantize_asr_model: linear layers in int8, see ``quantize``; CPUs only. The
            name is ESPnet's.
    """

    device: str = "cpu"
    lm: str | Path | None = None
    whisper: str | Path | None = None
    quantize_asr_model: bool = False


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
            token kept from a first pass.
    """

    text: str
    tokens: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    score: float = 0.0
    passes: int = 0
    confidence: tuple[float, ...] = ()


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
