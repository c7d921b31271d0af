"""Decoding the same speech by all systems in turn, measured."""

from __future__ import annotations

import gc
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_llada.bench.fixed import FixedPass, StaticGreedy
from espnet_llada.bench.material import material_of
from espnet_llada.bench.meter import (
    STAGES,
    Meter,
    PeakMemory,
    synchronize,
    weight_bytes,
)
from espnet_llada.bench.random_model import model_bytes
from espnet_llada.bench.release import as_released
from espnet_llada.bench.systems import RandomSystems
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.sweep.jobs import Systems
from espnet_llada.sweep.rows import SweepRow


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
        flops, weights: {stage: FLOPs}, {stage: bytes of weights read} of a batch, means
            over what is decoded in the repetitions.
        warm: batches that have been decoded to be warm and to count that.
        memory: MiB above what was in use, taken by the last warm-up: what is measured
            for time keeps the memory that it has. Of a CUDA graph, the most that any
            has taken: later runs allocate nothing.
        model: MiB of the model's weights; 0 where they cannot be counted.
        failed: why the cell could not be measured; "" where it could.
    """

    cell: Cell
    total: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    passes: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    flops: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    warm: int = 0
    memory: float = 0.0
    model: float = 0.0
    failed: str = ""

    @property
    def name(self) -> str:
        """For messages."""
        cell = self.cell
        return f"{cell.row.label}, {cell.seconds:g} s, batch {cell.batch}"

    def counted(self, flops: Mapping[str, int], weights: Mapping[str, int]) -> None:
        """Take the work of another batch into the means."""
        self.warm += 1
        for mean, found in ((self.flops, flops), (self.weights, weights)):
            for stage, value in found.items():
                before = mean.get(stage, 0.0)
                mean[stage] = before + (value - before) / self.warm

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


Run = Callable[[Record, list[np.ndarray], bool], None]
"""Decodes a batch of speech, to be warm or to be measured, and writes that down."""


def cells_of(
    rows: Sequence[SweepRow], durations: Sequence[float], batches: Sequence[int]
) -> list[Cell]:
    """All combinations; the release decodes one utterance at a time."""
    return [
        Cell(_sized(row, seconds), seconds, batch)
        for seconds in durations
        for row in rows
        for batch in batches
        if batch == 1 or not isinstance(row.options, ReleaseSamplerOptions)
    ]


def _sized(row: SweepRow, seconds: float) -> SweepRow:
    """A causal row with ``tokens_per_second`` makes at most so many tokens.

    Masked diffusion makes its canvas of that option by itself.
    """
    rate, longest = row.options.tokens_per_second, row.options.canvas_length
    if row.system != "llama" or not rate:
        return row
    tokens = max(1, math.floor(rate * seconds + 1e-6))  # 44 for 7.4 s at 6
    options = replace(row.options, canvas_length=min(longest, tokens))
    return replace(row, options=options)


def measure(
    systems: Systems | RandomSystems,
    cells: Sequence[Cell],
    data: Path,
    repeats: int,
    allow_pipes: bool = False,
) -> Iterator[Record]:
    """Measure; yields after each run, the record that has grown.

    Cells of one duration and batch are measured together. Each repetition has speech of
    its own, which all of them decode once, in an order of its own, so that whatever
    else the machine does falls on all systems alike, and no one utterance speaks for
    all. Before that each decodes the same to be warm and to count its work. A cell that
    the machine cannot run, for want of memory or of a compiler, says so in its record
    and is left out from then on.

    Args:
        systems: must not remember encoded audio.
        cells: deliberating rows are not among them.
        data, allow_pipes: see ``material_of``.
        repeats: at least 1.
    """
    order = random.Random(0)
    groups: dict[tuple[float, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.seconds, cell.batch), []).append(cell)
    for size, group in groups.items():
        batches = material_of(data, *size, repeats, allow_pipes)
        pairs = [(Record(cell), _runner(systems, cell)) for cell in group]
        for record, run in pairs:
            for speech in batches:
                if not record.failed:
                    _attempt(record, run, speech, True)
                yield record
        pairs = [pair for pair in pairs if not pair[0].failed]
        for number in range(repeats):
            order.shuffle(pairs)
            for record, run in pairs:
                if not record.failed:
                    _attempt(record, run, batches[number % len(batches)], False)
                yield record


def _attempt(record: Record, run: Run, speech: list[np.ndarray], warm_up: bool) -> None:
    runtime = record.cell.row.bench.runtime
    # torch.compile fails in many ways, a graph's capture in some.
    failures = (
        torch.cuda.OutOfMemoryError if runtime in ("plain", "static") else RuntimeError
    )
    try:
        run(record, speech, warm_up)
    except failures as e:
        lines = str(e).strip().splitlines() or [""]
        record.failed = f"{type(e).__name__}: {lines[0]}"
        logging.warning(f"left out: {record.name}: {record.failed}")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _runner(systems: Systems, cell: Cell) -> Run:
    recognizer = systems.recognizer(cell.row)
    ids = [f"bench-{i}" for i in range(cell.batch)]
    model = getattr(recognizer, "model", None)  # Whisper's own decoder has none
    if model:
        model.requires_grad_(False)  # torch's FLOP counter stumbles over parameters
    plain, fixed = cell.row.bench.runtime == "plain", None
    if not plain:
        way = FixedPass if model.decoder.diffuses else StaticGreedy
        fixed = way(model.decoder, cell.row.bench.runtime)
    more = [] if plain else [("LLM", fixed, "run")]
    counts = plain and not cell.row.bench.weights  # neither a graph's work nor int8's

    def run(record: Record, speech: list[np.ndarray], warm_up: bool) -> None:
        with ExitStack() as stack:
            if isinstance(cell.row.options, ReleaseSamplerOptions):
                stack.enter_context(as_released(model))
            if fixed:
                stack.enter_context(fixed.installed(recognizer))
            meter = None
            if model:
                meter = Meter(model, warm_up and counts, more)
                stack.enter_context(meter)
            memory = PeakMemory() if warm_up else None
            if memory:
                stack.enter_context(memory)
            synchronize()
            start = time.perf_counter()
            hypotheses = recognizer(speech, ids)
            synchronize()
            seconds = time.perf_counter() - start
        if warm_up:
            before = 0.0 if plain else record.memory
            record.memory = max(before, memory.mebibytes)
            if model and not cell.row.decoding.quantize_asr_model:
                record.model = model_bytes(model) / 2**20
            if meter:
                sizes = weight_bytes(model)
                read = {s: sizes[s] * meter.calls[s] for s in STAGES}
                record.counted(meter.flops, read)
            return
        record.total.append(seconds)
        record.passes.append(sum(h.passes for h in hypotheses) / len(hypotheses))
        words = sum(len(h.token_ids) for h in hypotheses)
        record.tokens.append(words / len(hypotheses))
        for stage, value in (meter.seconds if meter else {}).items():
            record.stages.setdefault(stage, []).append(value)

    return run
