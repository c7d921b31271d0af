"""Decodes the rows of a sweep: each pair of row and set is a job that resumes.

``OUTPUT/<row>/<set>/text`` is what ESPnet's stage 12 would leave, with the job's other
files in ``logdir/output.1``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_llada.inference.batches import Outcome, Utterance, decode_all
from espnet_llada.inference.decode_dir import DecodeDir, identity_of
from espnet_llada.io.files import write_text
from espnet_llada.io.first_pass import read_first_pass
from espnet_llada.io.kaldi.table import read_recordings
from espnet_llada.io.malloc import keep_freed_memory
from espnet_llada.io.process_pool import CONTEXT, ProcessPool
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.types import LoadOptions, UserError, atomic_write

if TYPE_CHECKING:
    from espnet_llada.core.recognizer import Stages

_REMEMBERED = 1 << 29  # bytes of encoded audio that a process keeps


@dataclass(frozen=True)
class Place:
    """Where everything is; see the options of ``sweep``."""

    model: str
    data: Path
    output: Path
    loading: LoadOptions
    allow_pipes: bool = False
    first_pass: Path | None = None

    def recordings(self, name: str) -> dict[str, str]:
        """The audio of a set."""
        return read_recordings(self.data / name / "wav.scp", self.allow_pipes)

    def text(self, row: str, name: str) -> Path:
        """The transcripts of a row and a set; written when the job is done."""
        return self.output / row / name / "text"

    def given(self, name: str) -> dict[str, str]:
        """The transcripts of a set for rows of ``system: text``, in its order.

        Raises:
            UserError: there is no such file, or an utterance has no line in it.
        """
        path, audio = Path(self.first_pass or ""), self.recordings(name)
        texts = read_first_pass(path / name / "text" if path.is_dir() else path, audio)
        return {utt: texts[utt] for utt in audio}


@dataclass(frozen=True)
class Job:
    """One row on one set."""

    row: SweepRow
    set: str


class Systems:
    """The models of a process, each loaded when it is first needed.

    Args:
        place: see there.
        remember: keep the encoded audio, which is the same for every row.
    """

    def __init__(self, place: Place, remember: bool = True):
        self.place, self.remember = place, remember
        self._models: dict[tuple[str, bool], tuple[Any, Stages]] = {}

    def recognizer(self, row: SweepRow):
        """What decodes a row."""
        if row.system == "whisper":
            return self._whisper
        from espnet_llada.inference.recognizer import Transcriber

        model, stages = self._model(row.system, row.decoding.quantize_asr_model)
        given = row.decoding.use_audio, row.decoding.output_case
        return Transcriber(model, row.options, *given, stages)

    def files(self, system: str) -> dict[str, Path]:
        """What decides a row's transcripts besides its options."""
        from espnet_llada.inference.loading import find_model

        if system == "text":
            return {}
        if system == "whisper":
            return {"whisper_file": self._whisper_file}
        names = ("asr_train_config", "asr_model_file")
        return dict(zip(names, find_model(self.place.model, system), strict=True))

    def check(self, system: str) -> None:
        """Refuse a model that is not there, or that is of another system.

        Raises:
            UserError: names it.
        """
        from espnet_llada.inference.loading import read_train_config

        config = self.files(system).get("asr_train_config")
        kind = system if config is None else read_train_config(config)["decoder"]
        if kind != system:
            raise UserError(
                f"{config}: a {kind} where rows need a {system}; name a --model that "
                f"has a {system} too, or leave them out by --rows"
            )

    @functools.cached_property
    def _whisper_file(self) -> Path:
        from espnet_llada.inference.loading import find_model, read_train_config
        from espnet_llada.io import weights

        config = read_train_config(find_model(self.place.model, "llama")[0])
        conf = config.get("encoder_conf") or {}
        name = self.place.loading.whisper or conf.get("whisper", "whisper-tiny.en")
        return weights.resolve(name, "whisper").path

    @functools.cached_property
    def _whisper(self):
        from espnet_llada.baseline.whisper_decoder import WhisperDecoder

        return WhisperDecoder(self._whisper_file, self.place.loading.device)

    def _model(self, system: str, quantize: bool) -> tuple[Any, Stages]:
        if (system, quantize) in self._models:
            return self._models[system, quantize]
        from espnet_llada.core.recognizer import Stages
        from espnet_llada.inference.loading import find_model, load_model

        files = find_model(self.place.model, system)
        options = dataclasses.replace(self.place.loading, quantize_asr_model=quantize)
        model = load_model(*files, options)
        encode = Encoded(model.encode) if self.remember else model.encode
        self._models[system, quantize] = model, Stages(encode)
        return self._models[system, quantize]


class Encoded:
    """Remembers the encoded audio of each batch, which is the same for every row.

    Attributes:
        spared: seconds that remembering has saved since it was last set to 0. They
            are added to a row's time, so that its RTF is that of the whole system.
    """

    def __init__(self, encode):
        self._encode, self._memory, self._bytes = encode, {}, 0
        self.spared = 0.0

    def __call__(self, speech, lengths):
        """As the model's own ``encode``."""
        digest = hashlib.blake2b(speech.cpu().numpy().tobytes())
        key = digest.digest(), tuple(lengths.tolist())
        if key in self._memory:
            *result, seconds = self._memory[key]
            self.spared += seconds
            return tuple(result)
        start = time.perf_counter()
        audio, sizes = self._encode(speech, lengths)
        seconds = time.perf_counter() - start
        self._bytes += audio.numel() * audio.element_size()
        if self._bytes < _REMEMBERED:
            self._memory[key] = audio, sizes, seconds
        return audio, sizes


def utterances(place: Place, job: Job) -> list[Utterance]:
    """The set, with the first pass where the row deliberates."""
    table = place.recordings(job.set)
    if job.row.first_pass is None:
        return [Utterance(utt, path) for utt, path in table.items()]
    texts = read_first_pass(place.text(job.row.first_pass, job.set), table)
    return [Utterance(utt, path, texts[utt]) for utt, path in table.items()]


def decode(systems: Systems, job: Job) -> Iterator[int]:
    """Run a job; yields the utterances done with each step, those of before first.

    Raises:
        UserError: the model does not fit, or no utterance could be decoded.
    """
    place, row = systems.place, job.row
    if row.system == "text":
        yield _copy(place, job)
        return
    target, todo = place.text(row.key, job.set), utterances(place, job)
    options = dataclasses.asdict(row.options)
    settings = {"system": row.system, "options": options, **vars(row.decoding)}
    identity = identity_of(settings, todo, systems.files(row.system))
    folder, size = target.parent / "logdir/output.1", row.decoding.batch_size
    with DecodeDir(folder, identity, todo, size) as directory:
        yield len(todo) - len(directory.todo)
        if directory.todo or not target.is_file():
            recognizer = systems.recognizer(row) if directory.todo else None
            target.unlink(missing_ok=True)
            directory.begin()
            for outcome in _timed(recognizer, directory.todo, size):
                directory.write(outcome)
                yield 1
            _report(target.parent, directory.finish(), len(todo))
            with atomic_write(target) as temporary:
                lines = (folder / "1best_recog/text").read_bytes()
                temporary.write_bytes(b"".join(sorted(lines.splitlines(True))))


def _copy(place: Place, job: Job) -> int:
    """Write the given transcripts, unless they are there; returns how many."""
    target, texts = place.text(job.row.key, job.set), place.given(job.set)
    content = "".join(
        sorted(f"{utt} {text}".rstrip() + "\n" for utt, text in texts.items())
    )
    if not (target.is_file() and target.read_bytes() == content.encode()):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, content)
    return len(texts)


def _timed(recognizer, todo: Sequence[Utterance], size: int) -> Iterator[Outcome]:
    """Decode; each utterance has its share of the encoder's time."""
    encode = getattr(recognizer, "encode", None)
    remembers = isinstance(encode, Encoded)
    for first in range(0, len(todo), size):
        if remembers:
            encode.spared = 0.0
        outcomes = list(decode_all(recognizer, todo[first : first + size], size))
        spared = encode.spared if remembers else 0.0
        audio = sum(o.audio_seconds for o in outcomes) or 1.0
        for o in outcomes:
            seconds = o.decode_seconds + spared * o.audio_seconds / audio
            yield dataclasses.replace(o, decode_seconds=seconds)


def _report(folder: Path, failures: list[str], total: int) -> None:
    if failures and len(failures) == total:
        raise UserError(f"{folder}: all {total} utterances failed: {failures[0]}")
    for line in failures:
        logging.warning(f"{folder}: failed: {line}")


def decode_jobs(place: Place, jobs: Sequence[Job], nj: int, total: int) -> None:
    """Run all jobs; one that deliberates waits for its first pass.

    Args:
        place: where everything is.
        jobs: first passes above the jobs that need them.
        nj: processes; the cores are shared out evenly.
        total: utterances of all jobs, for the progress bar.

    Raises:
        UserError: the first that a job has raised.
    """
    from tqdm import tqdm

    with tqdm(total=total, unit="utt", delay=2, disable=None, desc="sweep") as bar:
        if nj == 1:
            systems = Systems(place)
            for job in jobs:
                for done in decode(systems, job):
                    bar.update(done)
            return
        done = CONTEXT.Value("q", 0)
        hint = "start again, which goes on from here, perhaps with a smaller --nj"
        with ProcessPool(nj, _begin, (place, done, nj), hint) as pool:
            for _ in _all(pool, jobs):
                bar.update(done.value - bar.n)


def _all(pool: ProcessPool, jobs: Sequence[Job]) -> Iterator[None]:
    """Submit each job once its first pass is there; yields twice a second."""
    waiting, running, finished = list(jobs), {}, set()
    while waiting or running:
        for job in list(waiting):
            first = job.row.first_pass
            if first is None or (first, job.set) in finished:
                future: Future = pool.submit(_decode_here, job)
                running[future] = (job.row.key, job.set)
                waiting.remove(job)
        done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            finished.add(running.pop(future))
        yield


def _begin(place: Place, done, nj: int) -> None:
    """Start of a process."""
    import torch

    global _SYSTEMS, _DONE
    keep_freed_memory()
    _SYSTEMS, _DONE = Systems(place), done
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // nj))


def _decode_here(job: Job) -> None:
    for done in decode(_SYSTEMS, job):
        with _DONE.get_lock():
            _DONE.value += done
