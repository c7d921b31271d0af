"""A training step at full size: ours beside the way of the paper's release.

All ways see the same batch. Ours gives each utterance its own length and puts the
masked positions through the head, a few at a time; the release pads audio to 30 s and
makes the logits of the whole sequence. ``compiled`` is ours with ``compile_layers``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_llada.bench.kernels import kernels_of
from espnet_llada.bench.material import NOISE, material_of
from espnet_llada.bench.meter import PeakMemory, seconds_of
from espnet_llada.bench.random_model import model_bytes, random_model
from espnet_llada.bench.release import padding
from espnet_llada.build import compile_layers
from espnet_llada.core.model import WhisperLLM
from espnet_llada.core.objective import (
    NoisyCanvas,
    Targets,
    diffusion_loss,
    noisy_canvas,
)
from espnet_llada.networks.head import logits_nll

ROWS = 4
"""Utterances on one GPU, as in the paper."""

TOKENS_PER_SECOND = 6
WAYS = ("release", "ours", "compiled")
BACKEND = "inductor"


@dataclass
class Step:
    """Forward and backward pass of one batch, so many times.

    Attributes:
        way: one of ``WAYS``.
        seconds: of each utterance.
        positions: of the LM in a row.
        times: seconds.
        memory: MiB above the weights, at most.
        model: MiB of the weights, all of them.
        kernels: that a step launches on a GPU, see ``kernels_of``; 0 without one.
        busy: seconds in which the GPU runs them.
        failed: why the way could not be measured; "" where it could.
    """

    way: str
    seconds: float
    positions: int = 0
    times: list[float] = field(default_factory=list)
    memory: float = 0.0
    model: float = 0.0
    kernels: int = 0
    busy: float = 0.0
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Speech (B, T) float32, its lengths (B,), and what is said."""

    speech: Tensor
    lengths: Tensor
    targets: Targets


def compare(
    config: Mapping[str, Any], device: str, durations: Sequence[float], repeats: int
) -> list[Step]:
    """Measure all ways in turn, after a step of each to be warm.

    Args:
        config: a train config with masked diffusion.
        device: "cpu", "cuda", ...
        durations: seconds of a batch's utterances.
        repeats: at least 1.

    Raises:
        UserError: parts other than the paper's.
    """
    model = random_model(config, device, training=True)
    mixed = bool(config.get("use_amp", False))
    amp = torch.autocast(torch.device(device).type, torch.bfloat16, mixed)
    ways = _ways(model)
    steps = []
    for seconds in durations:
        batch = batch_of(model, seconds)
        group = [Step(way, seconds, model=model_bytes(model) / 2**20) for way in WAYS]
        for number in range(repeats + 2):
            for step in group:
                if not step.failed:
                    run = _step(step, ways[step.way](), batch, amp)
                    if number <= repeats:
                        _measure(step, run, warm_up=not number)
                    elif found := kernels_of(run):
                        step.kernels, step.busy = found
        steps += group
    return steps


def _ways(model: WhisperLLM) -> dict[str, Callable[[], WhisperLLM]]:
    """The model as each way has it: an encoder, and how layers are run."""
    layers = model.encoder, model.postencoder.layers, model.decoder.lm.body
    plain = [part.run for part in layers]
    compile_layers(model.encoder, model.postencoder, model.decoder, BACKEND)
    compiled = [part.run for part in layers]
    padded = padding(model.encoder), model.postencoder, model.decoder
    release = WhisperLLM(*padded).train()

    def way(model: WhisperLLM, runs: Sequence[Callable[..., Tensor]]) -> WhisperLLM:
        for part, run in zip(layers, runs, strict=True):
            part.run = run
        return model

    ways = partial(way, release, plain), partial(way, model, plain)
    return dict(zip(WAYS, (*ways, partial(way, model, compiled)), strict=True))


def _step(
    step: Step, model: WhisperLLM, batch: Batch, amp: torch.autocast
) -> Callable[[], None]:
    """What one step does, once all gradients are gone."""
    loss = release_loss if step.way == "release" else our_loss

    def run() -> None:
        with amp:
            value, step.positions = loss(model, batch)
        value.backward()

    model.zero_grad(set_to_none=True)
    return run


def _measure(step: Step, run: Callable[[], None], warm_up: bool) -> None:
    try:
        with PeakMemory() as memory:
            took = seconds_of(run)
    except RuntimeError as e:  # torch.compile fails in many ways
        if step.way != "compiled":
            raise
        step.failed = f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"
        logging.warning(f"left out: {step.way}, {step.seconds:g} s: {step.failed}")
        return
    if not warm_up:
        step.times.append(took)
        step.memory = max(step.memory, memory.mebibytes)


def batch_of(model: WhisperLLM, seconds: float) -> Batch:
    """Noise of a duration, with random transcripts."""
    device = model.decoder.lm.head.device
    speech = torch.from_numpy(np.stack(material_of(Path(NOISE), seconds, ROWS, 1)[0]))
    lengths = torch.full((ROWS,), speech.shape[1])
    count = max(1, round(seconds * TOKENS_PER_SECOND))
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.decoder.lm.vocab_size
    text = torch.randint(1, vocabulary, (ROWS, count), generator=generator)
    targets = Targets(text.to(device), torch.full((ROWS,), count, device=device))
    return Batch(speech.to(device), lengths.to(device), targets)


def our_loss(model: WhisperLLM, batch: Batch) -> tuple[Tensor, int]:
    """A scalar with a graph behind it; the LM's positions in a row."""
    decoder = model.decoder
    prefix = decoder.prefix(*model.encode(batch.speech, batch.lengths))
    loss = decoder.loss(prefix, batch.targets, range(ROWS))
    return loss.mean, prefix.valid.shape[1] + _canvas(model, batch).tokens.shape[1]


def release_loss(model: WhisperLLM, batch: Batch) -> tuple[Tensor, int]:
    """The same with the logits of prompt, audio and response."""
    decoder = model.decoder
    prefix = decoder.prefix(*model.encode(batch.speech, batch.lengths))
    canvas = _canvas(model, batch)
    hidden = decoder.hidden(prefix, canvas.tokens, canvas.lengths)
    logits = decoder.lm.logits(torch.cat(hidden, dim=1))
    response = logits[:, prefix.valid.shape[1] :]
    loss = diffusion_loss(response, canvas, decoder.objective.loss, logits_nll)
    return loss.mean, logits.shape[1]


def _canvas(model: WhisperLLM, batch: Batch) -> NoisyCanvas:
    given = model.decoder.special, model.decoder.objective
    return noisy_canvas(batch.targets, *given, range(ROWS))


def markdown(steps: Sequence[Step], machine: Mapping[str, Any]) -> str:
    """A table."""
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    lines = [
        f"{machine['processor']}; {versions}",
        "",
        f"Forward and backward pass of {ROWS} utterances of one duration, "
        f"{TOKENS_PER_SECOND} tokens a second; random weights, no optimizer.",
        "",
        "kernels: launched on a GPU in a step; busy: ms in which it ran them.",
        "",
        "| seconds | way | positions | ms (quartiles) | MiB | weights MiB "
        "| kernels | busy | times faster | MiB less |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    release: Step | None = None
    for step in steps:
        if step.way == "release":
            release = step
        if not step.failed:
            lines.append(f"| {' | '.join(_cells(step, release))} |")
    return "\n".join(lines)


def _cells(step: Step, release: Step) -> list[str]:
    low, middle, high = 1e3 * np.percentile(step.times, (25, 50, 75))
    cells = [
        f"{step.seconds:g}",
        step.way,
        f"{step.positions}",
        f"{middle:.1f} ({low:.1f}-{high:.1f})",
        f"{step.memory:.0f}",
        f"{step.model:.0f}",
        f"{step.kernels}" if step.kernels else "",
        f"{1e3 * step.busy:.1f}" if step.kernels else "",
    ]
    if step is release:
        return [*cells, "", ""]
    times = np.median(np.array(release.times) / np.array(step.times))
    return [*cells, f"{times:.2f}", f"{release.memory - step.memory:.0f}"]
