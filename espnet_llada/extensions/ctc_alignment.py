"""CTC log-likelihood of a text, which measures its alignment with the audio.

Whisper's decoder, teacher-forced along a text, drops repetitions and hallucinates in
silence. CTC aligns monotonically: a text is improbable if it has no token where
something is spoken, or a token where nothing is.

Imports ``extensions.ctc``.

Source: the rescoring of hybrid CTC/attention recognition (Watanabe et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.extensions.ctc import AlignmentCTC, Windows

_IMPOSSIBLE = -1e4
"""Log-likelihood of a text with more tokens than the audio has vectors."""

_AT_ONCE = 1 << 22
"""Log-probabilities of alignments held at a time (16 MB)."""


class CTCAlignment:
    """Log-likelihoods of texts under a CTC, for a batch of utterances.

    Args:
        ctc: provides blank and scale.
        audio: (U, A, width), vectors of the adapter.
        projected: (U, A, d).
        table: (V, d), the output layer.
        windows: from ``ctc.windows``.
    """

    def __init__(
        self,
        ctc: AlignmentCTC,
        audio: Tensor,
        projected: Tensor,
        table: Tensor,
        windows: Windows,
    ):
        self.windows = windows
        self._ctc, self._audio, self._projected, self._table = (
            ctc,
            audio,
            projected,
            table,
        )
        self._columns: list[dict[int, Tensor]] = [{} for _ in windows.lengths]

    def rows(self, chosen: Tensor) -> CTCAlignment:
        """Some of the utterances, (N,) int64."""
        layer = self._audio[chosen], self._projected[chosen], self._table
        return CTCAlignment(self._ctc, *layer, self.windows.rows(chosen))

    @cached_property
    def _total(self) -> Tensor:
        """(U, A): log-sum-exp of the logits, blank included."""
        blank = self._ctc.blank(self._audio.to(self._ctc.blank.weight.dtype))
        return blank[..., 0].float() - self.windows.blank

    def __call__(self, texts: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
        """The log-likelihood (nats) of texts, given as (utterance, token ids)."""
        found: list[float] = []
        size = max((len(text) for _, text in texts), default=0) + 1
        step = max(1, _AT_ONCE // (size * self._audio.shape[1]))
        for start in range(0, len(texts), step):
            found += self._some(texts[start : start + step])
        return found

    def columns(self, row: int, text: Sequence[int]) -> Tensor:
        """(A, 1 + T): log-probabilities of the blank and of each token of a text."""
        self._compute({(row, token) for token in text})
        own = [self.windows.blank[row], *(self._columns[row][t] for t in text)]
        return torch.stack(own, dim=1)[: self.windows.lengths[row]]

    def at(self, row: int, places: Sequence[int]) -> Tensor:
        """(N, 1 + V): log-probabilities of the blank and of all tokens at N vectors."""
        layer = self._audio[row, places], self._projected[row, places], self._table
        return self._ctc.log_probs(*layer)

    def _some(self, texts: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
        self._compute({(row, token) for row, text in texts for token in text})
        lengths, columns, targets = self.windows.lengths.tolist(), [], []
        for row, text in texts:
            first = {token: n for n, token in enumerate(dict.fromkeys(text), 1)}
            targets.append([first[token] for token in text])
            own = [self.windows.blank[row], *(self._columns[row][t] for t in first)]
            columns.append(torch.stack(own))
        width = max(map(len, columns))
        table = torch.stack([F.pad(c, (0, 0, 0, width - len(c))) for c in columns])
        device = table.device
        rows = [torch.tensor(t, dtype=torch.long, device=device) for t in targets]
        sizes = torch.tensor([len(t) for t in targets], device=device)
        nll = F.ctc_loss(
            table.permute(2, 0, 1),
            pad_sequence(rows, batch_first=True),
            torch.tensor([lengths[row] for row, _ in texts], device=device),
            sizes,
            reduction="none",
        )
        return (-nll).clamp(min=_IMPOSSIBLE).tolist()

    def _compute(self, wanted: set[tuple[int, int]]) -> None:
        """Compute (A,) log-probabilities of tokens that are new for an utterance."""
        for row, columns in enumerate(self._columns):
            new = sorted(t for r, t in wanted if r == row and t not in columns)
            if new:
                hidden = self._projected[row] * self._ctc.scale
                scores = hidden @ self._table[new].T.to(hidden.dtype)
                log_probs = scores.float() - self._total[row][:, None]
                columns.update(zip(new, log_probs.T, strict=True))
