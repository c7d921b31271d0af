"""Training objectives of the masked-diffusion LM and of its autoregressive twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor

from espnet_llada.networks.rows import Loss, RowRandom
from espnet_llada.types import SpecialTokens

LOSSES = ("llada", "flat", "release")

NLL = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Hidden states (B, L, d), targets (B, L) int64 and counted (B, L) bool -> of the N
counted positions -log p(target) (N,) float32, and (N,) bool, whether the target is the
most probable token."""


@dataclass(frozen=True)
class Objective:
    """Options of the training loss; see ``noisy_canvas`` and ``diffusion_loss``."""

    loss: Literal[LOSSES] = "llada"
    max_eos_padding: Annotated[int, Meta(ge=0, le=8192)] = 32


@dataclass(frozen=True)
class Targets:
    """The responses of a training batch.

    Attributes:
        text: (B, T) int64, reference tokens; ignored behind a row's end.
        lengths: (B,) int64.
        given: (B, T) int64, the LM's input where nothing is masked; None: ``text``.
    """

    text: Tensor
    lengths: Tensor
    given: Tensor | None = None


@dataclass(frozen=True)
class NoisyCanvas:
    """A batch of transcripts with some positions masked.

    Attributes:
        tokens: (B, L) int64, input of the LM.
        targets: (B, L) int64, what it has to predict; EOS behind the transcript.
        lengths: (B,) int64, canvas positions of each row.
        masked: (B, L) bool.
        mask_probability: (B,) float32, the mask ratio t of each row.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor
    masked: Tensor
    mask_probability: Tensor


def noisy_canvas(
    targets: Targets,
    special: SpecialTokens,
    objective: Objective,
    seeds: Sequence[int],
    longest: int = 0,
) -> NoisyCanvas:
    """Draw a mask ratio t ~ U(0, 1) for each row and mask each position with it.

    Args:
        targets: the transcripts.
        special: mask and EOS ids.
        objective: ``release`` (paper's repository): every row's canvas is the longest
            transcript of the batch, EOS behind shorter ones. ``llada`` (LLaDA's SFT
            guideline) and ``flat``: each row is its transcript, an EOS, and 0 to
            ``max_eos_padding`` EOS more, so that the end of a transcript is learnt
            for any canvas length.
        seeds: one for each row; a row's draws depend on nothing else.
        longest: for ``release``, tokens of the longest transcript of the whole batch,
            if these rows are a part of one.
    """
    text, text_lengths = targets.text, targets.lengths
    random = RowRandom(seeds, text.device)
    ones = torch.ones_like(text_lengths)
    t, extra = (random.uniform(ones, 1)[:, 0] for _ in range(2))
    if objective.loss == "release":
        lengths = torch.full_like(text_lengths, max(longest, int(text_lengths.max())))
    else:
        padding = (extra * (objective.max_eos_padding + 1)).floor().long()
        lengths = text_lengths + 1 + padding
        t = t * (1 - 1e-3) + 1e-3  # off zero, since the loss divides by it
    width = int(lengths.max())
    places = torch.arange(width, device=text.device)
    ended = places >= text_lengths[:, None]

    def on_canvas(text: Tensor) -> Tensor:
        text = F.pad(text, (0, max(0, width - text.shape[1])))[:, :width]
        return text.masked_fill(ended, special.eos)

    masked = random.uniform(lengths, width) < t[:, None]
    masked = masked & (places < lengths[:, None])
    given = text if targets.given is None else targets.given
    tokens = on_canvas(given).masked_fill(masked, special.mask)
    return NoisyCanvas(tokens, on_canvas(text), lengths, masked, t)


def diffusion_loss(hidden: Tensor, canvas: NoisyCanvas, loss: str, nll: NLL) -> Loss:
    """Cross-entropy of the masked positions.

    ``release``, ``flat``: mean over all masked positions of the batch. ``llada``: each
    position weighted by 1 / t, divided by its row's canvas length, mean over rows (an
    upper bound of the negative log-likelihood per token, LLaDA eq. 3); rows with few
    masks get large weights, so this loss is noisier. Without masked positions the loss
    is 0 with zero gradients, where a plain mean would be NaN.
    ``hidden`` (B, L, d): states for ``nll``, which reads the masked positions only.
    """
    flat = _flat_loss(hidden, canvas.targets, canvas.masked, nll)
    if loss != "llada":
        return flat
    rows = flat.rows / (canvas.mask_probability * canvas.lengths)
    return Loss(rows, torch.ones_like(rows), flat.right, flat.scored)


def causal_loss(
    hidden: Tensor, text: Tensor, lengths: Tensor, eos: int, nll: NLL
) -> Loss:
    """Cross-entropy of transcripts (B, T) and EOS, mean over tokens.

    Position i of ``hidden`` (B, T + 1, d) predicts token i, position ``lengths`` the
    EOS.
    """
    places = torch.arange(text.shape[1] + 1, device=text.device)
    targets = F.pad(text, (0, 1)).masked_fill(places >= lengths[:, None], eos)
    return _flat_loss(hidden, targets, places <= lengths[:, None], nll)


def _flat_loss(hidden: Tensor, targets: Tensor, counted: Tensor, nll: NLL) -> Loss:
    """The mean of -log p(target) over the positions ``counted`` (B, L) bool."""
    values, right = nll(hidden, targets, counted)
    rows = values.new_zeros(counted.shape).masked_scatter(counted, values).sum(dim=1)
    weights = counted.sum(dim=1).float()
    return Loss(rows, weights, right.sum().float(), weights.sum())
