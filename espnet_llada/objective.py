"""Training objectives of the masked-diffusion LM and of its autoregressive twin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_llada.types import SpecialTokens, UserError

LOSSES = ("llada", "release")


@dataclass(frozen=True)
class NoisyCanvas:
    """A batch of transcripts with some positions masked.

    Attributes:
        tokens: (B, L) int64, what the LM sees.
        targets: (B, L) int64, what it has to restore; EOS behind the transcript.
        lengths: (B,) int64, canvas positions of each row.
        masked: (B, L) bool.
        mask_probability: (B,) float32, the chance t at which a row was masked.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor
    masked: Tensor
    mask_probability: Tensor


def noisy_canvas(
    text: Tensor,
    text_lengths: Tensor,
    special: SpecialTokens,
    loss: str,
    slack: int = 0,
    generator: torch.Generator | None = None,
) -> NoisyCanvas:
    """Draw a mask ratio t ~ U(0, 1) for each row and mask each position with chance t.

    Args:
        text: (B, T) int64 transcripts; what stands behind a row's end is ignored.
        text_lengths: (B,) int64.
        special: mask and EOS ids.
        loss: ``release`` (paper's repository): every row's canvas is the longest
            transcript of the batch, EOS behind shorter ones. ``llada`` (LLaDA's SFT
            guideline): each row is its transcript, an EOS, and 0 to ``slack`` EOS
            more, so that the end of a transcript is learnt whatever the canvas.
        slack: see above (positions).
        generator: of the draws; on the CPU.
    """
    batch, device = len(text), text.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    if loss == "release":
        lengths = text_lengths.max().expand(batch)
    else:
        extra = (uniform(batch) * (slack + 1)).floor().long()
        lengths = text_lengths + 1 + extra
    width = int(lengths.max())
    places = torch.arange(width, device=device)
    targets = F.pad(text, (0, max(0, width - text.shape[1])))[:, :width]
    targets = targets.masked_fill(places >= text_lengths[:, None], special.eos)
    t = uniform(batch)
    # LLaDA keeps t off zero, since the loss divides by it.
    t = t if loss == "release" else t * (1 - 1e-3) + 1e-3
    masked = (uniform(batch, width) < t[:, None]) & (places < lengths[:, None])
    tokens = targets.masked_fill(masked, special.mask)
    return NoisyCanvas(tokens, targets, lengths, masked, t)


def diffusion_loss(logits: Tensor, canvas: NoisyCanvas, loss: str) -> Tensor:
    """Cross-entropy of the masked positions, in nats: a scalar.

    ``release``: flat mean over all masked positions of the batch. ``llada``: each
    position weighted by 1 / t, divided by its row's canvas length, mean over rows (an
    upper bound of the negative log-likelihood for each token, LLaDA eq. 3). No masked
    position gives 0 with zero gradients, where a plain mean would be NaN.

    Args:
        logits: (B, L, V).
        canvas: the canvas that was fed.
        loss: ``llada`` or ``release``.

    Raises:
        UserError: an unknown loss.
    """
    if loss not in LOSSES:
        raise UserError(f"loss: {loss!r}; allowed: {', '.join(LOSSES)}")
    nll = _masked_nll(logits, canvas.targets, canvas.masked)
    if loss == "release":
        return nll.sum() / canvas.masked.sum().clamp(min=1)
    weight = canvas.mask_probability * canvas.lengths * len(logits)
    return (nll.sum(dim=1) / weight).sum()


def causal_loss(logits: Tensor, text: Tensor, lengths: Tensor, eos: int):
    """Mean cross-entropy of transcript and EOS, in nats, and the targets.

    Args:
        logits: (B, T + 1, V); position i predicts token i, one past the end the EOS.
        text: (B, T) int64.
        lengths: (B,) int64.
        eos: id.

    Returns:
        loss (scalar), targets (B, T + 1) int64, counted (B, T + 1) bool.
    """
    places = torch.arange(text.shape[1] + 1, device=text.device)
    targets = F.pad(text, (0, 1)).masked_fill(places >= lengths[:, None], eos)
    counted = places <= lengths[:, None]
    nll = _masked_nll(logits, targets, counted)
    return nll.sum() / counted.sum(), targets, counted


def _masked_nll(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """(B, L) float32: -log p of the target where counted, 0 elsewhere."""
    flat = logits.float().flatten(0, 1)
    nll = F.cross_entropy(flat, targets.flatten(), reduction="none")
    return nll.view_as(targets).masked_fill(~counted, 0.0)
