"""The paper's linear prefix with an auxiliary CTC; drafts and speech detection by CTC.

Imports ``extensions.ctc`` and ``extensions.ctc_alignment``.

Source: CTC on the projector through the LM's frozen embedding or head is what makes
such adapters converge early; see ``extensions.ctc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from espnet_llada.core.objective import Targets
from espnet_llada.core.prefix import LinearPrefix, Prefix, Prompt, TrainingStep
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.extensions.ctc import AlignmentCTC, Options, best_path
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.networks.backbone import Backbone

Layer = tuple[Tensor, Tensor, Tensor]

HAS_SPEECH = 0.9
"""Threshold on the highest token probability of an utterance's windows: at least 0.98
in 331 utterances of speech, at most 0.72 in silence and noise."""


@dataclass(frozen=True)
class Draft:
    """A transcript of each row of a batch.

    Attributes:
        ids: token ids.
        log_probs: natural log-probability of each token.
    """

    ids: Sequence[Sequence[int]]
    log_probs: list[list[float]]

    def doubted(self, other: Draft) -> Draft:
        """The same, with the lower log-probability of the two for each token."""
        rows = zip(self.log_probs, other.log_probs, strict=True)
        return Draft(self.ids, [[*map(min, *pair)] for pair in rows])


class AlignedPrefix:
    """A ``Prefix`` whose embeddings are made on demand, for the rows that need them.

    A draft without doubtful tokens takes no LM pass, and so needs no embeddings.

    Args:
        alignment: the CTC of the batch.
    """

    def __init__(self, alignment: CTCAlignment):
        self.alignment = alignment

    def __len__(self) -> int:
        return len(self.alignment.windows.lengths)

    def make(self, rows: Tensor | None) -> Prefix:
        """The prefix of some rows, (N,) int64, or of all."""
        raise NotImplementedError

    @cached_property
    def _all(self) -> Prefix:
        return self.make(None)

    def rows(self, chosen: Sequence[int]) -> Prefix:
        """See ``Prefix.rows``."""
        if len(chosen) == len(self):
            return self._all
        return self.make(torch.tensor(chosen, dtype=torch.long))

    @property
    def draft(self) -> Draft:
        """The CTC's best path."""
        return Draft(*best_path(self.alignment.windows))


class _LinearBatch(AlignedPrefix):
    def __init__(self, prefix: Prefix, alignment: CTCAlignment):
        super().__init__(alignment)
        self._prefix = prefix

    def make(self, rows: Tensor | None) -> Prefix:
        return self._prefix if rows is None else self._prefix.rows(rows.tolist())


class CTCAnswers:
    """Drafts and speech detection by CTC, for an ``AudioPrefix``."""

    def alignment(self, prompt: Prompt, audio: Tensor, lengths: Tensor) -> CTCAlignment:
        """The CTC of a batch; arguments as ``AudioPrefix.forward``."""
        raise NotImplementedError

    def draft(self, prompt: Prompt, audio: Tensor, lengths: Tensor) -> list[list[int]]:
        """See ``AudioPrefix``: the CTC's best path."""
        return best_path(self.alignment(prompt, audio, lengths).windows)[0]

    def has_speech(self, prompt: Prompt, audio: Tensor, lengths: Tensor) -> Tensor:
        """See ``AudioPrefix``: some token has a high CTC probability."""
        windows = self.alignment(prompt, audio, lengths).windows
        places = torch.arange(windows.blank.shape[1], device=lengths.device)
        there = places < windows.lengths[:, None]
        token = (1 - windows.blank.exp()).masked_fill(~there, 0.0)
        return (token > HAS_SPEECH).any(dim=1)


class CTCPrefix(CTCAnswers, LinearPrefix):
    """A ``LinearPrefix`` that a CTC over the LM's tokens trains as well.

    Args:
        projection: the paper's.
        ctc: its output layer is the LM's embedding or head.
        head: which of the two; see ``ctc.Options``.
    """

    def __init__(
        self, projection: LinearProjection, ctc: AlignmentCTC, head: str = "embedding"
    ):
        super().__init__(projection)
        self.ctc, self.head = ctc, head

    @classmethod
    def build(
        cls, projection: LinearProjection, lm: Backbone, options: Options
    ) -> CTCPrefix:
        """In front of an LM."""
        table, embedding = _table(lm, options.head), lm.embedding.weight
        like = None if table is embedding else embedding  # see LinearProjection
        ctc = AlignmentCTC(table, projection.in_features, options, like)
        return cls(projection, ctc, options.head)

    def forward(
        self,
        prompt: Prompt,
        audio: Tensor,
        lengths: Tensor,
        transcripts: Sequence[Sequence[int]] | None = None,
    ) -> AlignedPrefix:
        """See ``AudioPrefix``."""
        projected = self._projected(audio)
        layer = self._layer(prompt, audio, projected)
        prefix = prompt.before(projected, lengths)
        return _LinearBatch(prefix, self._aligned(layer, lengths))

    def alignment(self, prompt: Prompt, audio: Tensor, lengths: Tensor) -> CTCAlignment:
        """See ``CTCAnswers``."""
        layer = self._layer(prompt, audio, self._projected(audio))
        return self._aligned(layer, lengths)

    def _aligned(self, layer: Layer, lengths: Tensor) -> CTCAlignment:
        return CTCAlignment(self.ctc, *layer, self.ctc.windows(*layer, lengths))

    def _projected(self, audio: Tensor) -> Tensor:
        return self.projection(audio.to(self.projection.weight.dtype))

    def _layer(self, prompt: Prompt, audio: Tensor, projected: Tensor) -> Layer:
        """What the CTC reads: the vectors, what is projected of them, its table.

        A table in half precision multiplies in its own, as in the LM: at 126,464
        tokens a float32 copy of it has 2 GB.
        """
        table = _table(prompt.lm, self.head)
        if table.itemsize < projected.itemsize:
            projected = projected.to(table.dtype)
        return audio, projected, table

    def training_step(
        self,
        prompt: Prompt,
        audio: Tensor | None,
        lengths: Tensor | None,
        targets: Targets,
        seeds: Sequence[int],
    ) -> TrainingStep:
        """See ``AudioPrefix``."""
        if audio is None or not self.ctc.weight:
            return super().training_step(prompt, audio, lengths, targets, seeds)
        projected = self._projected(audio)
        layer = self._layer(prompt, audio, projected)
        extra = self.ctc(*layer, lengths, targets.text, targets.lengths)
        if self.ctc.only:
            return TrainingStep(None, targets, extra)
        prefix = prompt.before(projected, lengths)
        return TrainingStep(prefix, targets, self.ctc.weight * extra)


def _table(lm: Backbone, head: str) -> Tensor:
    """(V, d), frozen."""
    return lm.head if head == "lm" else lm.embedding.weight
