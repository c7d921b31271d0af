"""Reads any number of texts along the audio of a batch, whose frames it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_llada.adapter.text_qformer import TextQFormer


class Reader:
    """A ``TextQFormer`` in front of the audio of a batch.

    Args:
        text_qformer: see there.
        frames: (U, F, d_model) of the encoder, of U utterances.
        words: (V, d_model), Whisper's embedding of each token.
        eos: id of the token that stands for the end.
    """

    def __init__(
        self, text_qformer: TextQFormer, frames: Tensor, words: Tensor, eos: int
    ):
        self.text_qformer, self.words, self.eos = text_qformer, words, eos
        self.device = frames.device
        self.memory = text_qformer.projected(frames)

    def __call__(
        self,
        rows: Tensor,
        texts: Sequence[Sequence[int]],
        since: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """What each text has next, behind each of its tokens.

        Args:
            rows: (N,) int64, the utterance of each text.
            texts: N rows of token ids.
            since: of each text, from which token on that is asked for; by default all.

        Returns:
            N tensors (T + 1 - since, V) of log-probabilities, see
            ``TextQFormer.forward``.
        """
        since = [0] * len(texts) if since is None else since
        given = self.words, self.eos, since
        return self.text_qformer.along(self.memory, rows, texts, *given)

    def likelihood(self, rows: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """(N,) float32, the log-probability of each text and its end."""
        read = self(rows, texts)
        values = [likelihood(*pair, self.eos) for pair in zip(read, texts, strict=True)]
        return torch.tensor(values, device=self.device)


class Beside:
    """What a reader expects next, for a search by another model.

    Args:
        reader: of the batch.
        weight: of its log-probabilities.
    """

    def __init__(self, reader: Reader, weight: float):
        self.reader, self.weight = reader, weight

    def __call__(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """(N, V): ``weight`` times the log-probability of each token behind texts.

        Args:
            rows: the utterance of each text.
            texts: N rows of token ids.
        """
        longest = self.reader.text_qformer.longest
        ends = [min(len(text), longest) for text in texts]
        here = torch.tensor(rows, device=self.reader.device)
        return self.weight * torch.cat(self.reader(here, texts, ends))


def likelihood(log_probs: Tensor, text: Sequence[int], eos: int) -> float:
    """The log-probability of a text and its end; as ``text_log_probs``."""
    return math.fsum(text_log_probs(log_probs, text, eos))


def text_log_probs(log_probs: Tensor, text: Sequence[int], eos: int) -> list[float]:
    """What a reading along a text gives to each of its tokens, and to its end.

    Args:
        log_probs: (T + 1, V); tokens behind the first T were not read.
        text: token ids.
        eos: id.
    """
    return own_log_probs(log_probs, [*text[: len(log_probs) - 1], eos])


def own_log_probs(log_probs: Tensor, tokens: Sequence[int]) -> list[float]:
    """What (T, V) gives to the T tokens."""
    ids = torch.tensor(tokens, dtype=torch.long, device=log_probs.device)
    return log_probs.gather(1, ids[:, None])[:, 0].tolist()
