"""The decoder: audio embeddings in front of an LM that denoises or continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from espnet_llada.listening import Listener, Listening
from espnet_llada.lm.cache import KVCache
from espnet_llada.misreading import misread
from espnet_llada.objective import Loss, causal_loss, diffusion_loss, noisy_canvas
from espnet_llada.pointer import Head
from espnet_llada.prefix import Draft, Prefix
from espnet_llada.rough import misheard, rough_audio, sprinkled
from espnet_llada.sampler.confidence import RowRandom
from espnet_llada.slots import Responses, with_slots


class LMDecoder(Listener):
    """The same class for Whisper-LLaDA and Whisper-LLaMA; arguments: ``Parts``."""

    @property
    def diffuses(self) -> bool:
        """True for LLaDA, False for LLaMA."""
        return self.lm.attention == "bidirectional"

    def sequence_hidden(
        self,
        prefix: Prefix,
        tokens: Tensor,
        lengths: Tensor,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of prefix and response, one LLM pass.

        Args:
            prefix: of B rows, P positions.
            tokens: (B, L) int64.
            lengths: (B,) int64, response positions of each row.
            cache: an empty one, to be filled.

        Returns:
            (B, P, d) and (B, L, d).
        """
        embeds = self.lm.join(prefix.embeds, self.lm.embed(tokens))
        valid, behind = _behind(prefix, tokens, lengths)
        positions = torch.cat([prefix.positions, behind], dim=1)
        length = prefix.valid.shape[1]
        blind = length if self.prefix_blind else 0
        hidden = self.lm(embeds, valid, cache, positions, blind)
        return hidden[:, :length], hidden[:, length:]

    def head(self, prefix: Prefix, hidden: Tensor) -> Head:
        """What makes tokens of hidden states.

        Args:
            prefix: of B rows, P positions.
            hidden: (B, P, d), its own hidden states.
        """
        heard = prefix.heard
        if self.pointer is None or heard is None:
            return Head(self.lm)
        audio = hidden[:, prefix.begins :][:, : heard.vectors.shape[1]]
        return Head(self.lm, self.pointer, heard, audio)

    def _pass(
        self, prefix: Prefix, tokens: Tensor, lengths: Tensor
    ) -> tuple[Prefix, Tensor]:
        """As ``sequence_hidden``; the prefix keeps what the next pass can use."""
        if prefix.cache is not None:
            valid, behind = _behind(prefix, tokens, lengths)
            embeds, cache = self.lm.embed(tokens), prefix.cache.fixed()
            return prefix, self.lm(embeds, valid, cache, behind)
        cache = KVCache() if self.prefix_blind else None
        first, hidden = self.sequence_hidden(prefix, tokens, lengths, cache)
        if cache is not None:
            cache = cache.beginning(prefix.valid.shape[1])
        return replace(prefix, cache=cache, hidden=first), hidden

    def canvas_logits(self, prefix: Prefix, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, L, V) of all positions of a canvas; see ``sequence_hidden``."""
        first, hidden = self.sequence_hidden(prefix, tokens, lengths)
        return self._all_logits(self.head(prefix, first), hidden)

    def _all_logits(self, head: Head, hidden: Tensor) -> Tensor:
        everywhere = torch.ones_like(hidden[..., 0], dtype=torch.bool)
        return head.logits(hidden, everywhere).unflatten(0, hidden.shape[:2])

    def logits_fn(
        self, heard: Listening, lengths: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """What the sampler calls, one LLM pass at a time; see ``sampler.LogitsFn``.

        Rows of which nothing is wanted are left out, the head runs on the wanted
        positions only, and a prefix that is blind to the response runs once, with the
        first pass: the same logits as ``canvas_logits``, for less.
        """
        prefix: Prefix | None = None
        held: list[int] = []

        def logits(tokens: Tensor, wanted: Tensor) -> Tensor:
            nonlocal prefix, held
            asked = wanted.any(dim=1).tolist()
            rows = [row for row, any_of_it in enumerate(asked) if any_of_it]
            if not rows:
                return self.lm.logits(self.lm.embedding.weight[:0])
            if prefix is None or not set(rows) <= set(held):
                prefix = heard.rows(rows)
            elif len(rows) < len(held):
                chosen = torch.tensor([held.index(row) for row in rows])
                prefix = prefix.rows(chosen.to(lengths.device))
            held, sizes = rows, lengths
            if len(rows) < len(tokens):
                sizes = lengths[rows]
                width = int(sizes.max())
                tokens, wanted = tokens[rows, :width], wanted[rows, :width]
            prefix, hidden = self._pass(prefix, tokens, sizes)
            return self.head(prefix, prefix.hidden).logits(hidden, wanted)

        return logits

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
            longest: see ``objective.noisy_canvas``.
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
        windows, own = self._windows(audio, lengths, draft=False)
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
        return self._all_logits(*self._next_token_hidden(prefix, text, lengths))

    def _next_token_hidden(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> tuple[Head, Tensor]:
        """(B, T + 1, d): the last of the prefix, and the response."""
        text = text.clamp(min=0)  # ESPnet pads with -1
        first, rest = self.sequence_hidden(prefix, text, lengths)
        last = last_valid(first, prefix.valid)
        return self.head(prefix, first), self.lm.join(last[:, None], rest)


def other_seeds(seeds: Sequence[int]) -> list[int]:
    """For other draws than those of the masks and of the audio."""
    return [~int(seed) & (2**62 - 1) for seed in seeds]


def _behind(prefix: Prefix, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions of prefix and response are there, and the response's numbers."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
    return valid, prefix.start[:, None] + places


def last_valid(hidden: Tensor, valid: Tensor) -> Tensor:
    """The last valid position of each row: (B, P, d), (B, P) -> (B, d)."""
    places = torch.arange(valid.shape[1], device=valid.device)
    last = (valid * places).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
