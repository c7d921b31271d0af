"""The table for PERFORMANCE.md, of what tests/gpu/measure.sh has measured so far."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from espnet_llada.bench.tables import heading, table

PARTS = ("plain", "compiled")
BASELINES = ("llama_compile", "llama_graph")
"""What others are compared with: the first that was measured on the same noise."""

Cells = dict[tuple[float, int], dict[str, dict[str, Any]]]


def markdown(out: Path) -> str:
    """One table of all durations and batches, and that of the training step."""
    cells, machine = _read(out)
    lines = []
    if machine:
        lines = [heading(machine), ""]
        lines += table(
            "seconds|batch|system|ms (of each repetition)|encoder|LLM and head|passes"
            "|RTFx|MiB|times faster than Whisper-LLaMA",
            _lines(cells),
            left=(2,),
        )
    lines += _left_out(cells)
    step = out / "training" / "TRAINING.md"
    if step.is_file():
        lines += ["", "## A training step", "", step.read_text(encoding="utf-8")]
    return "\n".join(lines)


def _read(out: Path) -> tuple[Cells, dict[str, Any]]:
    cells: Cells = {}
    machine: dict[str, Any] = {}
    for path in (out / part / "bench.json" for part in PARTS):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            machine = content["machine"]
            for record in content["records"]:
                size = record["seconds"], record["batch"]
                cells.setdefault(size, {})[record["system"]] = record
    return cells, machine


def _lines(cells: Cells) -> Iterator[list[str]]:
    for (seconds, batch), found in sorted(cells.items()):
        measured = {key: r for key, r in found.items() if r["total"]}
        base = next((measured[key] for key in BASELINES if key in measured), None)
        for record in measured.values():
            mean, stages = np.mean(record["total"]), record["stages"]
            encoder, lm, head = (
                1e3 * np.mean(stages[name]) for name in ("encoder", "LLM", "head")
            )
            times = [f"{1e3 * took:.1f}" for took in record["total"]]
            faster = "" if base is None else f"{np.mean(base['total']) / mean:.2f}"
            yield [
                *(f"{seconds:g}", f"{batch}", record["label"]),
                f"{1e3 * mean:.1f} ({', '.join(times)})",
                *(
                    f"{encoder:.1f}",
                    f"{lm + head:.1f}",
                    f"{np.mean(record['passes']):.0f}",
                ),
                *(f"{batch * seconds / mean:.0f}", f"{record['memory']:.0f}", faster),
            ]


def _left_out(cells: Cells) -> Iterator[str]:
    for (seconds, batch), found in sorted(cells.items()):
        for record in found.values():
            if record["failed"]:
                where = f"{record['label']}, {seconds:g} s, batch {batch}"
                yield f"- left out: {where}: {record['failed']}"


if __name__ == "__main__":
    sys.stdout.write(f"{markdown(Path(sys.argv[1]))}\n")
