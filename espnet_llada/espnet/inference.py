"""``Speech2Text`` with ESPnet2's signature and result."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from espnet_llada.api import InferenceAPI, Result
from espnet_llada.deliberation import Deliberator as _Deliberator


def build_with_espnet(config: Mapping[str, Any]) -> nn.Module:
    """A model whose encoder side is ESPnet's own, e.g. a Conformer."""
    from espnet_llada.espnet.register import register

    register()
    from espnet_llada.espnet.task import ASRTask

    return ASRTask.build_model(argparse.Namespace(**config))


class Speech2Text(InferenceAPI):
    """Transcribes speech, as ``espnet2.bin.asr_inference.Speech2Text``.

        speech2text = Speech2Text("exp/asr_x/config.yaml", "exp/asr_x/1epoch.pth")
        text, tokens, token_int, hypothesis = speech2text(speech)[0]

    The decode options are the fields of ``SamplerOptions``; a model trained with
    ``decoder: llama`` decodes greedily. ESPnet itself is imported only where the
    model's encoder is one of ESPnet's.
    """

    build_foreign = staticmethod(build_with_espnet)

    def __call__(
        self, speech: np.ndarray | torch.Tensor | str | Path, utt_id: str = "utt"
    ) -> Result:
        """Transcribe one utterance.

        Args:
            speech: float32 (T,) at 16 kHz, or an audio file.
            utt_id: decides random draws, together with ``seed``.

        Returns:
            [(text, tokens, token ids, hypothesis)].
        """
        return self._run(speech, utt_id, None)


class Deliberator(_Deliberator):
    __doc__ = _Deliberator.__doc__
    build_foreign = staticmethod(build_with_espnet)
