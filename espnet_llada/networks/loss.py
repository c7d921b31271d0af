"""A training loss as a sum and its denominator, which add up over processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
