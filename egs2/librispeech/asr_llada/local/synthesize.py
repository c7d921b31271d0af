#!/usr/bin/env python3
"""Make hours of synthetic training speech, from packages of the public registries.

    local/synthesize.py --engine hibari --hours 10 --output synth/hibari
    cat synth/*/wav.scp | sort > data/train/wav.scp   # text and utt2spk alike

Engines, voices, texts and their terms: local/SYNTHESIS.md. The output is a Kaldi data
directory that grows while this runs; stopped in any way, the same command goes on
where it was. An utterance is the same wherever and whenever it is made, on the same
library versions: everything about it follows from engine, seed, sources and its number.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from synthesis.acoustics import RATE, record, resample, trim
from synthesis.engines import ENGINES, Engine
from synthesis.texts import SHARES, Excluded, draw, sources, transcript
from tqdm import tqdm

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.io.process_pool import ProcessPool
from espnet_llada.types import UserError, atomic_write

SHARD = 100
"""Utterances made, and made visible, together."""

SPEEDS = (0.85, 1.2)
SECONDS = (0.5, 15.0)
PACE = (0.025, 0.25)
"""Seconds per character outside of which an engine has stumbled."""

TABLES = ("wav.scp", "text", "utt2spk", "meta.tsv")


class Utterance(NamedTuple):
    """All that decides one utterance.

    Attributes:
        text: as the engine reads it.
        seed: of the engine's noise and of the simulated recording.
    """

    name: str
    engine: str
    voice: str
    source: str
    text: str
    speed: float
    seed: int

    @property
    def speaker(self) -> str:
        """The voice, under a name that no other engine has."""
        return self.name.rpartition("-")[0]


def plan(engine: str, number: int, seed: int, pool: dict) -> Utterance:
    """The utterance with this number."""
    key = [seed, zlib.crc32(engine.encode()), number]
    rng = np.random.default_rng(key)
    voices = ENGINES[engine].voices()
    voice = voices[rng.integers(len(voices))]
    source, text = draw(pool, rng)
    # Sets of some sources can stand beside one of all sources.
    some = "" if len(pool) == len(SHARES) else source
    name = f"{engine}-{voice}-{some}{number:06d}"
    speed = round(float(rng.uniform(*SPEEDS)), 3)
    return Utterance(
        name, engine, voice, source, text, speed, int(rng.integers(1 << 31))
    )


def make_shard(folder: Path, utterances: list[Utterance], engine: Engine) -> None:
    """Synthesize ``utterances`` into ``folder``, which appears when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tables: dict[str, list[str]] = {name: [] for name in TABLES}
    others: list[np.ndarray] = []
    for item in utterances:
        sound = engine.speak(item.text, item.voice, item.speed, item.seed)
        clean = trim(resample(*sound))
        seconds = len(clean) / RATE
        pace = seconds / len(item.text)
        if not (SECONDS[0] < seconds < SECONDS[1] and PACE[0] < pace < PACE[1]):
            continue
        sound = record(clean, others, np.random.default_rng(item.seed))
        others = [*others, clean][-8:]
        file = f"{item.name}.flac"  # Opus would take longer than the synthesis
        soundfile.write(partial / file, sound, RATE, subtype="PCM_16")
        row = (item.name, item.engine, item.voice, item.source, str(item.speed))
        tables["wav.scp"].append(f"{item.name} {folder / file}")
        tables["text"].append(f"{item.name} {transcript(item.text)}")
        tables["utt2spk"].append(f"{item.name} {item.speaker}")
        tables["meta.tsv"].append("\t".join([*row, f"{len(sound) / RATE:.2f}"]))
    for name, lines in tables.items():
        content = "".join(line + "\n" for line in sorted(lines))
        (partial / name).write_text(content, encoding="utf-8")
    partial.replace(folder)


def seconds_in(folder: Path) -> float:
    """Speech in a finished shard."""
    lines = (folder / "meta.tsv").read_text(encoding="utf-8").splitlines()
    return sum(float(line.rpartition("\t")[2]) for line in lines)


def merge(output: Path, folders: list[Path]) -> None:
    """The tables of finished shards, as one; readers never see half a line."""
    for name in TABLES:
        lines = [x for f in folders for x in (f / name).read_text().splitlines()]
        with atomic_write(output / name) as path:
            path.write_text("".join(line + "\n" for line in sorted(lines)))


@functools.lru_cache(maxsize=1)
def _loaded(engine: str) -> Engine:
    return ENGINES[engine]()


def _work(job: tuple[Path, list[Utterance]]) -> Path:
    """What a worker process does with a shard."""
    folder, utterances = job
    if not folder.is_dir():
        make_shard(folder, utterances, _loaded(utterances[0].engine))
    return folder


@contextmanager
def reserved(output: Path, settings: dict) -> Iterator[None]:
    """One process at a time, and always with the settings the folder began with.

    Raises:
        UserError: the folder is in use, or was begun with others.
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UserError(
                f"{output}: another process writes here; wait for it"
            ) from e
        for name in TABLES:  # temporary files of a killed process
            for left in output.glob(f".{name}.*"):
                left.unlink()
        path = output / "settings.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise UserError(
                f"{output}: begun with other settings; see {path.name} there"
            )
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
        yield


def synthesize(args: argparse.Namespace) -> None:
    """Shards in their order, until they hold ``--hours``."""
    output = args.output.resolve()
    excluded = (read_table(path).values() for path in args.exclude)
    pool = sources(Excluded(text for texts in excluded for text in texts))
    pool = {name: pool[name] for name in pool if name in args.sources}
    beginning = [plan(args.engine, n, args.seed, pool) for n in range(SHARD)]
    digest = zlib.crc32(repr(beginning).encode())  # of voices, texts and exclusions too
    with reserved(output, {"engine": args.engine, "seed": args.seed, "plan": digest}):
        run_shards(output, args, pool)


def run_shards(output: Path, args: argparse.Namespace, pool: dict) -> None:
    """See `synthesize`."""

    def jobs() -> Iterator[tuple[Path, list[Utterance]]]:
        for shard in range(100_000):
            numbers = range(shard * SHARD, (shard + 1) * SHARD)
            items = [plan(args.engine, n, args.seed, pool) for n in numbers]
            yield output / "shards" / f"{shard:05d}", items

    done: list[Path] = []
    hours = 0.0
    bar = tqdm(total=args.hours, unit="h", desc=args.engine, disable=None)
    bar.bar_format = "{desc}: {n:.2f}/{total:.2f} h [{elapsed}<{remaining}]"
    with bar, _mapping(args.nj) as mapping:
        for folder in mapping(_work, jobs()):
            done.append(folder)
            hours += seconds_in(folder) / 3600
            merge(output, done)
            bar.update(hours - bar.n)
            if hours >= args.hours:
                break


@contextmanager
def _mapping(workers: int):
    """``map``, or a bounded, ordered equivalent over processes."""
    if workers == 1:
        yield map
        return
    with ProcessPool(workers) as pool:
        yield functools.partial(_windowed, pool, 2 * workers)


def _windowed(pool, size: int, function, jobs) -> Iterator:
    """Like ``pool.map``, which would plan all jobs at once."""
    waiting = []
    for job in jobs:
        waiting.append(pool.submit(function, job))
        if len(waiting) == size:
            yield waiting.pop(0).result()


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OptionParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--hours", type=float, required=True, help="of speech, in all")
    parser.add_argument("--output", type=Path, required=True, help="data directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sources",
        nargs="+",
        choices=list(SHARES),
        default=list(SHARES),
        help="of the texts, in the shares that they have among all",
    )
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="*",
        default=[],
        help="Kaldi text files of test sets: none of it is spoken",
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Command line; see the module's text."""
    args = get_parser().parse_args(cmd)
    if args.hours <= 0 or args.nj < 1:
        raise UserError("--hours must be above 0 and --nj at least 1")
    for path in args.exclude:
        if not path.is_file():
            raise UserError(f"{path}: no such file; --exclude takes Kaldi text files")
    os.environ["OMP_NUM_THREADS"] = "1"
    synthesize(args)


if __name__ == "__main__":
    run_main(main)
