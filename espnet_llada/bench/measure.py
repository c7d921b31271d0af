"""Decoding the same speech by all systems in turn, measured."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from espnet_llada.bench.material import speech_of
from espnet_llada.bench.meter import (
    STAGES,
    Meter,
    PeakMemory,
    synchronize,
    weight_bytes,
)
from espnet_llada.bench.release import as_released
from espnet_llada.bin.sweep_jobs import Systems
from espnet_llada.bin.sweep_rows import SweepRow


@dataclass(frozen=True)
class Cell:
    """One system on utterances of one duration, so many at once."""

    row: SweepRow
    seconds: float
    batch: int


@dataclass
class Record:
    """What one cell has cost; lists have an entry for each repetition.

    Attributes:
        total: seconds of the whole batch, waveform to text.
        stages: {stage: seconds}, empty for a system that is not ours.
        passes, tokens: means over the batch's utterances.
        flops, weights: {stage: FLOPs}, {stage: bytes of weights read} of the batch.
        memory: MiB, the most that a repetition has taken.
    """

    cell: Cell
    total: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    passes: float = 0.0
    tokens: float = 0.0
    flops: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    memory: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row = self.cell.row
        content = {name: value for name, value in vars(self).items() if name != "cell"}
        return {
            "system": row.key,
            "label": row.label,
            "seconds": self.cell.seconds,
            "batch": self.cell.batch,
            **content,
        }


def cells_of(
    rows: Sequence[SweepRow], durations: Sequence[float], batches: Sequence[int]
) -> list[Cell]:
    """All combinations; the release decodes one utterance at a time."""
    return [
        Cell(row, seconds, batch)
        for seconds in durations
        for row in rows
        for batch in batches
        if batch == 1 or row.options.profile != "release"
    ]


def measure(
    systems: Systems, cells: Sequence[Cell], wav_scp: Path, repeats: int
) -> Iterator[Record]:
    """Measure; yields after each run, the record that has grown.

    Each repetition decodes every cell once, in an order of its own, so that whatever
    else the machine does falls on all systems alike. Before that each cell runs once
    to be warm and to count its work.

    Args:
        systems: must not remember encoded audio.
        cells: deliberating rows are not among them.
        wav_scp: recordings, see ``speech_of``.
        repeats: at least 1.
    """
    speech: dict[tuple[float, int], list[np.ndarray]] = {}
    for cell in cells:
        key = cell.seconds, cell.batch
        if key not in speech:
            speech[key] = speech_of(wav_scp, *key)
    records = [Record(cell) for cell in cells]
    runs = [_runner(systems, cell, speech[cell.seconds, cell.batch]) for cell in cells]
    for record, run in zip(records, runs, strict=True):
        run(record, True)
        yield record
    order = random.Random(0)
    pairs = list(zip(records, runs, strict=True))
    for _ in range(repeats):
        order.shuffle(pairs)
        for record, run in pairs:
            run(record, False)
            yield record


def _runner(
    systems: Systems, cell: Cell, speech: list[np.ndarray]
) -> Callable[[Record, bool], None]:
    recognizer = systems.recognizer(cell.row)
    ids = [f"bench-{i}" for i in range(len(speech))]
    model = getattr(recognizer, "model", None)  # Whisper's own decoder has none
    if model:
        model.requires_grad_(False)  # torch's FLOP counter stumbles over parameters

    def run(record: Record, warm_up: bool) -> None:
        with ExitStack() as stack:
            if cell.row.options.profile == "release":
                stack.enter_context(as_released(model))
            meter = None
            if model:
                meter = stack.enter_context(Meter(model, count_flops=warm_up))
            memory = stack.enter_context(PeakMemory())
            synchronize()
            start = time.perf_counter()
            hypotheses = recognizer(speech, ids)
            synchronize()
            seconds = time.perf_counter() - start
        record.passes = sum(h.passes for h in hypotheses) / len(hypotheses)
        record.tokens = sum(len(h.token_ids) for h in hypotheses) / len(hypotheses)
        if warm_up:
            if meter:
                sizes = weight_bytes(model)
                record.flops = meter.flops
                record.weights = {s: sizes[s] * meter.calls[s] for s in STAGES}
            return
        record.total.append(seconds)
        record.memory = max(record.memory, memory.mebibytes)
        for stage, value in (meter.seconds if meter else {}).items():
            record.stages.setdefault(stage, []).append(value)

    return run
