"""``Speech2Text`` and ``Deliberator``, with ESPnet2's signature and result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.inference.options import job_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.waveform import check_samples
from espnet_llada.types import Hypothesis, LoadOptions, UserError

Result = list[tuple[str, list[str], list[int], Hypothesis]]
"""ESPnet's ``Speech2Text`` result: text, tokens, token ids, hypothesis; best first."""

Speech = np.ndarray | torch.Tensor | str | Path
"""float32 (T,) at 16 kHz, or an audio file."""


class InferenceAPI:
    """A loaded model that is called with one utterance.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: checkpoint of its trained tensors.
        device, lm, whisper, quantize_asr_model, trust_model: see ``LoadOptions``.
        use_audio, output_case: see ``Transcriber``.
        **options: see ``inference.options.make_options``; defaults are those of the
            decode.yaml next to ``asr_train_config``, if there is one.

    Raises:
        UserError: a file or an option does not fit.
    """

    task = "decode"

    def __init__(
        self,
        asr_train_config: str | Path,
        asr_model_file: str | Path,
        device: str = "cpu",
        use_audio: bool = True,
        output_case: str = "auto",
        lm: str | Path | None = None,
        whisper: str | Path | None = None,
        quantize_asr_model: bool = False,
        trust_model: bool = False,
        **options: Any,
    ):
        decoding = job_options(asr_train_config, self.task, options, use_audio)
        if decoding.deliberates != (self.task == "deliberate"):
            needed = "Deliberator" if decoding.deliberates else "Speech2Text"
            raise UserError(
                f"strategy {decoding.strategy}: is for {needed}, not for "
                f"{type(self).__name__}"
            )
        loading = LoadOptions(device, lm, whisper, quantize_asr_model, trust_model)
        files = asr_train_config, asr_model_file
        model = load_model(*files, loading)
        self.recognizer = Transcriber(model, decoding, use_audio, output_case)

    @classmethod
    def from_pretrained(
        cls, model_tag: str | Path, system: str = "llada", **options: Any
    ):
        """Load a directory, a packed zip, a tag or a hub id; see ``find_model``."""
        return cls(*find_model(model_tag, system), **options)

    def _run(self, speech: Speech, utt_id: str, transcript: str | None) -> Result:
        given = None if transcript is None else [transcript]
        return self._run_batch([speech], utt_id, given)[0]

    def _run_batch(
        self, batch: Sequence[Speech], utt_id: str, transcripts: list[str] | None
    ) -> list[Result]:
        """Each utterance as if decoded alone: all of them have the id ``utt_id``."""
        waveforms = [_waveform(speech, utt_id) for speech in batch]
        if not waveforms:
            return []
        ids = [utt_id] * len(waveforms)
        return [
            [(h.text, list(h.tokens), list(h.token_ids), h)]
            for h in self.recognizer(waveforms, ids, transcripts)
        ]


class Speech2Text(InferenceAPI):
    """Transcribes speech, as ``espnet2.bin.asr_inference.Speech2Text``.

        speech2text = Speech2Text("exp/asr_x/config.yaml", "exp/asr_x/1epoch.pth")
        text, tokens, token_int, hypothesis = speech2text(speech)[0]

    The options are those of ``inference.options``; a model trained with ``decoder:
    llama`` decodes greedily. ESPnet itself is imported only if the model's encoder is
    one of ESPnet's.
    """

    @overload
    def __call__(self, speech: Speech, utt_id: str = "utt") -> Result: ...
    @overload
    def __call__(
        self, speech: Sequence[Speech], utt_id: str = "utt"
    ) -> list[Result]: ...
    def __call__(self, speech, utt_id="utt"):
        """Transcribe one utterance, or a list of them as one batch.

        Args:
            speech: float32 (T,) at 16 kHz, or an audio file; or a list of those, as in
                ESPnet 202611's ``Speech2Text`` and with ESPnet3's ``batch_size``.
            utt_id: seeds random draws, together with ``seed``.

        Returns:
            [(text, tokens, token ids, hypothesis)]; for a list, a list of those, each
            as if its utterance had been decoded alone.
        """
        if isinstance(speech, (list, tuple)):
            return self._run_batch(speech, utt_id, None)
        return self._run(speech, utt_id, None)


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
            transcript: another recogniser's; of an empty one only the ``tail``
                positions are filled.
            utt_id: seeds the random masks, together with ``seed``.
        """
        if not isinstance(transcript, str) or isinstance(speech, (list, tuple)):
            raise UserError(
                "Deliberator takes one utterance and its transcript, a string; call it "
                "for each of several"
            )
        return self._run(speech, utt_id, transcript)


def _waveform(speech: Speech, utt_id: str) -> np.ndarray:
    if isinstance(speech, (str, Path)):
        from espnet_llada.io.audio.reading import load_audio

        return load_audio(speech)
    name = f"speech of utterance {utt_id}"
    if isinstance(speech, torch.Tensor):
        floats = speech.float() if speech.is_floating_point() else speech
        speech = floats.detach().cpu().numpy()
    if not isinstance(speech, np.ndarray):
        raise UserError(
            f"{name}: a {type(speech).__name__}; give an array, a tensor or a file"
        )
    if speech.dtype.kind != "f":
        raise UserError(
            f"{name}: {speech.dtype} samples; give floats in [-1, 1], of int16 those "
            "divided by 32768"
        )
    if speech.ndim != 1:
        raise UserError(
            f"{name}: shape {speech.shape}; give mono samples (T,), e.g. the mean over "
            "the channels"
        )
    if not len(speech):
        raise UserError(f"{name}: holds no samples")
    check_samples(name, speech)
    return speech.astype(np.float32, copy=False)
