"""An auxiliary CTC loss over the LM's tokens, so that the adapter learns to align.

An LM that is trained from the start with its own loss learns to ignore an adapter that
says nothing yet. CTC, through the LM's own embedding, first makes what the projection
hands to the LM look like the words that are spoken. Decoding does not use it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.types import UserError


class AlignmentCTC(nn.Module):
    """CTC whose output layer is the LM's embedding; fields of ``decoder_conf.ctc``.

    Args:
        embedding: (V, d), the LM's, which stays frozen.
        width: of the adapter's vectors, from which the blank is told.
        weight: of this loss (nats for each token) beside the LM's.
        only: train by this loss alone; the LM is not run (to warm the adapter up).

    Raises:
        UserError: a weight that does not fit.
    """

    def __init__(
        self, embedding: Tensor, width: int, weight: float = 0.1, only: bool = False
    ):
        super().__init__()
        if weight <= 0:
            raise UserError(
                f"ctc: weight {weight} must be above 0; leave ctc out for a training "
                "without it"
            )
        self.weight, self.only = weight, only
        tokens, size = embedding.shape
        spread = float(embedding.float().std())
        # Two unrelated embeddings then differ by about one nat.
        self.scale = nn.Parameter(torch.tensor(1 / (spread**2 * math.sqrt(size))))
        self.bias = nn.Parameter(torch.zeros(tokens))
        self.blank = nn.Linear(width, 1)
        nn.init.constant_(self.blank.bias, math.log(tokens) - 1)  # most are blank

    def log_probs(self, audio: Tensor, projected: Tensor, embedding: Tensor) -> Tensor:
        """(B, A, width), (B, A, d), (V, d) -> (B, A, 1 + V), float32; blank first."""
        blank = self.blank(audio.to(self.blank.weight.dtype))
        tokens = (projected * self.scale) @ embedding.to(projected.dtype).T + self.bias
        return torch.cat([blank, tokens.to(blank.dtype)], -1).float().log_softmax(-1)

    def forward(
        self, log_probs: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> Tensor:
        """Loss of each row, in nats for each token.

        Args:
            log_probs: (B, A, 1 + V).
            lengths: (B,) int64, audio vectors of each row.
            text: (B, T) int64 transcripts. One that has more tokens than there are
                vectors for has a loss of 0.
            text_lengths: (B,) int64.
        """
        nll = F.ctc_loss(
            log_probs.transpose(0, 1),
            text.clamp(min=0) + 1,
            lengths,
            text_lengths,
            reduction="none",
            zero_infinity=True,
        )
        return nll / text_lengths.clamp(min=1)
