"""Proposals for masked positions, and how sure the LM is of a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_llada.types import SpecialTokens


class RowRandom:
    """One random generator per row, so that no draw depends on the batch.

    Args:
        seeds: one integer for each row (see ``seed_of``).
        device: where the draws are wanted; they are made on the CPU, so that a seed
            means the same on every machine.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self._rows = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def uniform(self, lengths: Tensor, width: int) -> Tensor:
        """(B, width) float32 in [0, 1); row r draws ``lengths[r]`` numbers."""
        draws = torch.zeros(len(self._rows), width)
        for row, generator, n in zip(draws, self._rows, lengths.tolist(), strict=True):
            row[:n] = torch.rand(n, generator=generator)
        return draws.to(self._device)

    def row(self, row: int, count: int) -> list[float]:
        """So many numbers in [0, 1) for one row."""
        return torch.rand(count, generator=self._rows[row]).tolist()

    def gumbel(self, lengths: Tensor, width: int, vocabulary: int) -> Tensor:
        """(B, width, vocabulary) float32 Gumbel noise at ``lengths[r]`` places."""
        noise = torch.zeros(len(self._rows), width, vocabulary)
        for row, generator, n in zip(noise, self._rows, lengths.tolist(), strict=True):
            uniform = torch.rand(n, vocabulary, generator=generator)
            row[:n] = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return noise.to(self._device)


def log_probabilities(logits: Tensor, special: SpecialTokens) -> Tensor:
    """(N, V) float32 log-probabilities over what may be committed: no mask token.

    Args:
        logits: (N, V).
        special: mask and EOS ids.
    """
    logits = logits.to(torch.float32, copy=True)  # the caller keeps its own
    if special.mask < logits.shape[-1]:
        logits[..., special.mask] = -torch.inf
    return logits.log_softmax(dim=-1)


def ends(
    log_probs: Tensor, masked: Tensor, tokens: Tensor, special: SpecialTokens
) -> Tensor:
    """Log-probabilities in which an EOS answers for all that stands behind it.

    It decides every masked position up to the end of its row, so it is as sure as the
    EOS of the least sure of them. Left of a word there is none: what is written stays.

    Args:
        log_probs: (N, V), of the masked positions.
        masked: (B, L) bool, where a pass may commit; of other masks nothing is known.
        tokens: (B, L) int64, the canvas.
        special: mask and EOS ids.
    """
    own = torch.zeros(tokens.shape, device=tokens.device)
    own = own.masked_scatter(masked, log_probs[:, special.eos])
    words = (tokens != special.eos) & (tokens != special.mask)
    own = own.masked_fill(words, -torch.inf)
    least = own.flip(1).cummin(dim=1).values.flip(1)
    log_probs = log_probs.clone()
    log_probs[:, special.eos] = least[masked]
    return log_probs


def propose(
    log_probs: Tensor, temperature: float, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A token for each position and its log-probability: (N,) int64, (N,) float.

    Temperature 0 takes the most probable token; above 0 a token is drawn from
    softmax(logits / temperature) by the Gumbel trick. The log-probability is the
    model's own (temperature 1) in both cases, as in LLaDA's generate.py.

    Args:
        log_probs: (N, V).
        temperature: at least 0.
        noise: (N, V) Gumbel noise, above temperature 0.
    """
    if noise is None:
        best, tokens = log_probs.max(dim=-1)
        return tokens, best
    tokens = (log_probs / temperature + noise).argmax(dim=-1)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]
