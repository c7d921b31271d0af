"""An auxiliary CTC loss over characters, so that the adapter learns to align.

A language model trained with its own loss from the start learns to ignore an adapter
that says nothing yet. CTC on the Q-Former's vectors makes them say something first.
Decoding does not use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.types import UserError

CHARACTERS = "abcdefghijklmnopqrstuvwxyz' "
"""Transcripts are read in lower case; what is not here is left out."""

_ID = {character: i for i, character in enumerate(CHARACTERS, start=1)}  # 0: blank


class CharacterCTC(nn.Module):
    """CTC over characters; fields of ``decoder_conf.ctc``.

    Args:
        width: of the Q-Former's vectors.
        weight: of this loss (nats for each character) beside the LM's.
        slots: characters that one vector may stand for.
        only: train by this loss alone; the LM is not run (to warm the adapter up).

    Raises:
        UserError: a value that does not fit.
    """

    def __init__(
        self, width: int, weight: float = 0.3, slots: int = 2, only: bool = False
    ):
        super().__init__()
        if slots < 1 or weight <= 0:
            raise UserError(
                f"ctc: weight {weight}, slots {slots}: both must be above 0; leave "
                "ctc out for a training without it"
            )
        self.weight, self.slots, self.only = weight, slots, only
        self.output = nn.Linear(width, slots * (len(CHARACTERS) + 1))

    def log_probs(self, audio: Tensor) -> Tensor:
        """(B, A, width) -> (B, A * slots, 29), natural logarithms, float32."""
        logits = self.output(audio.to(self.output.weight.dtype))
        logits = logits.unflatten(-1, (self.slots, -1)).flatten(1, 2)
        return logits.float().log_softmax(dim=-1)

    def forward(
        self, audio: Tensor, lengths: Tensor, texts: Sequence[str]
    ) -> Tensor:
        """Loss of each row, in nats for each character.

        Args:
            audio: (B, A, width).
            lengths: (B,) int64.
            texts: B transcripts. One with more characters than there are slots for
                has a loss of 0.
        """
        ids = [[_ID[c] for c in text.lower() if c in _ID] for text in texts]
        sizes = torch.tensor([len(i) for i in ids], device=audio.device)
        flat = torch.tensor(sum(ids, []), dtype=torch.long, device=audio.device)
        nll = F.ctc_loss(
            self.log_probs(audio).transpose(0, 1),
            flat,
            lengths * self.slots,
            sizes,
            reduction="none",
            zero_infinity=True,
        )
        return nll / sizes.clamp(min=1)

    def transcribe(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """The most probable path of each row, without blanks and repeats."""
        best = self.log_probs(audio).argmax(dim=-1)
        texts = []
        for row, n in zip(best, (lengths * self.slots).tolist(), strict=True):
            ids = torch.unique_consecutive(row[:n]).tolist()
            texts.append("".join(CHARACTERS[i - 1] for i in ids if i))
        return [" ".join(text.split()) for text in texts]
