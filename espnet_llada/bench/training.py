"""A training step at full size: ours beside the way of the paper's release.

All ways see the same batch. Ours gives each utterance its own length and puts the
masked positions through the head, a few at a time; the release pads audio to 30 s and
makes the logits of the whole sequence. ``compiled`` is ours with ``compile_layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_llada.bench.material import noise_of
from espnet_llada.bench.meter import PeakMemory, failure, kernels_of, model_bytes, timed
from espnet_llada.bench.random_model import random_model
from espnet_llada.bench.tables import heading, table
from espnet_llada.bench.ways import released
from espnet_llada.build import compile_layers
from espnet_llada.core.model import WhisperLLM
from espnet_llada.core.objective import Targets, diffusion_loss, noisy_canvas
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


class Batch(NamedTuple):
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
    install, steps = _installer(model), []
    for seconds in durations:
        batch = batch_of(model, seconds)
        group = [Step(way, seconds, model=model_bytes(model) / 2**20) for way in WAYS]
        for number in range(repeats + 2):
            for step in group:
                if not step.failed:
                    run = _step(step, install(step.way), batch, amp)
                    if number <= repeats:
                        _measure(step, run, warm_up=not number)
                    elif found := kernels_of(run):
                        step.kernels, step.busy = found
        steps += group
    return steps


def _installer(model: WhisperLLM) -> Callable[[str], WhisperLLM]:
    """From a way to the model: the encoder, and how layers are run, are the way's."""
    layers = model.encoder, model.postencoder.layers, model.decoder.lm.body
    plain = [part.run for part in layers]
    compile_layers(model.encoder, model.postencoder, model.decoder, BACKEND)
    compiled = [part.run for part in layers]
    padded = released(model).model

    def install(way: str) -> WhisperLLM:
        runs = compiled if way == "compiled" else plain
        for part, run in zip(layers, runs, strict=True):
            part.run = run
        return padded.train() if way == "release" else model

    return install


def _step(
    step: Step, model: WhisperLLM, batch: Batch, amp: torch.autocast
) -> Callable[[], None]:
    """What one step does, once all gradients are gone."""

    def run() -> None:
        with amp:
            value, step.positions = loss_of(model, batch, step.way)
        value.backward()

    model.zero_grad(set_to_none=True)
    return run


def _measure(step: Step, run: Callable[[], None], warm_up: bool) -> None:
    try:
        with PeakMemory() as memory:
            took, _ = timed(run)
    except RuntimeError as e:  # torch.compile fails in many ways
        if step.way != "compiled":
            raise
        step.failed = failure(f"{step.way}, {step.seconds:g} s", e)
        return
    if not warm_up:
        step.times.append(took)
        step.memory = max(step.memory, memory.mebibytes)


def batch_of(model: WhisperLLM, seconds: float) -> Batch:
    """Noise of a duration, with random transcripts."""
    lm, count = model.decoder.lm, max(1, round(seconds * TOKENS_PER_SECOND))
    rows = [piece.samples for piece in noise_of(seconds, ROWS)]
    speech = torch.from_numpy(np.stack(rows)).to(lm.head.device)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, lm.vocab_size, (ROWS, count), generator=generator)
    ones = torch.ones(ROWS, dtype=torch.long, device=speech.device)
    targets = Targets(text.to(speech.device), ones * count)
    return Batch(speech, ones * speech.shape[1], targets)


def loss_of(model: WhisperLLM, batch: Batch, way: str) -> tuple[Tensor, int]:
    """A scalar with a graph behind it; the LM's positions in a row.

    The release makes the logits of prompt, audio and response.
    """
    decoder, seeds = model.decoder, range(ROWS)
    prefix = decoder.prefix(*model.encode(batch.speech, batch.lengths))
    canvas = noisy_canvas(batch.targets, decoder.special, decoder.objective, seeds)
    asked = prefix.valid.shape[1]
    if way == "release":
        hidden = decoder.hidden(prefix, canvas.tokens, canvas.lengths)
        response = decoder.lm.logits(torch.cat(hidden, dim=1))[:, asked:]
        loss = diffusion_loss(response, canvas, decoder.objective.loss, logits_nll)
    else:
        loss = decoder.loss(prefix, batch.targets, seeds)
    return loss.mean, asked + canvas.tokens.shape[1]


def markdown(steps: Sequence[Step], machine: Mapping[str, Any]) -> str:
    """A table."""
    names = "seconds|way|positions|ms (quartiles)|MiB|weights MiB|kernels|busy"
    lines = [
        heading(machine),
        "",
        f"Forward and backward pass of {ROWS} utterances of one duration, "
        f"{TOKENS_PER_SECOND} tokens a second; random weights, no optimizer.",
        "",
        "kernels: launched on a GPU in a step; busy: ms in which it ran them.",
        "",
        *table(f"{names}|times faster|MiB less", _lines(steps), left=(1,)),
    ]
    return "\n".join(lines)


def _lines(steps: Sequence[Step]) -> Iterator[list[Any]]:
    for step in steps:
        if step.way == "release":
            release = step
        if step.failed:
            continue
        low, middle, high = 1e3 * np.percentile(step.times, (25, 50, 75))
        faster = less = ""
        if step is not release:
            times = np.median(np.array(release.times) / np.array(step.times))
            faster, less = f"{times:.2f}", f"{release.memory - step.memory:.0f}"
        yield [
            *(f"{step.seconds:g}", step.way, step.positions),
            f"{middle:.1f} ({low:.1f}-{high:.1f})",
            *(f"{step.memory:.0f}", f"{step.model:.0f}", step.kernels or ""),
            f"{1e3 * step.busy:.1f}" if step.kernels else "",
            *(faster, less),
        ]
