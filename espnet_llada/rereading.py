"""What becomes of a text when the audio is read along it: once, checked, and again."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from espnet_llada.decoder import LMDecoder
from espnet_llada.prefix import Prefix
from espnet_llada.sampler import Canvas, SamplerResult, transcript_canvas
from espnet_llada.types import SamplerOptions, SpecialTokens


class Fill(Protocol):
    """The sampler, for one batch."""

    def __call__(self, prefix: Prefix, canvas: Canvas, **instead: str) -> SamplerResult:
        """Fill a canvas; ``instead``: other options than the batch's."""


def word_places(tokens: list[int], special: SpecialTokens) -> list[int]:
    """Where on a canvas its words are; the release leaves masks, slots leave EOS."""
    nothing = special.mask, special.eos
    return [i for i, token in enumerate(tokens) if token not in nothing]


class Rereader:
    """Fills canvases over texts that the audio was read along.

    Args:
        decoder: one with a ``text_qformer``, where anything is read again.
        options: ``readings``, ``slots_below``, ``verify``, ``tail``.
        audio: (B, A, width) of the adapter and (B,) int64, vectors of each row.
        fill: see there.
    """

    def __init__(
        self,
        decoder: LMDecoder,
        options: SamplerOptions,
        audio: tuple[Tensor, Tensor],
        fill: Fill,
    ):
        self.decoder, self.options, self.fill = decoder, options, fill
        self.audio, self.sizes = audio

    def filled(self, prefix: Prefix, **instead: str) -> SamplerResult:
        """What becomes of the prefix's own draft."""
        return self._verified(prefix, **instead)[1]

    def again(self, result: SamplerResult) -> SamplerResult:
        """The further readings, each along what the one before has made."""
        for _ in range(self.options.readings - 1):
            places = self._places(result.tokens)
            texts = _chosen(result.tokens, places)
            below = self.options.slots_below
            prefix = self.decoder.prefix(
                self.audio, self.sizes, transcripts=texts, slots_below=below
            )
            canvas, found = self._verified(prefix, strategy="mask_ctc")
            before = torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
            own = self._places(canvas.tokens)
            for row, pair in enumerate(zip(own, places, strict=True)):
                before[row, pair[0]] = result.log_probs[row, pair[1]]
            result = found.after(before, result.passes)
        return result

    def _verified(self, prefix: Prefix, **instead: str) -> tuple[Canvas, SamplerResult]:
        """Canvas and result; with ``verify`` no text that reading finds less likely."""
        draft, special = prefix.draft, self.decoder.special
        canvas = transcript_canvas(
            draft.ids,
            special,
            self.options.tail,
            self.audio.device,
            draft.log_probs,
        )
        result = self.fill(prefix, canvas, **instead)
        if not self.options.verify:
            return canvas, result
        old, new = (
            _chosen(tokens, self._places(tokens))
            for tokens in (canvas.tokens, result.tokens)
        )
        changed = [row for row, text in enumerate(old) if text != new[row]]
        if not changed:
            return canvas, result
        rows = torch.tensor(changed, device=self.audio.device)
        before, after = (
            self.decoder.likelihood(self.audio[rows], [texts[row] for row in changed])
            for texts in (old, new)
        )
        worse = rows[after < before]
        tokens, log_probs = result.tokens.clone(), result.log_probs.clone()
        tokens[worse], log_probs[worse] = canvas.tokens[worse], 0.0
        return canvas, SamplerResult(tokens, log_probs, result.passes)

    def _places(self, tokens: Tensor) -> list[list[int]]:
        return [word_places(row, self.decoder.special) for row in tokens.tolist()]


def _chosen(tokens: Tensor, places: list[list[int]]) -> list[list[int]]:
    rows = zip(tokens.tolist(), places, strict=True)
    return [[row[i] for i in there] for row, there in rows]
