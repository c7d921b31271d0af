"""What becomes of a text when the audio is read along it: once, checked, and again."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
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

    def filled(self, prefix: Prefix) -> SamplerResult:
        """What becomes of the prefix's own draft."""
        return self._verified(prefix)[1]

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
        """Canvas and result; with ``verify`` no change that makes it less likely."""
        draft, special = prefix.draft, self.decoder.special
        canvas = transcript_canvas(
            draft.ids,
            special,
            self.options.tail,
            self.audio.device,
            draft.log_probs,
        )
        result = self.fill(prefix, canvas, **instead)
        if self.options.verify:
            result = self._confirmed(canvas, result)
        return canvas, result

    def _confirmed(self, canvas: Canvas, result: SamplerResult) -> SamplerResult:
        """With those changes that make the text likelier, each of them by itself."""
        old, new = canvas.tokens, result.tokens
        changed = old != new
        begins = changed & ~F.pad(changed, (1, 0))[:, :-1]
        # Positions side by side are one change; 0 is none.
        numbers = begins.cumsum(dim=1).masked_fill(~changed, 0)
        counts = numbers.amax(dim=1).tolist() if numbers.shape[1] else []
        tries = [
            (r, k) for r, count in enumerate(counts) for k in range(count + 1) if count
        ]
        if not tries:
            return result
        rows, tried = torch.tensor(tries, device=old.device).T
        one = changed[rows] & (numbers[rows] == tried[:, None])
        tokens = torch.where(one, new[rows], old[rows])
        texts = _chosen(tokens, self._places(tokens))
        likely = self.decoder.likelihood(self.audio, rows, texts)
        before = likely.new_zeros(len(old))
        before[rows[tried == 0]] = likely[tried == 0]
        worse = one & (likely < before[rows])[:, None]
        undone = torch.zeros_like(changed).long().index_add(0, rows, worse.long()) > 0
        return SamplerResult(
            torch.where(undone, old, new),
            result.log_probs.masked_fill(undone, 0.0),
            result.passes,
        )

    def _places(self, tokens: Tensor) -> list[list[int]]:
        return [word_places(row, self.decoder.special) for row in tokens.tolist()]


def _chosen(tokens: Tensor, places: list[list[int]]) -> list[list[int]]:
    rows = zip(tokens.tolist(), places, strict=True)
    return [[row[i] for i in there] for row, there in rows]
