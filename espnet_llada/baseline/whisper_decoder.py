"""Whisper's own decoder, behind the same call as ``Recognizer``: what it is all about.

Greedy, English, without timestamps, by the openai-whisper package, from the same file
that our encoder is taken from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_llada.io.waveform import split_long
from espnet_llada.networks.device import check_device
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.types import Hypothesis, UserError

_MEND = "pip install --no-deps openai-whisper==20250625 tiktoken more-itertools numba"


def plain_capitals(text: str) -> str:
    """Text as LibriSpeech writes it: capitals, no punctuation.

    What belongs to a number ($, %, a decimal point) stays: it is read aloud, and
    Whisper's normaliser knows it.
    """
    text = text.upper().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = re.sub(r"(?<!\d)[.,]|[.,](?!\d)", " ", text)
    return " ".join(re.sub(r"[^\w\s'.,$\u00a3\u20ac%]|_", " ", text).split())


class WhisperDecoder:
    """Whisper with its own decoder.

    Args:
        path: an openai-whisper ``.pt``.
        device: "cpu", "cuda", ...

    Raises:
        UserError: openai-whisper is not installed, or the weights are no such file.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        try:
            import whisper
        except ImportError as e:
            raise UserError(f"Whisper's own decoder needs {e.name}: {_MEND}") from e
        if not path.is_file():
            raise UserError(
                f"{path}: Whisper's own decoder needs an openai-whisper .pt file; "
                "take the row 'system: whisper' out"
            )
        check_device(device)
        self._whisper = whisper
        open_whisper(path, "decoder")  # refuses what is damaged, or holds code
        self._model = whisper.load_model(str(path), device=device)

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Transcribe a batch; see ``Recognizer``. ``score`` and tokens stay empty."""
        pieces = [split_long(w) for w in waveforms]
        flat = iter(self._decode([p for parts in pieces for p in parts]))
        return [_joined([next(flat) for _ in parts]) for parts in pieces]

    def _decode(self, waveforms: list[np.ndarray]) -> list[tuple[str, int]]:
        """Text and decoder passes of each."""
        whisper, model = self._whisper, self._model
        mels = [
            whisper.log_mel_spectrogram(whisper.pad_or_trim(w), model.dims.n_mels)
            for w in waveforms
        ]
        options = whisper.DecodingOptions(
            language="en",
            temperature=0.0,
            without_timestamps=True,
            fp16=model.device.type == "cuda",
        )
        results = whisper.decode(model, torch.stack(mels).to(model.device), options)
        return [(r.text, len(r.tokens) + 1) for r in results]  # and the end


def _joined(parts: list[tuple[str, int]]) -> Hypothesis:
    text = plain_capitals(" ".join(text for text, _ in parts))
    return Hypothesis(text, passes=sum(passes for _, passes in parts))
