"""Auxiliary CTC loss over the LM's tokens, so that the adapter learns to align.

An LM that is trained from the start with its own loss learns to ignore an adapter that
says nothing yet. CTC first makes what the projection hands to the LM look like the
words that are spoken. Its output layer is a frozen table: the LM's own embedding or
head, or Whisper's embedding (``posterior_prefix.mixture``). Its best path is also a
draft.

Source: CTC (Graves et al. 2006), as an auxiliary loss (Kim et al. 2017, arXiv
1609.06773); through the LM's frozen head as diffusion-gemma-asr reports it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.io.schema import Weight
from espnet_llada.networks.frozen import at_once, scores

_NEVER = -1e4  # a logit; torch's CTC makes NaN of infinite ones


@dataclass(frozen=True)
class Windows:
    """The CTC's posteriors for each of the adapter's vectors.

    Attributes:
        best: (B, A) int64, the most probable: a token's id + 1, 0 for the blank.
        values: (B, A) float32, its log-probability.
        blank: (B, A) float32, the log-probability of the blank.
        speaking: (B, A) bool, vectors whose blank is less probable than ``silent``.
        log_probs: (S, 1 + V) float32, of the ``speaking`` vectors alone, blank first;
            all vectors would take 1 MB per second of audio at 28,000 tokens.
        lengths: (B,) int64, vectors of each row.
    """

    best: Tensor
    values: Tensor
    blank: Tensor
    speaking: Tensor
    log_probs: Tensor
    lengths: Tensor

    def rows(self, chosen: Tensor) -> Windows:
        """Some of the rows, (N,) int64."""
        speaking = self.speaking[chosen]
        numbers = (self.speaking.flatten().cumsum(dim=0) - 1).view_as(self.speaking)
        return Windows(
            self.best[chosen],
            self.values[chosen],
            self.blank[chosen],
            speaking,
            self.log_probs[numbers[chosen][speaking]],
            self.lengths[chosen],
        )


@dataclass(frozen=True)
class Options:
    """``decoder_conf.ctc``; the loss is in nats for each token."""

    weight: Annotated[
        Weight, Meta(description="of the CTC loss, added to the LM's; 0: not trained")
    ] = 0.1
    only: Annotated[
        bool, Meta(description="train by this loss alone, to warm the adapter up")
    ] = False
    scale: Annotated[
        Weight | None,
        Meta(
            description="of the logits at first; by default unrelated rows differ by 1"
        ),
    ] = None
    head: Annotated[
        Literal["embedding", "lm"],
        Meta(description="output layer: the LM's frozen embedding, or its frozen head"),
    ] = "embedding"


class AlignmentCTC(nn.Module):
    """CTC whose output layer is a frozen table.

    Args:
        table: (V, d), a row for each of the LM's tokens.
        width: of the adapter's vectors, from which the blank is told.
        options: see there.
        like: (V', d), what the projected vectors are as large as at first; by default
            as the table's rows.
    """

    stays_float = True  # see networks.quantize

    def __init__(
        self,
        table: Tensor,
        width: int,
        options: Options | None = None,
        like: Tensor | None = None,
    ):
        super().__init__()
        options = options or Options()
        self.weight, self.only, scale = options.weight, options.only, options.scale
        tokens, size = table.shape
        if scale is None:
            own = float(table.float().std())
            other = own if like is None else float(like.float().std())
            scale = 1 / (own * other * math.sqrt(size))
        self.scale = nn.Parameter(torch.tensor(scale))
        self.blank = nn.Linear(width, 1)
        nn.init.constant_(self.blank.bias, math.log(tokens) - 1)  # most are blank

    def log_probs(self, audio: Tensor, projected: Tensor, embedding: Tensor) -> Tensor:
        """(..., width), (..., d), (V, d) -> (..., 1 + V), float32; blank first."""
        shape = *audio.shape[:-1], 1 + len(embedding)
        logits = torch.empty(shape, dtype=torch.float32, device=audio.device)
        logits[..., :1] = self.blank(audio.to(self.blank.weight.dtype))
        table = embedding.to(projected.dtype)
        scores(projected * self.scale, table, out=logits[..., 1:])
        return logits.log_softmax(dim=-1)

    def windows(
        self,
        audio: Tensor,
        projected: Tensor,
        embedding: Tensor,
        lengths: Tensor,
        silent: float = 0.0,
    ) -> Windows:
        """Posteriors of all vectors, a few at a time.

        Args:
            audio: (B, A, width).
            projected: (B, A, d).
            embedding: (V, d).
            lengths: (B,) int64, vectors of each row.
            silent: see ``Windows``.
        """
        places = torch.arange(audio.shape[1], device=lengths.device)
        there = places < lengths[:, None]
        step, found = at_once(audio.device, len(embedding)), []
        parts = [of_all[there].split(step) for of_all in (audio, projected)]
        for part in zip(*parts, strict=True):
            log_probs = self.log_probs(*part, embedding)
            top = log_probs.detach().max(dim=-1)
            blank = log_probs[:, 0].clone()  # a view would keep them all
            speaking = blank.exp() < silent
            each = top.indices, top.values, blank, speaking
            found.append((*each, log_probs[speaking]))
        *each, kept = map(torch.cat, zip(*found, strict=True))

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(there.shape).masked_scatter(there, values)

        return Windows(*map(placed, each), kept, lengths)

    def forward(
        self,
        audio: Tensor,
        projected: Tensor,
        embedding: Tensor,
        lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
    ) -> Tensor:
        """Loss of each row, in nats for each token.

        The CTC of a row has columns for the blank, for each token of its transcript,
        and for the sum of all other tokens, which no path uses.

        Args:
            audio: (B, A, width).
            projected: (B, A, d).
            embedding: (V, d).
            lengths: (B,) int64, audio vectors of each row.
            text: (B, T) int64 transcripts. With more tokens than vectors the loss
                is 0.
            text_lengths: (B,) int64.
        """
        places = torch.arange(text.shape[1], device=text.device)
        text = torch.where(places < text_lengths[:, None], text, text[:, :1]).clamp(0)
        first = _first_places(text)
        # Under autocast in the dtype that the projection had.
        hidden = (projected * self.scale).to(projected.dtype)
        embedding = embedding.to(hidden.dtype)
        own = (hidden @ embedding[text].transpose(1, 2)).float()
        own = own.masked_fill((first != places)[:, None], _NEVER)
        rest = _RestLogSumExp.apply(hidden, embedding, text)
        blank = self.blank(audio.to(self.blank.weight.dtype)).float()
        columns = torch.cat([blank, own, rest[..., None]], dim=-1)
        nll = F.ctc_loss(
            columns.log_softmax(dim=-1).transpose(0, 1),
            first + 1,
            lengths,
            text_lengths,
            reduction="none",
            zero_infinity=True,
        )
        return nll / text_lengths.clamp(min=1)


class _RestLogSumExp(torch.autograd.Function):
    """log-sum-exp over all tokens but a row's own, row by row.

    As in ``networks.head``: the embedding is frozen, so the gradient of each row is
    computed at once, and the logits of the whole batch are never held.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, embedding: Tensor, text: Tensor) -> Tensor:
        total = hidden.new_empty(hidden.shape[:2], dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for row, own in enumerate(text):
                logits = (hidden[row] @ embedding.T).float()
                logits[:, own] = float("-inf")
                total[row] = logits.logsumexp(dim=-1)
                if gradient is not None:
                    p = logits.sub_(total[row][:, None]).exp_()
                    gradient[row] = p.to(embedding.dtype) @ embedding
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, total_gradient: Tensor):
        (gradient,) = ctx.saved_tensors
        return (gradient * total_gradient[..., None]).to(gradient.dtype), None, None


def best_path(windows: Windows) -> tuple[list[list[int]], list[list[float]]]:
    """The most probable path of each row, without blanks and repeats.

    Returns:
        Token ids of each row; and for each token the highest log-probability among its
        vectors.
    """
    ids: list[list[int]] = []
    confidence: list[list[float]] = []
    paths = windows.best.tolist(), windows.values.tolist(), windows.lengths.tolist()
    for path, value, n in zip(*paths, strict=True):
        ids.append([])
        confidence.append([])
        for place in range(n):
            if path[place] == 0:
                continue
            if place and path[place] == path[place - 1]:
                confidence[-1][-1] = max(confidence[-1][-1], value[place])
                continue
            ids[-1].append(path[place] - 1)
            confidence[-1].append(value[place])
    return ids, confidence


def _first_places(tokens: Tensor) -> Tensor:
    """(B, T): index of the first occurrence of each token in its row."""
    same = tokens[:, :, None] == tokens[:, None, :]
    return same.byte().argmax(dim=2)
