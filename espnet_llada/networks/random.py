"""Random numbers that depend on an utterance, and not on its batch."""

from __future__ import annotations

from collections.abc import Sequence

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
