"""What becomes of a text when the audio is read along it: once, checked, and again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.canvas import Canvas, transcript_canvas
from espnet_llada.core.decoder import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import LogitsProcessor, SamplerResult
from espnet_llada.extensions.alignment import corrections
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.joint_decoding import Leading
from espnet_llada.extensions.posterior_prefix.listening import Listening
from espnet_llada.extensions.whisper_scorer.reader import spelled
from espnet_llada.types import SpecialTokens

MARGIN, OWN_MARGIN = 1.0, 2.0
"""Nats by which a change has to make a text likelier: most of what gains less was right
before; twice as many where the judge speaks for its own text. Chosen on the mini
models' synthetic speech."""


class Fill(Protocol):
    """The sampler, for one batch."""

    def __call__(
        self,
        heard: Listening,
        canvas: Canvas,
        beside: LogitsProcessor | None = None,
    ) -> SamplerResult:
        """Fill a canvas."""


def word_places(tokens: list[int], special: SpecialTokens) -> list[int]:
    """Where on a canvas its words are; the release leaves masks, slots leave EOS."""
    nothing = special.mask, special.eos
    return [i for i, token in enumerate(tokens) if token not in nothing]


class Rereader:
    """Fills canvases over texts that the audio was read along.

    Args:
        decoder: one with a ``text_qformer``, where anything is read again.
        options: ``refine``, ``slots_below``, ``verify``, ``tail``,
            ``reader_weight``.
        audio: (B, A, width) of the adapter and (B,) int64, vectors of each row.
        fill: see there.
        alignment: of the same audio, where the model has a CTC.
    """

    def __init__(
        self,
        decoder: LMDecoder,
        options: SamplerOptions,
        audio: tuple[Tensor, Tensor],
        fill: Fill,
        alignment: CTCAlignment | None = None,
    ):
        self.decoder, self.options, self._fill = decoder, options, fill
        self.audio, self.sizes = audio
        self.reader, self.alignment = None, alignment
        if decoder.text_qformer is not None:
            self.reader = decoder.reader(audio[0], alignment)

    def listen(self, **along: Any) -> Listening:
        """Prompt and audio; ``along``: see ``LMDecoder.listen``."""
        given = {"reader": self.reader, "alignment": self.alignment}
        return self.decoder.listen(self.audio, self.sizes, **given, **along)

    def fill(self, heard: Listening, canvas: Canvas) -> SamplerResult:
        """Fill a canvas, jointly with the reader where ``reader_weight`` says so."""
        beside, weight = None, self.options.reader_weight
        if weight:
            resizes, special = self.options.resizes, self.decoder.special
            beside = Leading(self.reader, weight, special, canvas.tokens, resizes)
        return self._fill(heard, canvas, beside)

    def filled(self, heard: Listening) -> SamplerResult:
        """What becomes of the draft that was heard.

        With ``verify`` none of its changes but those that make it likelier.
        """
        canvas = transcript_canvas(
            heard.draft.ids,
            self.decoder.special,
            self.options.tail,
            self.audio.device,
            heard.draft.log_probs,
        )
        result = self.fill(heard, canvas)
        if not self.options.verify:
            return result
        given = torch.zeros_like(result.log_probs)
        none = torch.zeros_like(result.passes)
        return self._confirmed(SamplerResult(canvas.tokens, given, none), result)

    def with_opinion(self, result: SamplerResult) -> SamplerResult:
        """With ``second_opinion``, what of the reader's own text it is surer of."""
        if not self.options.second_opinion:
            return result
        longest, eos = self.options.canvas_length, self.decoder.special.eos
        texts, sure = spelled(self.reader, len(self.sizes), longest)
        there = self._places(result.tokens)
        given = _chosen(result.tokens, there)
        for row, text in enumerate(texts):
            if len(text) == longest:  # broken off, so no opinion
                texts[row], sure[row] = given[row], [0.0] * len(given[row])
        canvas = transcript_canvas(
            texts, self.decoder.special, 0, self.audio.device, sure
        )
        own = SamplerResult(
            canvas.tokens, canvas.confidence, torch.zeros_like(result.passes)
        )
        old, new = _side_by_side(result, there, own, self._places(own.tokens), eos)
        agreed = old.tokens == new.tokens  # and as sure as before
        new = replace(new, log_probs=new.log_probs.masked_fill(agreed, 0.0))
        return self._confirmed(old, new, OWN_MARGIN)

    def _confirmed(
        self, old: SamplerResult, new: SamplerResult, margin: float = MARGIN
    ) -> SamplerResult:
        """The old text with those changes that make it likelier, each by itself.

        Args:
            old: (B, L) tokens, EOS where the new text has more.
            new: (B, L), likewise; it has taken passes of its own.
            margin: nats, see ``MARGIN``.
        """
        changed = old.tokens != new.tokens
        undone = self._unlikely(old.tokens, new.tokens, changed, margin)
        # What neither has decided anew is as sure as it was.
        kept = undone | ~changed & (new.log_probs == 0.0)
        return SamplerResult(
            torch.where(undone, old.tokens, new.tokens),
            torch.where(kept, old.log_probs, new.log_probs),
            old.passes + new.passes,
        )

    def _unlikely(
        self, old: Tensor, new: Tensor, changed: Tensor, margin: float
    ) -> Tensor:
        """(B, L) bool: changes that do not make their text likelier."""
        begins = changed & ~F.pad(changed, (1, 0))[:, :-1]
        # Positions side by side are one change; 0 is none.
        numbers = begins.cumsum(dim=1).masked_fill(~changed, 0)
        counts = numbers.amax(dim=1).tolist() if numbers.shape[1] else []
        tries = [
            (r, k) for r, count in enumerate(counts) for k in range(count + 1) if count
        ]
        if not tries:
            return torch.zeros_like(changed)
        rows, tried = torch.tensor(tries, device=old.device).T
        one = changed[rows] & (numbers[rows] == tried[:, None])
        tokens = torch.where(one, new[rows], old[rows])
        texts = _chosen(tokens, self._places(tokens))
        texts = list(zip(rows.tolist(), texts, strict=True))
        given = _chosen(old, self._places(old))
        likely = torch.tensor(self.reader.likelihoods(texts), device=old.device)
        changes = [(row, given[row], text) for row, text in texts]
        likely += torch.tensor(self.reader.objections(changes), device=old.device)
        before = likely.new_zeros(len(old))
        before[rows[tried == 0]] = likely[tried == 0]
        worse = one & (likely < before[rows] + margin)[:, None]
        return torch.zeros_like(changed).long().index_add(0, rows, worse.long()) > 0

    def _places(self, tokens: Tensor) -> list[list[int]]:
        return [word_places(row, self.decoder.special) for row in tokens.tolist()]


def _chosen(tokens: Tensor, places: list[list[int]]) -> list[list[int]]:
    rows = zip(tokens.tolist(), places, strict=True)
    return [[row[i] for i in there] for row, there in rows]


def _side_by_side(
    old: SamplerResult,
    old_places: list[list[int]],
    new: SamplerResult,
    new_places: list[list[int]],
    eos: int,
) -> tuple[SamplerResult, SamplerResult]:
    """Two texts of each row, token beside like token; EOS where one has none."""
    texts = _chosen(old.tokens, old_places), _chosen(new.tokens, new_places)
    rows = [corrections(*pair, eos) for pair in zip(*texts, strict=True)]
    sides = [[before for _, before in row] for row in rows]
    others = [[after for after, _ in row] for row in rows]
    return _spread(old, old_places, sides, eos), _spread(new, new_places, others, eos)


def _spread(
    result: SamplerResult, places: list[list[int]], rows: list[list[int]], eos: int
) -> SamplerResult:
    """The same texts on a longer canvas: rows of their tokens, with EOS between."""
    sure = []
    for row, there, log_probs in zip(rows, places, result.log_probs, strict=True):
        values = iter(log_probs[there].tolist())
        sure.append([0.0 if token == eos else next(values) for token in row])
    tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
    log_probs = [torch.tensor(row) for row in sure]
    device = result.tokens.device
    return SamplerResult(
        pad_sequence(tokens, batch_first=True, padding_value=eos).to(device),
        pad_sequence(log_probs, batch_first=True).to(device),
        result.passes,
    )
