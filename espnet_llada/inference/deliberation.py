"""Deliberation: an utterance and its first-pass transcript in, a better one out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from espnet_llada.inference.api import InferenceAPI, Result
from espnet_llada.types import UserError


class Deliberator(InferenceAPI):
    """Masks parts of a transcript and fills them in again, given the audio.

    deliberate = Deliberator.from_pretrained("mini", mask_ratio=0.3)
    text, *_ = deliberate(speech, "the quick brown fax")[0]
    """

    task = "deliberate"

    def __call__(
        self,
        speech: np.ndarray | torch.Tensor | str | Path,
        transcript: str,
        utt_id: str = "utt",
    ) -> Result:
        """Deliberate over one utterance.

        Args:
            speech: float32 (T,) at 16 kHz, or an audio file.
            transcript: of another recogniser; an empty one leaves only the tail's
                positions to fill.
            utt_id: decides the random masks, together with ``seed``.
        """
        if not isinstance(transcript, str) or isinstance(speech, (list, tuple)):
            raise UserError(
                "Deliberator takes one utterance and its transcript, a string; call it "
                "for each of several"
            )
        return self._run(speech, utt_id, transcript)
