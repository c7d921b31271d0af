"""The posterior prefix of a batch, with its drafts and scores.

Imports ``copy_head``, ``ctc_alignment``, ``ctc_prefix`` and ``whisper_scorer.scorer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.prefix import Prefix, Prompt
from espnet_llada.extensions.copy_head import CopyHead, CopyMechanism
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.ctc_prefix import AlignedPrefix, Draft
from espnet_llada.extensions.posterior_prefix.alignment import aligned
from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.extensions.posterior_prefix.mixture import (
    PosteriorEmbeddings,
    mixtures,
)
from espnet_llada.extensions.whisper_scorer.scorer import Scored, Scorer
from espnet_llada.networks.backbone import OutputHead

Rows = Sequence[Sequence[int]]
"""Token ids, or positions, of each row of a batch."""


class View:
    """Makes LM inputs from CTC posteriors and scorer predictions.

    Args:
        prompt: the instruction, with the LM.
        posteriors: turns CTC posteriors into mixtures of LM embeddings.
        aligned: whether vectors have the positions of their tokens.
        copy: the copy mechanism, or None.
        rescored: (d,), type embedding of the scorer's vectors; None without a scorer.
    """

    def __init__(
        self,
        prompt: Prompt,
        posteriors: PosteriorEmbeddings,
        aligned: bool,
        copy: CopyMechanism | None,
        rescored: Tensor | None,
    ):
        self.prompt, self.posteriors, self.aligned = prompt, posteriors, aligned
        self.copy, self.rescored = copy, rescored

    def of_windows(
        self, alignment: CTCAlignment, rows: Tensor | None
    ) -> AudioEmbeddings:
        """The CTC's vectors of some rows, (N,) int64, or of all."""
        windows = alignment.windows
        chosen = windows if rows is None else windows.rows(rows)
        return self.posteriors.view(chosen, self.prompt.lm.embedding.weight)

    def with_scores(
        self,
        audio: AudioEmbeddings,
        texts: Rows,
        log_probs: Tensor,
        counts: Tensor,
        places: Rows | None = None,
    ) -> AudioEmbeddings:
        """The CTC's vectors aligned with texts, and the scorer's predictions.

        Args:
            audio: of B rows.
            texts: B rows of token ids.
            log_probs: (B, T + 1, V), see ``WhisperScorer.forward``.
            counts: (B,) int64, how many of them each row has.
            places: canvas positions of the texts' tokens and of their ends; by default
                0, 1, ...
        """
        width = log_probs.shape[1]
        if places is None:
            numbers = torch.arange(width, device=counts.device).expand(len(texts), -1)
        else:
            rows = [[*row[:width], *[0] * (width - len(row))] for row in places]
            numbers = torch.tensor(rows, device=counts.device)
        table = self.prompt.lm.embedding.weight
        again = mixtures(log_probs.exp(), counts, table, numbers)
        again = replace(again, vectors=again.vectors + self.rescored)
        return aligned(audio, texts, places).with_more(again)

    def prefix(self, audio: AudioEmbeddings) -> Prefix:
        """Prompt and audio, joined.

        Aligned audio has one vector per token and the same position ids as the
        response: the i-th vector has the position of the i-th token, so attention finds
        what to copy by position. It is placed before the prompt, so that a causal LM
        sees it from its first token on. Otherwise the order is the paper's.
        """
        lm = self.prompt.lm
        if not self.aligned:
            plain = self.prompt.before(audio.vectors, audio.counts)
            begins = plain.valid.shape[1] - audio.vectors.shape[1]
            return replace(plain, head=self._head(audio, begins))
        prompt = self.prompt.embeds(len(audio.counts))
        asked = prompt.shape[1]
        first = torch.arange(asked, device=prompt.device).expand(len(prompt), -1)
        return Prefix(
            lm.join(audio.vectors, prompt.to(audio.vectors.dtype)),
            F.pad(audio.valid, (0, asked), value=True),
            torch.cat([asked + audio.places, first], dim=1),
            torch.full_like(audio.counts, asked),
            self._head(audio, 0),
        )

    def _head(self, audio: AudioEmbeddings, begins: int) -> OutputHead:
        if self.copy is None:
            return OutputHead(self.prompt.lm)
        return CopyHead(self.prompt.lm, self.copy, audio, begins)


class PosteriorBatch(AlignedPrefix):
    """A batch in decoding.

    Args:
        view: makes the LM inputs.
        alignment: the CTC of the batch.
        scorer: of the batch; None for a model without one.
        transcripts: B rows of token ids, in deliberation.
        scored: texts scored instead of these, or of the draft.
        places: canvas positions of their tokens and of their ends.
    """

    def __init__(
        self,
        view: View,
        alignment: CTCAlignment,
        scorer: Scorer | None,
        transcripts: Rows | None,
        scored: Sequence[Scored] | None = None,
        places: Rows | None = None,
    ):
        super().__init__(alignment)
        self._view, self.scorer, self.transcripts = view, scorer, transcripts
        self._given, self._places = scored, places

    def along(
        self, scored: Sequence[Scored], places: Rows | None = None
    ) -> PosteriorBatch:
        """The same audio with other scored texts, or with another canvas."""
        own = self._view, self.alignment, self.scorer, self.transcripts
        return PosteriorBatch(*own, scored, places)

    @property
    def texts(self) -> Rows:
        """The transcripts; without any the CTC's best path."""
        return super().draft.ids if self.transcripts is None else self.transcripts

    @cached_property
    def scored(self) -> Sequence[Scored]:
        """The scorer's predictions along the texts."""
        if self._given is not None:
            return self._given
        return self.scorer(range(len(self)), self.texts)

    @cached_property
    def draft(self) -> Draft:
        """The texts, with the log-probabilities of CTC, scorer or both (minimum)."""
        own = None if self.transcripts is not None else super().draft
        if self.scorer is None:
            return own
        found = Draft([s.text for s in self.scored], [])
        for text, sure in ((s.text, s.own[:-1]) for s in self.scored):
            # Tokens beyond the longest text that is scored get log-probability 0.
            found.log_probs.append(sure + [0.0] * (len(text) - len(sure)))
        unchanged = own is not None and self._given is None
        return own.doubted(found) if unchanged else found

    def _embeddings(self, rows: Tensor | None) -> AudioEmbeddings:
        audio = self._view.of_windows(self.alignment, rows)
        if self.scorer is None:
            if self.transcripts is None or not self._view.aligned:
                return audio
            return aligned(audio, _of(self.transcripts, rows))
        found = [s.log_probs for s in _of(self.scored, rows)]
        counts = torch.tensor([len(f) for f in found], device=found[0].device)
        log_probs = pad_sequence(found, batch_first=True)
        texts = _of([s.text for s in self.scored], rows)
        places = None if self._places is None else _of(self._places, rows)
        return self._view.with_scores(audio, texts, log_probs, counts, places)

    @cached_property
    def _all_embeddings(self) -> AudioEmbeddings:
        return self._embeddings(None)

    @property
    def words(self) -> list[int]:
        """Estimated tokens of each row: its highest vector position, plus 1."""
        return self._all_embeddings.words.tolist()

    def make(self, rows: Tensor | None) -> Prefix:
        """See ``AlignedPrefix``."""
        whole = rows is None
        return self._view.prefix(
            self._all_embeddings if whole else self._embeddings(rows)
        )


def _of(given: Sequence[Any], rows: Tensor | None) -> Sequence[Any]:
    """Some of the rows."""
    return given if rows is None else [given[row] for row in rows.tolist()]
