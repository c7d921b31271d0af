"""Where ``transcribe`` and ``deliberate`` write their lines; see ``bin.formats``.

A pipe, a device or stdout gets each line when it is decoded. A file is replaced at the
end; until then ``FILE.partial`` holds what there is, so that the same command goes on
from there after whatever ended it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from espnet_llada.bin.formats import SUBTITLES, json_line, rendered
from espnet_llada.bin.process import say
from espnet_llada.inference.batches import Outcome, Utterance
from espnet_llada.inference.decode_dir import DecodeDir, identity_of
from espnet_llada.io.files import write_text
from espnet_llada.types import UserError, os_reason

Decode = Callable[[Sequence[Utterance]], Iterator[Outcome]]


def write_lines(outcomes: Iterable[Outcome], lines: TextIO, form: str = "text") -> int:
    """Write each line at once; returns how many utterances failed."""
    failed = 0
    for outcome in outcomes:
        if outcome.error:  # a line without a text would mean silence
            failed += 1
            say(f"error: {outcome.error}")
            continue
        if form == "text":
            line = f"{outcome.utterance.utt_id} {outcome.hypothesis.text}".rstrip()
            lines.write(f"{line}\n")
        else:
            lines.write(rendered(json_line(outcome), form))
        lines.flush()
    return failed


def write_stream(
    outcomes: Iterable[Outcome], path: str, stream: BinaryIO, form: str = "text"
) -> int:
    """``write_lines`` into a stream of ``open_stream``."""
    try:
        with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as lines:
            return write_lines(outcomes, lines, form)
    except OSError as e:
        raise UserError(f"{path}: writing failed ({os_reason(e)})") from e


def write_file(
    path: str,
    utterances: Sequence[Utterance],
    batch_size: int,
    identity: Mapping[str, Any],
    decode: Decode,
    form: str = "text",
) -> int:
    """Decode what is missing in ``path + '.partial'``, then write ``path``.

    Args:
        path: a file, unchanged if every utterance fails; of subtitles it may be a
            directory, which gets a file for each utterance.
        utterances: in the order of the lines.
        batch_size: utterances decoded together.
        identity: from ``line_identity``.
        decode: loads the model, then yields the outcome of each utterance.
        form: one of ``bin.formats.FORMATS``.

    Returns:
        How many utterances failed.

    Raises:
        UserError: no room, or the directory cannot be written.
    """
    place, more = Path(f"{Path(path)}.partial"), {}
    if form != "text":
        more = {"json": json_line}
    job = identity, utterances, batch_size
    with DecodeDir(place, *job, more=more) as directory:
        if there := len(utterances) - len(directory.todo):
            say(f"{place}: has {there} of {len(utterances)}; going on from there")
        outcomes = decode(directory.todo)
        directory.begin()
        try:
            for outcome in outcomes:
                if outcome.error:
                    say(f"error: {outcome.error}")
                directory.write(outcome)
        except KeyboardInterrupt:
            say(f"{place}: keeps what was decoded; the same command goes on from there")
            raise
        failed = {line.partition(" ")[0] for line in directory.finish()}
        if len(failed) < len(utterances):
            name = "text" if form == "text" else "json"
            _write(Path(path), directory.lines(name, without=failed), form)
        directory.remove()
    return len(failed)


def _write(path: Path, lines: Sequence[str], form: str) -> None:
    """Write ``id value`` lines of a ``DecodeDir``."""
    if form == "text":
        write_text(path, "".join(f"{line}\n" for line in lines))
        return
    each = [line.partition(" ")[::2] for line in lines]
    if form in SUBTITLES and path.is_dir():
        for utt_id, value in each:
            write_text(path / f"{utt_id}.{form}", rendered(value, form))
        return
    write_text(path, "".join(rendered(value, form) for _, value in each))


def line_identity(
    options: Mapping[str, Any],
    utterances: Sequence[Utterance],
    files: tuple[Path, Path],
) -> dict[str, Any]:
    """As ``identity_of``, with the content of the audio files.

    Args:
        options: values that change a line.
        utterances: ids, paths and first passes.
        files: config and checkpoint.
    """
    audio = hashlib.sha256()
    for utterance in utterances:
        there = os.path.exists(utterance.path) and os.stat(utterance.path)
        audio.update(repr(there and (there.st_size, there.st_mtime_ns)).encode())
        audio.update(repr(utterance.first_pass).encode("utf-8", "surrogatepass"))
    names = "asr_train_config", "asr_model_file"
    identity = identity_of(options, utterances, dict(zip(names, files, strict=True)))
    return {**identity, "audio": audio.hexdigest()}
