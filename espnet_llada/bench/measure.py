"""Decoding the same speech by all systems in turn, measured."""

from __future__ import annotations

import gc
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
from torch import nn

from espnet_llada.bench.fixed import fixed
from espnet_llada.bench.material import Piece, is_noise, material_of, repeats_of
from espnet_llada.bench.meter import (
    STAGES,
    Meter,
    PeakMemory,
    failure,
    model_bytes,
    timed,
    weight_bytes,
)
from espnet_llada.bench.systems import RandomSystems
from espnet_llada.bench.tables import is_peer
from espnet_llada.bench.ways import Way, plain, released
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.sweep.systems import Systems
from espnet_llada.types import Hypothesis

_COUNTED = 8
"""Batches whose FLOPs are counted, which takes longer than to decode them."""


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
        cpu: seconds that all threads of the process have worked meanwhile.
        texts: {piece: (what is said, what was written)}, where the first is known.
        stages: {stage: seconds}, empty for a system that is not ours.
        passes, tokens: means over the batch's utterances.
        flops, weights: {stage: FLOPs}, {stage: bytes of weights read}, of a batch; an
            entry for each that was decoded to be warm.
        memory: MiB above what was in use, taken by the last warm-up: what is measured
            for time keeps the memory that it has. Of a CUDA graph, the most that any
            has taken: later runs allocate nothing.
        model: MiB of the model's weights; 0 where they cannot be counted.
        failed: why the cell could not be measured; "" where it could.
    """

    cell: Cell
    total: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    passes: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    flops: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    memory: float = 0.0
    model: float = 0.0
    failed: str = ""

    @property
    def name(self) -> str:
        """For messages."""
        cell = self.cell
        return f"{cell.row.label}, {cell.seconds:g} s, batch {cell.batch}"

    def warmed(self, way: Way | None, meter: Meter | None, memory: float) -> None:
        """A batch was decoded to be warm."""
        row = self.cell.row
        before = 0.0 if row.bench.runtime == "plain" else self.memory
        self.memory = max(before, memory)
        if way is None:
            return
        if not row.decoding.quantize_asr_model:
            self.model = model_bytes(way.model) / 2**20
        sizes = weight_bytes(way.model)
        _append(self.flops, meter.flops)
        _append(self.weights, {s: sizes[s] * meter.calls[s] for s in STAGES})

    def ran(
        self,
        seconds: tuple[float, float],
        meter: Meter | None,
        batch: Sequence[Piece],
        hypotheses: Sequence[Hypothesis],
    ) -> None:
        """A batch was decoded in so many seconds of wall clock and of CPU."""
        for times, value in zip((self.total, self.cpu), seconds, strict=True):
            times.append(value)
        for piece, hypothesis in zip(batch, hypotheses, strict=True):
            if piece.text:
                self.texts[piece.name] = piece.text, hypothesis.text
        self.passes.append(float(np.mean([h.passes for h in hypotheses])))
        self.tokens.append(float(np.mean([len(h.token_ids) for h in hypotheses])))
        _append(self.stages, meter.seconds if meter else {})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        cell, content = self.cell, {**vars(self)}
        del content["cell"]
        name = {"system": cell.row.key, "label": cell.row.label}
        return {**name, "seconds": cell.seconds, "batch": cell.batch, **content}


def _append(lists: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(value)


Run = Callable[[Record, list[Piece], bool], None]
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
        if batch == 1 or not isinstance(row.options.sampler, ReleaseSamplerOptions)
    ]


def _sized(row: SweepRow, seconds: float) -> SweepRow:
    """A causal row with ``tokens_per_second`` makes at most so many tokens.

    Masked diffusion makes its canvas of that option by itself.
    """
    size = row.options.extensions.get("canvas_size")
    if row.system != "llama" or size is None or not size.tokens_per_second:
        return row
    tokens = math.floor(size.tokens_per_second * seconds + 1e-6)  # 44 for 7.4 s at 6
    sampler = row.options.sampler
    length = min(sampler.canvas_length, max(1, tokens))
    sampler = replace(sampler, canvas_length=length)
    return replace(row, options=replace(row.options, sampler=sampler))


def measure(
    systems: Systems | RandomSystems,
    cells: Sequence[Cell],
    data: Sequence[Path],
    repeats: int,
    utterances: int = 0,
    allow_pipes: bool = False,
) -> Iterator[Record]:
    """Measure; yields after each run, the record that has grown.

    Cells of one duration and batch are measured together. Each repetition has speech of
    its own, which all of them decode once, in an order of its own, so that whatever
    else the machine does falls on all systems alike, and no one utterance speaks for
    all. Before that each decodes ``warm_ups`` of them. A cell that the machine cannot
    run, for want of memory or of a compiler, says so in its record and is left out from
    then on.

    Args:
        systems: must not remember encoded audio.
        cells: deliberating rows are not among them.
        data, allow_pipes: see ``material_of``.
        repeats, utterances: see ``repeats_of``.
    """
    order = random.Random(0)
    groups: dict[tuple[float, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.seconds, cell.batch), []).append(cell)
    for size, group in groups.items():
        count = repeats_of(size[1], repeats, utterances)
        batches = material_of(data, *size, count, allow_pipes)
        pairs = [(Record(cell), _runner(systems, cell)) for cell in group]
        for record, run in pairs:
            for speech in batches[: warm_ups(record.cell.row, len(batches))]:
                if not record.failed:
                    _attempt(record, run, speech, True)
                yield record
        pairs = [pair for pair in pairs if not pair[0].failed]
        for number in range(count):
            order.shuffle(pairs)
            for record, run in pairs:
                if not record.failed:
                    _attempt(record, run, batches[number % len(batches)], False)
                yield record


def runs_of(
    cells: Sequence[Cell], data: Sequence[Path], repeats: int, utterances: int = 0
) -> int:
    """How many records ``measure`` yields at most."""
    total = 0
    for cell in cells:
        count = repeats_of(cell.batch, repeats, utterances)
        total += count + warm_ups(cell.row, 1 if is_noise(data) else count)
    return total


def warm_ups(row: SweepRow, batches: int) -> int:
    """How many batches are decoded to be warm.

    The work of ours is counted on them. A runtime with fixed shapes needs all of them,
    in case their canvases differ.
    """
    if is_peer(row):
        return 1
    return min(batches, _COUNTED) if row.bench.runtime == "plain" else batches


def _attempt(record: Record, run: Run, speech: list[Piece], warm_up: bool) -> None:
    # torch.compile fails in many ways, a graph's capture in some.
    failures = torch.cuda.OutOfMemoryError
    if record.cell.row.bench.runtime in ("graph", "compile"):
        failures = RuntimeError
    try:
        run(record, speech, warm_up)
    except failures as e:
        record.failed = failure(record.name, e)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _way(model: nn.Module, row: SweepRow) -> Way:
    if isinstance(row.options.sampler, ReleaseSamplerOptions):
        return released(model)
    if row.bench.runtime != "plain":
        return fixed(model, row.bench.runtime)
    return plain(model)


def _runner(systems: Systems | RandomSystems, cell: Cell) -> Run:
    row, way = cell.row, None
    recognizer = systems.recognizer(row)
    ids = [f"bench-{i}" for i in range(cell.batch)]
    if not is_peer(row):
        model = recognizer.model
        model.requires_grad_(False)  # torch's FLOP counter stumbles over parameters
        way = _way(model, row)
        given = row.options, row.decoding.use_audio, row.decoding.output_case
        recognizer = Transcriber(way.model, *given, way.stages)
    # Neither a graph's work nor int8's is counted.
    counts = row.bench.runtime == "plain" and not row.bench.weights

    def run(record: Record, speech: list[Piece], warm_up: bool) -> None:
        waveforms = [piece.samples for piece in speech]
        with ExitStack() as stack:
            meter = way and stack.enter_context(Meter(way, warm_up and counts))
            memory = warm_up and stack.enter_context(PeakMemory())
            began = time.process_time()
            seconds, hypotheses = timed(recognizer, waveforms, ids)
            cpu = time.process_time() - began
        if warm_up:
            record.warmed(way, meter, memory.mebibytes)
        else:
            record.ran((seconds, cpu), meter, speech, hypotheses)

    return run
