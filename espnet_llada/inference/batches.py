"""Decodes a set in batches; a bad utterance does not stop the others."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from espnet_llada.io.first_pass import TimedText, read_first_pass
from espnet_llada.types import (
    SAMPLE_RATE,
    FirstPasses,
    Hypothesis,
    UserError,
    os_reason,
)

_NAMED = 5  # words that a warning lists
_WINDOW = 64  # batches that are sorted by duration together


@dataclass(frozen=True)
class Utterance:
    """An utterance to decode.

    Attributes:
        utt_id, path: its id and audio file.
        transcript: its first pass, if any.
        first_pass: the same with its times, for formats that have times.
        nbest: the list that it is the best of, for options that want one.
    """

    utt_id: str
    path: str
    transcript: str | None = None
    first_pass: TimedText | None = None
    nbest: FirstPasses = ()


@dataclass(frozen=True)
class Outcome:
    """The result of an utterance.

    Attributes:
        utterance: the input.
        hypothesis: empty text (or the unchanged first pass) after a failure.
        decode_seconds: wall time; that of a batch is shared in proportion to duration.
        audio_seconds: duration; 0 when the audio could not be read.
        error: one line, or None.
    """

    utterance: Utterance
    hypothesis: Hypothesis
    decode_seconds: float = 0.0
    audio_seconds: float = 0.0
    error: str | None = None


def with_first_pass(
    utterances: Sequence[Utterance], path: str | Path, nbest: bool
) -> list[Utterance]:
    """The utterances with their first pass.

    Args:
        utterances: those to deliberate over.
        path: of the first pass; see ``read_first_pass`` and ``read_nbest``.
        nbest: whether n-best lists are wanted; the best is the transcript.

    Raises:
        UserError: a file cannot be read, or an utterance has no transcript.
    """
    ids = [u.utt_id for u in utterances]
    if not nbest:
        texts = read_first_pass(path, ids)
        return [replace(u, transcript=texts[u.utt_id]) for u in utterances]
    from espnet_llada.io.nbest import read_nbest

    pairs = zip(utterances, read_nbest(path, ids).values(), strict=True)
    return [replace(u, transcript=own[0].text, nbest=own) for u, own in pairs]


def like_durations(
    utterances: Sequence[Utterance], samples: Mapping[str, int], batch_size: int
) -> list[Utterance]:
    """The utterances in an order whose batches have little padding.

    Sorted by duration, the longest first, within windows of ``_WINDOW`` batches.

    Args:
        utterances: of a set.
        samples: of each utterance; where one is missing the order stays.
        batch_size: utterances decoded together.
    """
    if batch_size == 1 or not all(u.utt_id in samples for u in utterances):
        return list(utterances)
    size, out = _WINDOW * batch_size, []
    for first in range(0, len(utterances), size):
        window = utterances[first : first + size]
        out += sorted(window, key=lambda u: -samples[u.utt_id])
    return out


def decode_all(
    recognizer, utterances: Iterable[Utterance], batch_size: int
) -> Iterator[Outcome]:
    """Exactly one outcome for each utterance, in order, failures included.

    Args:
        recognizer: a ``Transcriber``.
        utterances: read lazily, one batch ahead of the one that is decoded, so memory
            does not grow with the set.
        batch_size: utterances decoded together.
    """
    utterances, start, waited = iter(utterances), time.perf_counter(), 0.0
    batches = iter(lambda: list(itertools.islice(utterances, batch_size)), [])
    for batch, audio, seconds in _read_ahead(batches):
        waited += seconds
        yield from _decode_batch(recognizer, batch, audio)
    total = time.perf_counter() - start
    share = 100 * waited / max(total, 1e-9)
    logging.info(f"waited for audio {waited:.1f} s of {total:.1f} s ({share:.1f} %)")
    if words := getattr(recognizer, "unwritable", None):
        some = ", ".join(word for word, _ in words.most_common(_NAMED))
        logging.warning(
            f"{words.total()} words of the first pass cannot be written by the LM and "
            f"stay as they are: {some}{', …' if len(words) > _NAMED else ''}"
        )


def _read_ahead(
    batches: Iterator[list[Utterance]],
) -> Iterator[tuple[list[Utterance], list[np.ndarray | Exception], float]]:
    """Each batch, its audio, and the seconds that one had to wait for that.

    The next is read meanwhile, by a thread.
    """
    batch = next(batches, None)
    if batch is None:
        return
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(_read, batch)
        while batch:
            start = time.perf_counter()
            audio = reading.result()
            waited = time.perf_counter() - start
            done, batch = batch, next(batches, None)
            if batch:
                reading = reader.submit(_read, batch)
            yield done, audio, waited


def _read(batch: Sequence[Utterance]) -> list[np.ndarray | Exception]:
    # scipy and soundfile: not for --help
    from espnet_llada.io.audio.reading import load_audio

    audio: list[np.ndarray | Exception] = []
    for utterance in batch:
        try:
            audio.append(load_audio(utterance.path))
        except Exception as e:
            audio.append(e)
    return audio


def _decode_batch(
    recognizer, batch: list[Utterance], audio: Sequence[np.ndarray | Exception]
) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    readable: dict[int, np.ndarray] = {}
    for i, (utterance, found) in enumerate(zip(batch, audio, strict=True)):
        if isinstance(found, Exception):
            outcomes[i] = _failure(utterance, found)
        else:
            readable[i] = found
    for i in range(len(batch)):
        # asr.sh times from this line to "best hypo", and wants as many of each.
        logging.info(f"speech length: {len(readable.get(i, ()))}")
    if readable:
        waveforms = list(readable.values())
        done = _recognise(recognizer, [batch[i] for i in readable], waveforms)
        outcomes.update(zip(readable, done, strict=True))
    return [outcomes[i] for i in range(len(batch))]


def _recognise(
    recognizer, batch: Sequence[Utterance], waveforms: list[np.ndarray]
) -> list[Outcome]:
    try:
        return _timed(recognizer, batch, waveforms)
    except Exception as e:
        _check_device(e)
        if len(batch) == 1:
            return [_failure(batch[0], e)]
    # Decode one by one, so that only the bad one fails. Not inside the handler, which
    # keeps the tensors of the failed pass alive.
    pairs = zip(batch, waveforms, strict=True)
    return [_recognise(recognizer, [u], [w])[0] for u, w in pairs]


def _check_device(error: Exception) -> None:
    """After such an error a GPU fails for every further input."""
    import torch

    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the GPU failed ({reason}); start again, which goes on from here"
        ) from error


def _timed(
    recognizer, batch: Sequence[Utterance], waveforms: list[np.ndarray]
) -> list[Outcome]:
    given, lists = [u.transcript for u in batch], [u.nbest for u in batch]
    more = {"nbest": lists} if all(lists) else {}
    start = time.perf_counter()
    hypotheses = recognizer(
        waveforms,
        [u.utt_id for u in batch],
        None if None in given else given,
        **more,
    )
    elapsed = time.perf_counter() - start
    total = sum(len(w) for w in waveforms)
    return [
        Outcome(u, h, elapsed * len(w) / total, len(w) / SAMPLE_RATE)
        for u, h, w in zip(batch, hypotheses, waveforms, strict=True)
    ]


def _failure(utterance: Utterance, error: Exception) -> Outcome:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError):
        reason = os_reason(error)
    elif not isinstance(error, UserError):
        logging.exception(f"{utterance.utt_id}: decoding failed")
        reason = f"{type(error).__name__}: {reason}"
    return Outcome(utterance, Hypothesis(utterance.transcript or ""), error=reason)
