"""What depends on an utterance, not on its batch: random numbers, a loss's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class RowRandom:
    """One random generator per row, so that no draw depends on the batch.

    Args:
        seeds: one integer for each row (see ``core.recognizer.seed_of``).
        device: where the draws are wanted; they are made on the CPU, so that a seed
            means the same on every machine.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self._rows = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def uniform(self, lengths: Tensor, width: int) -> Tensor:
        """(B, width) float32 in [0, 1); row r draws ``lengths[r]`` numbers."""
        draws = torch.zeros(len(self._rows), width)
        for row, generator, n in zip(draws, self._rows, lengths.tolist(), strict=True):
            row[:n] = torch.rand(n, generator=generator)
        return draws.to(self._device)

    def row(self, row: int, count: int) -> list[float]:
        """So many numbers in [0, 1) for one row."""
        return torch.rand(count, generator=self._rows[row]).tolist()

    def gumbel(self, lengths: Tensor, width: int, vocabulary: int) -> Tensor:
        """(B, width, vocabulary) float32 Gumbel noise at ``lengths[r]`` places."""
        noise = torch.zeros(len(self._rows), width, vocabulary)
        for row, generator, n in zip(noise, self._rows, lengths.tolist(), strict=True):
            uniform = torch.rand(n, vocabulary, generator=generator)
            row[:n] = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return noise.to(self._device)


@dataclass(frozen=True)
class Loss:
    """A training loss as a sum and its denominator, which add up over processes.

    Attributes:
        rows: (B,) float32, nats: each row's part of the sum.
        weights: (B,) float32, each row's part of the denominator.
        right: scalar float32, scored positions whose most probable token is right.
        scored: scalar float32, positions that the loss looks at.
    """

    rows: Tensor
    weights: Tensor
    right: Tensor
    scored: Tensor

    @property
    def weight(self) -> Tensor:
        """The denominator, a scalar."""
        return self.weights.sum()

    @property
    def mean(self) -> Tensor:
        """The loss itself; 0 with zero gradients where nothing is scored."""
        return self.rows.sum() / self.weight.clamp(min=1)

    def plus(self, other: Tensor) -> Loss:
        """With another loss added: (B,), of which ``mean`` gets the weighted mean."""
        return replace(self, rows=self.rows + other * self.weights)

    @classmethod
    def without_lm(cls, rows: Tensor) -> Loss:
        """Of a training in which no LM is run: (B,), nats."""
        none = rows.new_zeros(())
        return cls(rows, torch.ones_like(rows), none, none)

    def of_nothing(self) -> Loss:
        """The same graph, for a backward pass that adds zero to every gradient."""
        none = torch.zeros_like(self.right)
        return Loss(self.rows * 0, torch.zeros_like(self.weights), none, none)
