"""The canvas of one utterance, pass by pass."""

from __future__ import annotations

import math

import numpy as np

from espnet_llada.core.recognizer import Recognizer
from espnet_llada.core.sampler import Pass
from espnet_llada.types import Cell, Frame, Hypothesis


def trace(
    recognizer: Recognizer,
    waveform: np.ndarray,
    utt_id: str,
    transcript: str | None = None,
) -> tuple[Hypothesis, list[Frame]]:
    """Recognise an utterance and keep what each forward pass has done.

    Args:
        recognizer: of a masked-diffusion model.
        waveform: float32 (T,) at 16 kHz. Of one that decoding cuts (over 30 s) the
            frames show the first piece.
        utt_id: decides the random masks.
        transcript: the first pass, for a deliberation strategy.

    Returns:
        The hypothesis that the recognizer gives without a trace too, and a frame
        after each pass and after each masking; a last one where that has other words
        than the last canvas. Nothing masked: no frame.
    """
    passes: list[Pass] = []
    recognizer.on_pass = passes.append
    try:
        given = None if transcript is None else [transcript]
        (hypothesis,) = recognizer([waveform], [utt_id], given)
    finally:
        recognizer.on_pass = None
    frames: list[Frame] = []
    if own := [p for p in passes if p.rows[0]]:
        frames = _Trace(recognizer.model.decoder, own).frames()
    if frames and not _says(frames[-1], hypothesis):
        frames.append(_kept(hypothesis))
    return hypothesis, frames


def _says(frame: Frame, hypothesis: Hypothesis) -> bool:
    words = tuple(cell.token for cell in frame.cells if cell.token and not cell.end)
    return words == hypothesis.tokens


def _kept(hypothesis: Hypothesis) -> Frame:
    pairs = zip(hypothesis.tokens, hypothesis.confidence, strict=True)
    # Certainty is that of a token which was given.
    cells = [Cell(t, probability=p if p < 1.0 else None) for t, p in pairs]
    return Frame("kept", hypothesis.passes, tuple(cells))


class _Trace:
    """Row 0 of the passes as frames."""

    def __init__(self, decoder, passes: list[Pass]):
        self.special, self.tokenizer = decoder.special, decoder.tokenizer
        self.passes = passes
        seen = [p.seen[0].tolist() for p in passes]
        self.given = [
            self.special.mask not in column for column in zip(*seen, strict=True)
        ]
        self.probabilities: list[float | None] = [None] * len(self.given)

    def frames(self) -> list[Frame]:
        frames: list[Frame] = []
        shown: list[int] | None = None  # the tokens of the last frame
        for number, p in enumerate(self.passes):
            seen, tokens = p.seen[0].tolist(), p.tokens[0].tolist()
            committed = p.committed[0].tolist()
            measures = not any(committed) and self.special.mask not in seen
            if seen != shown and not measures:
                self._forget(shown, seen)
                frames.append(self._frame("masked", number, seen))
            values = p.log_probs[0].tolist()
            self._forget(seen, tokens)
            for i, decided in enumerate(committed):
                if decided or measures:
                    self.probabilities[i] = math.exp(values[i])
            kind = "measured" if measures else "pass"
            frames.append(self._frame(kind, number + 1, tokens, committed))
            shown = tokens
        return frames

    def _forget(self, before: list[int] | None, after: list[int]) -> None:
        """A token that went has taken its probability with it."""
        for i, token in enumerate(after):
            if before is not None and token != before[i]:
                self.probabilities[i] = None

    def _frame(
        self,
        kind: str,
        passes: int,
        ids: list[int],
        committed: list[bool] | None = None,
    ) -> Frame:
        now = committed or [False] * len(ids)
        names = self.tokenizer.tokens([t for t in ids if t != self.special.mask])
        known = iter(names)
        cells = []
        for i, token in enumerate(ids):
            if token == self.special.mask:
                cells.append(Cell(""))
                continue
            p, end = self.probabilities[i], token == self.special.eos
            cells.append(Cell(next(known), now[i], self.given[i], p, end))
        return Frame(kind, passes, tuple(cells))
