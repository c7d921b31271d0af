"""What a decoder shows its LM before the response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.audio_embeddings import AudioEmbeddings
from espnet_llada.core.parts import Parts
from espnet_llada.core.prefix import Draft, Prefix, join
from espnet_llada.extensions.alignment import beside
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.draft_refinement import refined
from espnet_llada.extensions.placeholders import opened
from espnet_llada.extensions.posterior_prefix.ctc import best_path
from espnet_llada.extensions.posterior_prefix.words import (
    SILENT,
    WordProjection,
    mixtures,
)
from espnet_llada.extensions.whisper_scorer.reader import Reader

Show = Callable[[Tensor | None], Prefix]
"""Rows of a batch, (N,) int64, or all of them -> what the LM is shown."""


class Listening:
    """What was heard of a batch, before the LM is shown it.

    A draft that is sure of all its words needs no LM, and so no embeddings for one.

    Args:
        show: makes the prefix.
        rows: B.
        draft: what the CTC hears, where it was asked for, or what was read along.
    """

    def __init__(self, show: Show, rows: int, draft: Draft | None = None):
        self._show, self._count, self.draft = show, rows, draft

    @cached_property
    def prefix(self) -> Prefix:
        """What the LM is shown of all rows."""
        return self._show(None)

    def rows(self, chosen: Sequence[int]) -> Prefix:
        """What the LM is shown of some of the rows, or of all."""
        if len(chosen) == self._count:
            return self.prefix
        return self._show(torch.tensor(chosen, dtype=torch.long))


class Listener(Parts):
    """What is heard, once or along a transcript; arguments: ``Parts``."""

    def prefix(self, *heard: Any, **along: Any) -> Prefix:
        """Prompt and audio as embeddings; see ``listen``."""
        return self.listen(*heard, **along).prefix

    def listen(
        self,
        audio: Tensor | None,
        lengths: Tensor | None,
        batch: int = 0,
        transcripts: Sequence[Sequence[int]] | None = None,
        draft: bool = False,
        slots_below: float = 0.0,
        refine: int = 0,
        reader: Reader | None = None,
        alignment: CTCAlignment | None = None,
    ) -> Listening:
        """Prompt and audio, for the LM.

        Args:
            audio: (B, A, encoder_output_size), or None: the LM then sees the prompt
                alone (the paper's plain-text ablation).
            lengths: (B,) int64, audio vectors of each row.
            batch: B where there is no audio.
            transcripts: B rows of token ids, where the response begins as a transcript
                (deliberation): with ``audio_positions: beside`` the audio then stands
                beside its tokens, see ``extensions.alignment``, and a ``text_qformer``
                reads it along with them.
            draft: say what the CTC hears, as ``Listening.draft``. With a
                ``text_qformer`` it has one anyway: what was read along, as sure as it
                is of it.
            slots_below: above 0, the draft has a slot before each token that is less
                probable, see ``extensions.placeholders.opened``.
            refine: rounds in which the ``text_qformer`` corrects the CTC's draft before
                it is read along, see ``extensions.draft_refinement``.
            reader: of the audio, where there is one already.
            alignment: likewise.
        """
        if audio is None:
            return Listening(partial(self._plain, batch), batch)
        along = self.text_qformer is not None
        words = isinstance(self.projection, WordProjection)
        if alignment is None and (words or draft or along):
            alignment = self.alignment(audio, lengths)
        heard, own = self._windows(audio, lengths, draft or along, alignment)
        if along:
            reader = reader or self.reader(audio, alignment)
            return self._along(reader, heard, own, transcripts, refine, slots_below)
        aligned = transcripts is not None and self.audio_positions == "beside"

        def show(rows: Tensor | None) -> Prefix:
            shown = heard(rows)
            return self._join(
                beside(shown, _of(transcripts, rows)) if aligned else shown
            )

        return Listening(show, len(audio), own)

    def _plain(self, batch: int, rows: Tensor | None) -> Prefix:
        """The prompt alone."""
        prompt = self._prompt(batch if rows is None else len(rows))
        return Prefix(prompt, torch.ones_like(prompt[..., 0], dtype=torch.bool))

    def alignment(self, audio: Tensor, lengths: Tensor) -> CTCAlignment:
        """What the CTC makes of (B, A, encoder_output_size); with ``ctc``."""
        layer = self._vectors(audio), *self._ctc_layer(audio)
        words = isinstance(self.projection, WordProjection)
        windows = self.ctc.heard(*layer, lengths, SILENT if words else 0.0)
        return CTCAlignment(self.ctc, *layer, windows)

    def reader(self, audio: Tensor, alignment: CTCAlignment | None = None) -> Reader:
        """Reads texts along (B, A, encoder_output_size); with a ``text_qformer``."""
        words, eos = self.projection.words, self.special.eos
        return Reader(self.text_qformer, self._frames(audio), words, eos, alignment)

    def _along(
        self,
        reader: Reader,
        heard: Callable[[Tensor | None], AudioEmbeddings],
        own: Draft,
        transcripts: Sequence[Sequence[int]] | None,
        refine: int,
        slots_below: float,
    ) -> Listening:
        """Both readings, the second along the draft or along transcripts; see there."""
        eos = self.special.eos
        given = own.ids if transcripts is None else transcripts
        rounds = refine if transcripts is None else 0
        read = refined(reader, given, rounds)
        along = Draft([r.text for r in read], [])
        for text, sure in ((r.text, r.own[:-1]) for r in read):
            # What is behind the longest text that is read counts as sure.
            along.log_probs.append(sure + [0.0] * (len(text) - len(sure)))
        windows_count = transcripts is None and not refine
        own = own.doubted(along) if windows_count else along
        places = None
        if slots_below:
            ends = [r.own[-1] for r in read]
            own, places = opened(own, ends, slots_below, eos)

        def show(rows: Tensor | None) -> Prefix:
            found = [r.log_probs for r in _of(read, rows)]
            counts = torch.tensor([len(f) for f in found], device=found[0].device)
            log_probs = pad_sequence(found, batch_first=True)
            texts, on_canvas = _of(along.ids, rows), _of(places, rows)
            both = self._both(heard(rows), texts, log_probs, counts, on_canvas)
            return self._join(both)

        return Listening(show, len(read), own)

    def _prompt(self, batch: int) -> Tensor:
        prompt = torch.tensor([self.prompt_ids], device=self.lm.embedding.weight.device)
        return self.lm.embed(prompt.expand(batch, -1))

    def _join(self, heard: AudioEmbeddings) -> Prefix:
        prompt = self._prompt(len(heard.counts))
        return join(self.lm, prompt, heard, self.audio_positions)

    def _windows(
        self,
        audio: Tensor,
        lengths: Tensor,
        draft: bool,
        alignment: CTCAlignment | None,
    ) -> tuple[Callable[[Tensor | None], AudioEmbeddings], Draft | None]:
        """What makes the adapter's vectors as the LM sees them; a draft if needed."""
        own = Draft(*best_path(alignment.windows)) if draft else None
        projected, _ = self._ctc_layer(audio)

        def heard(rows: Tensor | None) -> AudioEmbeddings:
            if not isinstance(self.projection, WordProjection):
                whole = AudioEmbeddings(projected, lengths)
                return whole if rows is None else whole.rows(rows)
            windows = alignment.windows
            chosen = windows if rows is None else windows.rows(rows)
            return self.projection.view(chosen, self.lm.embedding.weight)

        return heard, own

    def _read(
        self, audio: Tensor, texts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What ``TextQFormer`` reads along a transcript of each row, in training."""
        words, eos = self.projection.words, self.special.eos
        return self.text_qformer(self._frames(audio), texts, words, eos)

    def _frames(self, audio: Tensor) -> Tensor:
        """The encoder's frames, which the adapter hands on behind its vectors."""
        return audio[..., self._width :].unflatten(2, (-1, self._width)).flatten(1, 2)

    def _both(
        self,
        heard: AudioEmbeddings,
        texts: Sequence[Sequence[int]],
        log_probs: Tensor,
        counts: Tensor,
        places: Sequence[Sequence[int]] | None = None,
    ) -> AudioEmbeddings:
        """What was heard beside transcripts, and what was read along them.

        ``places``: of the transcripts' tokens, and of their ends, on the canvas.
        """
        width = log_probs.shape[1]
        if places is None:
            numbers = torch.arange(width, device=counts.device).expand(len(texts), -1)
        else:
            rows = [[*row[:width], *[0] * (width - len(row))] for row in places]
            numbers = torch.tensor(rows, device=counts.device)
        table = self.lm.embedding.weight
        again = mixtures(log_probs.exp(), counts, table, numbers)
        again = replace(again, vectors=again.vectors + self.read_again)
        return beside(heard, texts, places).with_more(again)

    def _vectors(self, audio: Tensor) -> Tensor:
        """The adapter's vectors, without the frames that it hands on."""
        return audio[..., : self._width]

    def _ctc_layer(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.projection.ctc_layer(self._vectors(audio), self.lm.embedding.weight)

    def ctc_loss(
        self, audio: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> Tensor:
        """(B,), the auxiliary loss of each row; see ``AlignmentCTC``.

        Args:
            audio: (B, A, encoder_output_size).
            lengths: (B,) int64.
            text: (B, T) int64 transcripts.
            text_lengths: (B,) int64.
        """
        spoken = lengths, text, text_lengths
        return self.ctc(self._vectors(audio), *self._ctc_layer(audio), *spoken)


def _of(given: Sequence[Any] | None, rows: Tensor | None) -> Sequence[Any] | None:
    """What stands for some of the rows."""
    if given is None or rows is None:
        return given
    return [given[row] for row in rows.tolist()]
