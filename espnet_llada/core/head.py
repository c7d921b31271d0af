"""From hidden states to tokens."""

from __future__ import annotations

from torch import Tensor

from espnet_llada.networks.lm.backbone import Backbone


class OutputHead:
    """The LM's output layer; what stands in for it has the same methods.

    Args:
        lm: the LM.
    """

    def __init__(self, lm: Backbone):
        self._lm = lm

    def logits(self, hidden: Tensor, wanted: Tensor, begins: int = 0) -> Tensor:
        """Logits (N, V) of the N wanted positions.

        Args:
            hidden: (B, L, d).
            wanted: (B, L) bool.
            begins: the number of the first of the L response positions.
        """
        return self._lm.logits(hidden[wanted])

    def nll(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The ``core.objective.NLL`` of hidden states."""
        nll, behind = self._lm.nll(hidden[counted], targets[counted])
        return nll, behind <= 0

    def rows(self, chosen: Tensor) -> OutputHead:
        """Of some rows, (N,) int64, or of some of them several times."""
        return self
