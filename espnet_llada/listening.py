"""What a decoder shows its LM before the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.adapter.ctc import best_path
from espnet_llada.adapter.heard import Heard
from espnet_llada.adapter.numbering import beside
from espnet_llada.adapter.reader import Reader
from espnet_llada.adapter.refining import refined
from espnet_llada.adapter.words import WordProjection, mixtures
from espnet_llada.parts import Parts
from espnet_llada.prefix import Draft, Prefix, join
from espnet_llada.slots import opened


class Listener(Parts):
    """What is heard, once or along a transcript; arguments: ``Parts``."""

    def prefix(
        self,
        audio: Tensor | None,
        lengths: Tensor | None,
        batch: int = 0,
        transcripts: Sequence[Sequence[int]] | None = None,
        draft: bool = False,
        slots_below: float = 0.0,
        refine: int = 0,
        reader: Reader | None = None,
    ) -> Prefix:
        """Prompt and audio as embeddings.

        Args:
            audio: (B, A, encoder_output_size), or None: the LM then sees the prompt
                alone (the paper's plain-text ablation).
            lengths: (B,) int64, audio vectors of each row.
            batch: B where there is no audio.
            transcripts: B rows of token ids, where the response begins as a transcript
                (deliberation): with ``audio_positions: beside`` the audio then stands
                beside its tokens, see ``adapter.numbering``, and a ``text_qformer``
                reads it along with them.
            draft: give the prefix what the CTC hears, as ``Prefix.draft``. With a
                ``text_qformer`` it has one anyway: what was read along, as sure as it
                is of it.
            slots_below: above 0, the draft has a slot before each token that is less
                probable, see ``slots.opened``.
            refine: rounds in which the ``text_qformer`` corrects the CTC's draft before
                it is read along, see ``adapter.refining``.
            reader: of the audio, where there is one already.
        """
        if audio is None:
            prompt = self._prompt(batch)
            return Prefix(prompt, torch.ones_like(prompt[..., 0], dtype=torch.bool))
        heard, own = self._windows(audio, lengths, draft)
        if self.text_qformer is not None:
            reader = reader or self.reader(audio)
            heard, own = self._along(
                reader, heard, own, transcripts, refine, slots_below
            )
        elif transcripts is not None and self.audio_positions == "beside":
            heard = beside(heard, transcripts)
        return self._join(heard, own)

    def reader(self, audio: Tensor) -> Reader:
        """Reads texts along (B, A, encoder_output_size); with a ``text_qformer``."""
        words, eos = self.projection.words, self.special.eos
        return Reader(self.text_qformer, self._frames(audio), words, eos)

    def _along(
        self,
        reader: Reader,
        heard: Heard,
        own: Draft,
        transcripts: Sequence[Sequence[int]] | None,
        refine: int,
        slots_below: float,
    ) -> tuple[Heard, Draft]:
        """Both readings, the second along the draft or along transcripts; see there."""
        eos, device = self.special.eos, heard.counts.device
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
        counts = torch.tensor([len(r.log_probs) for r in read], device=device)
        log_probs = pad_sequence([r.log_probs for r in read], batch_first=True)
        return self._both(heard, along.ids, log_probs, counts, places), own

    def _prompt(self, batch: int) -> Tensor:
        prompt = torch.tensor([self.prompt_ids], device=self.lm.embedding.weight.device)
        return self.lm.embed(prompt.expand(batch, -1))

    def _join(self, heard: Heard, draft: Draft | None = None) -> Prefix:
        prompt = self._prompt(len(heard.counts))
        return join(self.lm, prompt, heard, self.audio_positions, draft)

    def _windows(
        self, audio: Tensor, lengths: Tensor, draft: bool
    ) -> tuple[Heard, Draft | None]:
        """The adapter's vectors as the LM sees them; the draft if asked or needed."""
        layer = self._ctc_layer(audio)
        words = isinstance(self.projection, WordProjection)
        draft = draft or self.text_qformer is not None
        log_probs = own = None
        if words or draft:
            log_probs = self.ctc.log_probs(self._vectors(audio), *layer)
        if draft:
            own = Draft(*best_path(log_probs, lengths))
        if not words:
            return Heard(layer[0], lengths), own
        table = self.lm.embedding.weight
        return self.projection.view(log_probs, lengths, table), own

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
        heard: Heard,
        texts: Sequence[Sequence[int]],
        log_probs: Tensor,
        counts: Tensor,
        places: Sequence[Sequence[int]] | None = None,
    ) -> Heard:
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
