"""What ``Speech2Text`` and ``Deliberator`` share: loading, options, results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_llada.audio.io import load_audio
from espnet_llada.loading import Builder, find_model, load_model
from espnet_llada.recognizer import Recognizer
from espnet_llada.types import Hypothesis, SamplerOptions, UserError

Result = list[tuple[str, list[str], list[int], Hypothesis]]
"""ESPnet's ``Speech2Text`` result: text, tokens, token ids, hypothesis; best first."""


class InferenceAPI:
    """A loaded model behind a call for one utterance.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: checkpoint of its trained tensors.
        device: "cpu", "cuda", …
        use_audio: see ``Recognizer``.
        output_case: see ``Recognizer``.
        **options: fields of ``SamplerOptions``.

    Raises:
        UserError: a file or an option does not fit.
    """

    default_strategy = "diffusion"
    build_foreign: Builder | None = None

    def __init__(
        self,
        asr_train_config: str | Path,
        asr_model_file: str | Path,
        device: str = "cpu",
        use_audio: bool = True,
        output_case: str = "upper",
        **options: Any,
    ):
        sampler_options = make_options({"strategy": self.default_strategy, **options})
        builder = type(self).build_foreign
        model = load_model(asr_train_config, asr_model_file, device, builder)
        self.recognizer = Recognizer(model, sampler_options, use_audio, output_case)

    @classmethod
    def from_pretrained(cls, model: str | Path, system: str = "llada", **options: Any):
        """Load a model directory, a tag or a hub id; see ``loading.find_model``."""
        return cls(*find_model(model, system), **options)

    def _run(
        self,
        speech: np.ndarray | torch.Tensor | str | Path,
        utt_id: str,
        transcript: str | None,
    ) -> Result:
        if isinstance(speech, (str, Path)):
            speech = load_audio(speech)
        waveform = np.asarray(speech, dtype=np.float32)
        if waveform.ndim != 1 or not len(waveform):
            raise UserError(
                f"speech of utterance {utt_id}: expected a mono waveform (samples,), "
                f"got shape {waveform.shape}"
            )
        given = None if transcript is None else [transcript]
        hypothesis = self.recognizer([waveform], [utt_id], given)[0]
        tokens, ids = list(hypothesis.tokens), list(hypothesis.token_ids)
        return [(hypothesis.text, tokens, ids, hypothesis)]


def make_options(values: Mapping[str, Any]) -> SamplerOptions:
    """``SamplerOptions`` from keywords.

    Raises:
        UserError: an unknown name or a value that does not fit.
    """
    known = {f.name for f in fields(SamplerOptions)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"unknown option '{unknown[0]}'; known: {sorted(known)}")
    return SamplerOptions(**values)
