"""The plan of a sweep: of each row passes, memory and GPU-hours; and their sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_llada.io.files import read_yaml
from espnet_llada.plan import decoding, meta_model
from espnet_llada.plan.architectures import GPUS, MEASURED, USABLE
from espnet_llada.plan.meta_model import Load, Network
from espnet_llada.sweep.rows import SweepRow, read_sweep
from espnet_llada.types import UserError

LONGEST = 30.0
"""Seconds that are decoded at once, see ``long_form``."""


@dataclass(frozen=True)
class Job:
    """What a sweep is to decode, and on what.

    Attributes:
        sets: utterances and hours of each.
        tokens_per_second: of a transcript.
        max_seconds: of the longest utterance, at most ``LONGEST``.
        gpu: of ``GPUS``.
        num_gpus: that share the work.
        price: of a GPU for an hour, if known.
    """

    sets: Sequence[tuple[int, float]]
    tokens_per_second: float
    max_seconds: float
    gpu: str
    num_gpus: int
    price: float | None = None

    @property
    def utterances(self) -> int:
        """Of all sets."""
        return sum(number for number, _ in self.sets)

    @property
    def hours(self) -> float:
        """Of all sets."""
        return sum(hours for _, hours in self.sets)

    def load(self, rows: int, longest: bool = False) -> Load:
        """A batch of average utterances, or of the longest ones."""
        seconds = 3600 * self.hours / self.utterances
        if longest:
            seconds = max(seconds, min(self.max_seconds, LONGEST))
        return Load(rows, seconds, max(1, round(seconds * self.tokens_per_second)))

    def cost(self, gpu_hours: float) -> float | None:
        """What so many cost."""
        return None if self.price is None else gpu_hours * self.price


def plan_sweep(path: str, job: Job) -> dict[str, Any]:
    """The numbers, and what they assume.

    Raises:
        UserError: a sweep that does not fit, or of unknown sizes.
    """
    sweep, average = read_sweep(path), job.load(1)
    if average.seconds > LONGEST:
        raise UserError(
            f"--hours {job.hours:g}: {average.seconds:.0f} s for each of --utterances "
            f"{job.utterances}, but decoding cuts at {LONGEST:g} s: count the pieces"
        )
    networks = _networks(path, sweep.train_configs)
    rows = [_row(path, row, networks, job) for row in sweep.rows]
    total = sum(row["gpu_hours"] for row in rows if not row["left_out"])
    size = GPUS[job.gpu].memory * 1e9
    return {
        "config": path,
        "gpu": {"name": job.gpu, "number": job.num_gpus, "bytes": size},
        "utterances": job.utterances,
        "hours_of_audio": job.hours,
        "seconds": average.seconds,
        "tokens": average.tokens,
        "rows": rows,
        "gpu_hours": total,
        "hours": total / job.num_gpus,
        "cost": job.cost(total),
        "notes": _notes(job),
    }


def _networks(where: str, configs: Mapping[str, Path]) -> dict[str, Network]:
    """{system: its network}; of ``whisper`` one that has its encoder."""
    if not configs:
        raise UserError(
            f"{where}: no train_configs, so no sizes; add 'train_configs: {{llada: "
            "train_….yaml, llama: train_….yaml}' at its top"
        )
    found = {}
    for system, path in configs.items():
        try:
            found[system] = meta_model.build(read_yaml(path))
        except UserError as e:
            raise UserError(f"{path}: {e}") from e
    return {"whisper": [*found.values()][-1], **found}


def _row(
    where: str, row: SweepRow, networks: Mapping[str, Network], job: Job
) -> dict[str, Any]:
    left_out = decoding.refusal(row)
    found = {"key": row.key, "label": row.label, "group": row.group}
    found["left_out"] = left_out
    if left_out:
        return found
    if row.system not in networks:
        raise UserError(
            f"{where}: row {row.key}: no {row.system} in train_configs; name its train "
            "config there"
        )
    size, gpu, network = row.decoding.batch_size, GPUS[job.gpu], networks[row.system]
    average = job.load(size)
    memory = decoding.memory(row, network, job.load(size, longest=True))
    batches = sum(-(-number // size) for number, _ in job.sets)
    hours = batches * decoding.seconds(row, network, average, gpu) / 3600
    return found | {
        "batch_size": size,
        "passes": len(decoding.passes(row, network, average)),
        "flops": decoding.flops(row, network, average),
        "memory": memory,
        "memory_total": sum(memory.values()),
        "fits": sum(memory.values()) <= USABLE * gpu.memory * 1e9,
        "gpu_hours": hours,
        "cost": job.cost(hours),
    }


def _notes(job: Job) -> list[str]:
    return [
        f"a transcript has {job.tokens_per_second:g} tokens a second; LibriSpeech has "
        "2.7 words, 1.7 of Llama 3's tokens each in capitals",
        "passes of diffusion: the most; an EOS that is committed early ends a canvas "
        f"sooner. A threshold takes {decoding.THRESHOLD_PASSES} (assumed), a "
        f"mask_threshold masks {decoding.DOUBTED:.0%} of the tokens (assumed)",
        "every row encodes the audio anew; loading the weights and scoring come on top",
        f"times are {MEASURED}; other GPUs by their data sheets. Whisper's own decoder "
        "and Whisper-LLaMA uncompiled in batches were not measured",
    ]


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """A plan as a table."""
    gpu, priced = plan["gpu"], plan["cost"] is not None
    yield f"{plan['config']} on {gpu['number']} x {gpu['name']}"
    yield (
        f"{plan['utterances']:,} utterances, {plan['hours_of_audio']:.2f} hours: on "
        f"average {plan['seconds']:.1f} s and {plan['tokens']} tokens"
    )
    yield ""
    width = 2 + max(len(row["key"]) for row in plan["rows"])
    title = f"{'':{width}}{'batch':>6}{'passes':>8}{'TFLOP':>9}{'GB':>7}"
    yield f"{title}{'GPU-hours':>11}" + f"{'cost':>11}" * priced
    group, too_large = "", []
    for row in plan["rows"]:
        if row["group"] != group:
            group = row["group"]
            yield group
        line = f"  {row['key']:{width - 2}}"
        if row["left_out"]:
            yield f"{line}  {row['left_out']}"
            continue
        too_large += [row["key"]] * (not row["fits"])
        work, size = sum(row["flops"].values()) / 1e12, row["memory_total"] / 1e9
        line += f"{row['batch_size']:>6}{row['passes']:>8}{work:>9.1f}{size:>7.1f}"
        yield line + _end(row)
    yield f"{'total':{width + 30}}{_end(plan)}"
    yield ""
    number = f"{gpu['number']} x {gpu['name']}"
    yield f"about {plan['hours']:.1f} hours on {number} that share the work"
    verdict = f"too large: {', '.join(too_large)}" if too_large else "every row fits"
    yield f"{gpu['name']} ({gpu['bytes'] / 1e9:g} GB): {verdict}"
    yield from (f"- {note}" for note in ("TFLOP: of an utterance", *plan["notes"]))


def _end(row: Mapping[str, Any]) -> str:
    cost = "" if row["cost"] is None else f"{row['cost']:>11.2f}"
    return f"{row['gpu_hours']:>11.2f}{cost}"
