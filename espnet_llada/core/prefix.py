"""The LM's input before the response: prompt and audio embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.core.objective import Targets
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.networks.backbone import Backbone, OutputHead, counted
from espnet_llada.types import SpecialTokens


@dataclass(frozen=True)
class Prefix:
    """Prompt and audio of a batch.

    Attributes:
        embeds: (B, P, d).
        valid: (B, P) bool; False for padding.
        positions: (B, P) int64, for the rotary embedding.
        start: (B,) int64, the position of the response's first token.
        head: output head of the response.
    """

    embeds: Tensor
    valid: Tensor
    positions: Tensor
    start: Tensor
    head: OutputHead

    def rows(self, chosen: Sequence[int]) -> Prefix:
        """Some of the rows, trimmed to their longest."""
        if list(chosen) == list(range(len(self))):
            return self
        rows = torch.tensor(chosen, dtype=torch.long, device=self.valid.device)
        columns = self.valid[rows].any(dim=0)
        return Prefix(
            self.embeds[rows][:, columns],
            self.valid[rows][:, columns],
            self.positions[rows][:, columns],
            self.start[rows],
            self.head.rows(rows),
        )

    def __len__(self) -> int:
        return len(self.valid)


@dataclass(frozen=True)
class Prompt:
    """The instruction before the audio, and the LM that embeds it."""

    lm: Backbone
    ids: Sequence[int]
    special: SpecialTokens

    def embeds(self, batch: int) -> Tensor:
        """(B, P, d), the same for each row."""
        ids = torch.tensor([self.ids], device=self.lm.embedding.weight.device)
        return self.lm.embed(ids.expand(batch, -1))

    def alone(self, batch: int) -> Prefix:
        """Without audio: the paper's plain-text ablation."""
        embeds = self.embeds(batch)
        there = torch.ones_like(embeds[..., 0], dtype=torch.bool)
        return self._prefix(embeds, there)

    def before(self, audio: Tensor, lengths: Tensor) -> Prefix:
        """The paper's order: prompt, audio, response, numbered one after the other.

        Of ``audio`` (B, A, d) each row has ``lengths`` (B,) vectors.
        """
        there = torch.arange(audio.shape[1], device=lengths.device) < lengths[:, None]
        prompt = self.embeds(len(audio))
        valid = F.pad(there, (prompt.shape[1], 0), value=True)
        return self._prefix(self.lm.join(prompt, audio), valid)

    def _prefix(self, embeds: Tensor, valid: Tensor) -> Prefix:
        ends = valid.sum(dim=1)
        return Prefix(embeds, valid, counted(valid), ends, OutputHead(self.lm))


@dataclass(frozen=True)
class TrainingStep:
    """What the LM is trained on in one batch.

    Attributes:
        prefix: prompt and audio; None trains by ``extra`` alone, without the LM.
        targets: responses.
        extra: (B,) float32, weighted auxiliary losses in nats, or None.
    """

    prefix: Prefix | None
    targets: Targets
    extra: Tensor | None = None


class AudioPrefix(nn.Module):
    """Maps the adapter's vectors to LM inputs; the paper's is ``LinearPrefix``.

    Attributes:
        cannot_decode: why a model with this prefix only trains; "" if it decodes.
    """

    cannot_decode = ""

    def forward(
        self,
        prompt: Prompt,
        audio: Tensor,
        lengths: Tensor,
        transcripts: Sequence[Sequence[int]] | None = None,
    ) -> Prefix:
        """Prompt and audio of a batch.

        Args:
            prompt: the instruction.
            audio: (B, A, width), the adapter's vectors.
            lengths: (B,) int64, vectors of each row.
            transcripts: B rows of token ids, in deliberation.
        """
        raise NotImplementedError

    def training_step(
        self,
        prompt: Prompt,
        audio: Tensor | None,
        lengths: Tensor | None,
        targets: Targets,
        seeds: Sequence[int],
    ) -> TrainingStep:
        """The same in training.

        Args:
            prompt, audio, lengths: see ``forward``; without audio the response
                follows the prompt, which trains the LM on text alone.
            targets: the transcripts.
            seeds: random seed of each row.
        """
        if audio is None:
            return TrainingStep(prompt.alone(len(targets.text)), targets)
        return TrainingStep(self(prompt, audio, lengths), targets)

    def draft(
        self, prompt: Prompt, audio: Tensor, lengths: Tensor
    ) -> list[list[int]] | None:
        """Token ids of each row, transcribed without the LM; None: not supported."""
        return None

    def has_speech(
        self, prompt: Prompt, audio: Tensor, lengths: Tensor
    ) -> Tensor | None:
        """(B,) bool: rows that contain speech; None: not supported."""
        return None


class LinearPrefix(AudioPrefix):
    """The paper's: a linear projection of the Q-Former's vectors."""

    def __init__(self, projection: LinearProjection):
        super().__init__()
        self.projection = projection

    def forward(
        self,
        prompt: Prompt,
        audio: Tensor,
        lengths: Tensor,
        transcripts: Sequence[Sequence[int]] | None = None,
    ) -> Prefix:
        """See ``AudioPrefix``."""
        audio = audio.to(self.projection.weight.dtype)
        return prompt.before(self.projection(audio), lengths)
