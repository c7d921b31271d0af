"""The decoder: audio embeddings in front of an LM that denoises or continues."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_llada.core.confidence import RowRandom
from espnet_llada.core.head import OutputHead
from espnet_llada.core.objective import Loss, causal_loss, diffusion_loss, noisy_canvas
from espnet_llada.core.passes import Runner
from espnet_llada.core.prefix import Draft, Prefix
from espnet_llada.extensions.augmentation.misreading import misread
from espnet_llada.extensions.augmentation.rough import misheard, rough_audio, sprinkled
from espnet_llada.extensions.placeholders import Responses, with_slots
from espnet_llada.extensions.posterior_prefix.words import WordProjection


class LMDecoder(Runner):
    """The same class for Whisper-LLaDA and Whisper-LLaMA; arguments: ``Parts``."""

    @property
    def diffuses(self) -> bool:
        """True for LLaDA, False for LLaMA."""
        return self.lm.attention == "bidirectional"

    def loss(
        self,
        prefix: Prefix,
        text: Tensor,
        lengths: Tensor,
        seeds: Sequence[int] | None = None,
        longest: int | None = None,
        given: Tensor | None = None,
    ) -> Loss:
        """Training loss of a batch.

        Args:
            prefix: of B rows.
            text: (B, T) int64 transcripts.
            lengths: (B,) int64.
            seeds: of each row's masks; by default ``row_seeds``.
            longest: see ``core.objective.noisy_canvas``.
            given: (B, T) int64, what the response has where it is not masked; by
                default the text.
        """
        seeds = self.row_seeds(len(text)) if seeds is None else seeds
        given = text if given is None else given
        if not self.diffuses:
            head, hidden = self._next_token_hidden(prefix, given, lengths)
            return causal_loss(hidden, text, lengths, self.special.eos, head.nll)
        canvas = noisy_canvas(
            text,
            lengths,
            self.special,
            self.loss_name,
            [int(seed) for seed in seeds],
            self.canvas_slack,
            longest,
        )
        first, hidden = self.sequence_hidden(
            prefix, canvas.given(given, lengths), canvas.lengths
        )
        head = self.head(prefix, first)
        return diffusion_loss(hidden, canvas, self.loss_name, head.nll)

    def training_prefix(
        self,
        audio: Tensor,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        seeds: Sequence[int],
    ) -> tuple[Prefix, Responses, Tensor | None]:
        """Prompt and audio, and what the response is to be and already has.

        Args:
            audio: (B, A, encoder_output_size).
            lengths: (B,) int64.
            text: (B, T) int64 transcripts.
            text_lengths: (B,) int64.
            seeds: one for each row.

        Returns:
            The prefix; the responses: the text itself but for ``misheard`` and
            ``slots`` in training; and (B,), the weighted loss of the ``text_qformer``,
            if there is one.
        """
        alignment, along = None, self.text_qformer is not None
        if isinstance(self.projection, WordProjection):
            alignment = self.alignment(audio, lengths)
        windows, own = self._windows(audio, lengths, along, alignment)
        heard = windows(None)
        given = text = text.clamp(min=0)  # ESPnet pads with -1
        if self.training:
            given = misheard(given, heard, self.misheard, other_seeds(seeds))
        if self.text_qformer is None:
            return self._join(heard), Responses(text, given, text_lengths, []), None
        responses = self._responses(own, text, given, text_lengths, seeds)
        texts = responses.transcripts
        log_probs, counts = self._read(audio, texts)
        heard = self._both(heard, texts, log_probs, counts, responses.places)
        extra = None
        if weight := self.text_qformer.weight:
            said = text, text_lengths, self.special.eos
            extra = weight * self.text_qformer.loss(log_probs, texts, *said)
        return self._join(heard), responses, extra

    def _responses(
        self,
        draft: Draft,
        text: Tensor,
        given: Tensor,
        lengths: Tensor,
        seeds: Sequence[int],
    ) -> Responses:
        """Along the drafts; in training ``first_pass`` of the rows along their own."""
        share = self.text_qformer.first_pass
        if not (self.training and share):
            return Responses(text, given, lengths, list(draft.ids))
        random = RowRandom(other_seeds([int(seed) + 1 for seed in seeds]), "cpu")
        draws = random.uniform(torch.ones(len(given), dtype=torch.long), 1)[:, 0]
        rows = zip(draws.tolist(), given.tolist(), lengths.tolist(), strict=True)
        texts = [
            row[:size] if draw < share else own
            for own, (draw, row, size) in zip(draft.ids, rows, strict=True)
        ]
        plain = Responses(text, given, lengths, texts)
        if not self.slots:
            return plain
        others = other_seeds([int(seed) + 2 for seed in seeds])
        return with_slots(plain, draft.ids, self.slots, self.special.eos, others)

    def reading_loss(
        self, frames: Tensor, text: Tensor, lengths: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        """(B,), nats for each token, of a ``text_qformer`` that is trained alone.

        Args:
            frames: (B, F, d_model) of the encoder.
            text: (B, T) int64 transcripts.
            lengths: (B,) int64.
            seeds: one for each row.
        """
        rows = zip(text.tolist(), lengths.tolist(), strict=True)
        texts, eos = [row[:size] for row, size in rows], self.special.eos
        words = self.projection.words
        if self.training:
            with torch.no_grad():
                own, _ = self.text_qformer(frames, texts, words, eos)
            texts = misread(texts, own, eos, other_seeds(seeds))
        log_probs, _ = self.text_qformer(frames, texts, words, eos)
        return self.text_qformer.loss(log_probs, texts, text, lengths, eos)

    def rough_prefix(
        self, text: Tensor, lengths: Tensor, seeds: Sequence[int]
    ) -> Prefix:
        """Prompt and ``rough_audio`` of transcripts; see there."""
        return self._join(rough_audio(text, lengths, self.lm.embedding.weight, seeds))

    def sprinkled(self, text: Tensor, lengths: Tensor, seeds: Sequence[int]) -> Tensor:
        """Transcripts with ``text_random`` of their tokens replaced."""
        others = other_seeds(seeds)
        drawn = sprinkled(text, lengths, self.text_random, self.lm.vocab_size, others)
        return torch.where(drawn == self.special.eos, text, drawn)

    def row_seeds(self, rows: int) -> list[int]:
        """What decides the random draws of each row of a batch.

        In training torch's global random state, in evaluation the row's number alone.
        """
        return (
            torch.randint(2**62, (rows,)).tolist() if self.training else [*range(rows)]
        )

    def next_token_logits(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> Tensor:
        """(B, T + 1, V): position i predicts token i, the last one the end."""
        return self.all_logits(*self._next_token_hidden(prefix, text, lengths))

    def _next_token_hidden(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> tuple[OutputHead, Tensor]:
        """(B, T + 1, d): the last of the prefix, and the response."""
        text = text.clamp(min=0)  # ESPnet pads with -1
        first, rest = self.sequence_hidden(prefix, text, lengths)
        last = last_valid(first, prefix.valid)
        return self.head(prefix, first), self.lm.join(last[:, None], rest)


def other_seeds(seeds: Sequence[int]) -> list[int]:
    """For other draws than those of the masks and of the audio."""
    return [~int(seed) & (2**62 - 1) for seed in seeds]


def last_valid(hidden: Tensor, valid: Tensor) -> Tensor:
    """The last valid position of each row: (B, P, d), (B, P) -> (B, d)."""
    places = torch.arange(valid.shape[1], device=valid.device)
    last = (valid * places).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
