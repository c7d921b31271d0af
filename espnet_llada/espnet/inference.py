"""``Speech2Text`` with ESPnet2's signature and result."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import nn

from espnet_llada.inference.api import InferenceAPI, Result, Speech
from espnet_llada.inference.deliberation import Deliberator as _Deliberator


def build_with_espnet(config: Mapping[str, Any]) -> nn.Module:
    """A model whose encoder side is ESPnet's own, e.g. a Conformer."""
    from espnet_llada.espnet.register import register

    register()
    from espnet_llada.espnet.task import ASRTask

    return ASRTask.build_model(argparse.Namespace(**config)).eval()


class Speech2Text(InferenceAPI):
    """Transcribes speech, as ``espnet2.bin.asr_inference.Speech2Text``.

        speech2text = Speech2Text("exp/asr_x/config.yaml", "exp/asr_x/1epoch.pth")
        text, tokens, token_int, hypothesis = speech2text(speech)[0]

    The decode options are the fields of ``SamplerOptions``; a model trained with
    ``decoder: llama`` decodes greedily. ESPnet itself is imported only where the
    model's encoder is one of ESPnet's.
    """

    build_foreign = staticmethod(build_with_espnet)

    @overload
    def __call__(self, speech: Speech, utt_id: str = "utt") -> Result: ...
    @overload
    def __call__(
        self, speech: Sequence[Speech], utt_id: str = "utt"
    ) -> list[Result]: ...
    def __call__(self, speech, utt_id="utt"):
        """Transcribe one utterance, or a list of them as one batch.

        Args:
            speech: float32 (T,) at 16 kHz, or an audio file; or a list of those, as
                ESPnet 202611's ``Speech2Text`` and ESPnet3's ``batch_size`` have it.
            utt_id: decides random draws, together with ``seed``.

        Returns:
            [(text, tokens, token ids, hypothesis)]; of a list, a list of those, each
            as if its utterance had come alone.
        """
        if isinstance(speech, (list, tuple)):
            return self._run_batch(speech, utt_id, None)
        return self._run(speech, utt_id, None)


class Deliberator(_Deliberator):
    __doc__ = _Deliberator.__doc__
    build_foreign = staticmethod(build_with_espnet)
