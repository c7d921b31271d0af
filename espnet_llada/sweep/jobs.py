"""Decodes the rows of a sweep: each row, set and shard of it is a job that resumes.

``OUTPUT/<row>/<set>/text`` is what ESPnet's stage 12 would leave, with the other files
of shard N in ``logdir/output.N``. A shard deliberates over what the same shard of the
first pass has said, so that shards never wait for one another.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.inference.batches import (
    Outcome,
    Utterance,
    decode_all,
    like_durations,
    with_first_pass,
)
from espnet_llada.inference.decode_dir import DecodeDir, identity_of
from espnet_llada.inference.more_files import more_files, write_more
from espnet_llada.io.files import write_text
from espnet_llada.io.kaldi.table import read_numbers, read_table
from espnet_llada.io.malloc import keep_freed_memory
from espnet_llada.io.process_pool import CONTEXT, ProcessPool
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.sweep.systems import (
    Encoded,
    Place,
    Systems,
    spread_over_gpus,
    threads_of,
)
from espnet_llada.types import UserError


@dataclass(frozen=True)
class Job:
    """One row on one shard of one set; shards count from 1."""

    row: SweepRow
    set: str
    shard: int = 1


def jobs_of(
    place: Place, rows: Sequence[SweepRow], sets: Sequence[str], shard: int | None
) -> list[Job]:
    """All jobs, or those of one shard; first passes above what needs them."""
    shards = range(1, place.shards + 1) if shard is None else [shard]
    every = itertools.product(rows, sets, shards)
    return [Job(row, name, number) for row, name, number in every]


def utterances(place: Place, job: Job) -> list[Utterance]:
    """The shard, with the first pass where the row deliberates."""
    table, n = list(place.recordings(job.set).items()), place.shards
    table = table[len(table) * (job.shard - 1) // n : len(table) * job.shard // n]
    found, first = [Utterance(utt, path) for utt, path in table], job.row.first_pass
    if first is None or not table:
        return found
    folder = place.shard(first, job.set, job.shard)
    decoded = (folder / "1best_recog/text").is_file()  # or the transcripts were given
    path = folder if decoded else place.text(first, job.set)
    return with_first_pass(found, path, job.row.options.wants_nbest)


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
    if not todo:
        return
    options = dataclasses.asdict(row.options)
    settings = {"system": row.system, "options": options, **vars(row.decoding)}
    identity = identity_of(settings, todo, systems.files(row.system))
    folder, size = place.shard(row.key, job.set, job.shard), row.decoding.batch_size
    batches = like_durations(todo, _samples(place.data / job.set), size)
    more = more_files(row.options)
    with DecodeDir(folder, identity, batches, size, more=more) as directory:
        yield len(todo) - len(directory.todo)
        if directory.todo or not target.is_file():
            recognizer = systems.recognizer(row) if directory.todo else None
            target.unlink(missing_ok=True)
            directory.begin()
            for outcome in _timed(recognizer, directory.todo, size):
                directory.write(outcome)
                yield 1
            _report(folder, directory.finish(), len(todo))
            write_more(directory, row.options)


def _samples(data: Path) -> dict[str, int]:
    """The lengths of a set's recordings, where stage 3 has written them."""
    path = data / "utt2num_samples"
    return {u: n[0] for u, n in read_numbers(path).items()} if path.is_file() else {}


def _copy(place: Place, job: Job) -> int:
    """Write the given transcripts, unless they are there; returns how many."""
    texts = place.given(job.set)
    lines = sorted(f"{utt} {text}".rstrip() + "\n" for utt, text in texts.items())
    _write(place.text(job.row.key, job.set), "".join(lines).encode())
    return len(texts) // place.shards


def _write(target: Path, content: bytes) -> None:
    """Write a file unless it is there."""
    if not (target.is_file() and target.read_bytes() == content):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, content.decode())


def _timed(recognizer, todo: Sequence[Utterance], size: int) -> Iterator[Outcome]:
    """Decode; each utterance has its share of the encoder's time."""
    encode = getattr(recognizer, "encode", None)
    encode = getattr(encode, "encode", encode)  # behind ``EncodeOnce``
    remembers, outcomes = (
        isinstance(encode, Encoded),
        decode_all(recognizer, todo, size),
    )
    while True:
        if remembers:
            encode.spared = 0.0
        if not (batch := list(itertools.islice(outcomes, size))):
            return
        spared = encode.spared if remembers else 0.0
        audio = sum(o.audio_seconds for o in batch) or 1.0
        for o in batch:
            seconds = o.decode_seconds + spared * o.audio_seconds / audio
            yield dataclasses.replace(o, decode_seconds=seconds)


def _write_canvases(target: Path, folders: Sequence[Path]) -> None:
    """One line of JSON for each canvas of each utterance, where there are several."""
    files = [folder / "1best_recog/canvases" for folder in folders]
    table = {u: line for f in files if f.is_file() for u, line in read_table(f).items()}
    lines = [
        json.dumps({"id": utt, **canvas}, ensure_ascii=False) + "\n"
        for utt, line in sorted(table.items())
        for canvas in json.loads(line)
    ]
    if lines:
        _write(target, "".join(lines).encode())


def _report(folder: Path, failures: list[str], total: int) -> None:
    if failures and len(failures) == total:
        raise UserError(f"{folder}: all {total} utterances failed: {failures[0]}")
    for line in failures:
        logging.warning(f"{folder}: failed: {line}")


class _Merging:
    """Writes the transcripts of a row and a set when its last shard is done."""

    def __init__(self, place: Place):
        self.place, self._done = place, Counter()

    def add(self, job: Job) -> None:
        key = job.row.key, job.set
        self._done[key] += 1
        if self._done[key] == self.place.shards and job.row.system != "text":
            self._merge(*key)

    def _merge(self, row: str, name: str) -> None:
        target, lines = self.place.text(row, name), []
        numbers = range(1, self.place.shards + 1)
        folders = [self.place.shard(row, name, number) for number in numbers]
        for stale in {*target.parent.glob("logdir/output.*")} - {*folders}:
            shutil.rmtree(stale)  # of another number of shards
        for folder in folders:
            path = folder / "1best_recog/text"
            lines += path.read_bytes().splitlines(True) if path.is_file() else []
        _write(target, b"".join(sorted(lines)))
        _write_canvases(target.parent / "canvases.jsonl", folders)


def decode_jobs(place: Place, jobs: Sequence[Job], nj: int, total: int) -> None:
    """Run all jobs; one that deliberates waits for its first pass.

    Args:
        place: where everything is.
        jobs: first passes above the jobs that need them.
        nj: processes; the cores are shared out evenly, with ``cuda`` the GPUs too.
        total: utterances of all jobs, for the progress bar.

    Raises:
        UserError: the first that a job has raised.
    """
    from tqdm import tqdm

    merging = _Merging(place)
    shown = {"unit": "utt", "delay": 2, "disable": None, "desc": "sweep"}
    # Smoothed, the rate would leave out the time in which no utterance is done.
    with tqdm(total=total, **shown, smoothing=0.0) as bar:
        if nj == 1:
            systems = Systems(place)
            for job in jobs:
                for done in decode(systems, job):
                    bar.update(done)
                merging.add(job)
            return
        counters = CONTEXT.Value("q", 0), CONTEXT.Value("q", 0)
        hint = "start again, which goes on from here, perhaps with a smaller --nj"
        with ProcessPool(nj, _begin, (place, counters, nj), hint) as pool:
            for finished in _all(pool, jobs):
                for job in finished:
                    merging.add(job)
                bar.update(counters[0].value - bar.n)


def _all(pool: ProcessPool, jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Submit each job once its first pass is there; yields twice a second."""
    waiting, finished = list(jobs), set()
    running: dict[Future, Job] = {}
    while waiting or running:
        for job in list(waiting):
            first = job.row.first_pass
            if first is None or (first, job.set, job.shard) in finished:
                running[pool.submit(_decode_here, job)] = job
                waiting.remove(job)
        done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        now = []
        for future in done:
            future.result()
            now.append(running.pop(future))
        finished |= {(job.row.key, job.set, job.shard) for job in now}
        yield now


def _begin(place: Place, counters, nj: int) -> None:
    """Start of a process."""
    import torch

    global _SYSTEMS, _DONE
    _DONE, started = counters
    keep_freed_memory()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    loading = spread_over_gpus(place.loading, number)
    _SYSTEMS = Systems(dataclasses.replace(place, loading=loading))
    torch.set_num_threads(threads_of(nj))


def _decode_here(job: Job) -> None:
    for done in decode(_SYSTEMS, job):
        with _DONE.get_lock():
            _DONE.value += done
