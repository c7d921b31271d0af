"""Rescoring of an n-best first pass by the LM's masked likelihood.

Each text of the list gets its score by the first pass plus a weighted log-likelihood by
the LM; deliberation then starts from the best (with ``mask_ratio: 0`` that is all). A
masked-diffusion LM has no exact likelihood. It is estimated from masks of random size:
the mean log-probability of what a mask hides, times the length of the text. Masks come
in complementary pairs, so that in each pair every token is masked exactly once. The LM
hears the audio, or with ``use_audio: false`` rates the text alone.

Source: Naveriani et al. 2026 (arXiv 2604.14001), each sample normalised by its number
of masks; estimates by sampled masks as LLaDA's (Nie et al. 2025, arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from espnet_llada.core.canvas import Canvas, transcript_canvas
from espnet_llada.core.masking import LogitsFn, log_probabilities, lowest
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import seed_of
from espnet_llada.extensions.requirements import need
from espnet_llada.io.schema import Weight
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import FirstPasses, ScoredText, SpecialTokens

_TAIL = 1  # the end of a text counts, as one EOS


@dataclass(frozen=True)
class Options:
    """``nbest_rescoring``."""

    weight: Annotated[Weight, Meta(description="of the LM; the first pass has 1")] = 0.5
    pairs: Annotated[
        int, Meta(ge=1, le=1000, description="complementary masks, 2 passes a pair")
    ] = 4


MakePrefix = Callable[[Sequence[int], Sequence[Sequence[int]]], Prefix]
"""Rows of the batch, and a text (token ids) of each, N of them, to N rows of prefix."""


class NBestRescorer:
    """Puts n-best lists in a new order.

    Args:
        options: all options of the decoding (``inference.options.DecodingOptions``).
        decoder: of the model.

    Raises:
        UserError: the model or other options do not fit.
    """

    def __init__(self, options: Any, decoder: LMDecoder):
        need(decoder.diffuses, "nbest_rescoring", "this model is autoregressive")
        need(options.deliberates, "nbest_rescoring", "is for deliberation")
        self.options = options.extensions["nbest_rescoring"]
        self.seed, self.decoder = options.sampler.seed, decoder

    @torch.no_grad()
    def __call__(
        self,
        lists: Sequence[FirstPasses],
        utt_ids: Sequence[str],
        make_prefix: MakePrefix,
        token_ids: Callable[[Sequence[str]], list[list[int]]],
    ) -> tuple[list[FirstPasses], list[int]]:
        """The lists with their new scores, best first, and the LLM passes of each row.

        A list of one text is kept as it is, without a pass.

        Args:
            lists: of each utterance.
            utt_ids: seed the masks, the same for all texts of an utterance.
            make_prefix: see there.
            token_ids: texts to token ids.
        """
        several = [row for row, texts in enumerate(lists) if len(texts) > 1]
        out, passes = list(lists), [0] * len(lists)
        if not several:
            return out, passes
        rows = [row for row in several for _ in lists[row]]
        ids = token_ids([one.text for row in several for one in lists[row]])
        decoder, device = self.decoder, self.decoder.lm.embedding.weight.device
        canvas = transcript_canvas(ids, decoder.special, _TAIL, device)
        logits_fn = decoder.passes(decoder, make_prefix(rows, ids), canvas.lengths)
        random = RowRandom([seed_of(utt_ids[row], self.seed) for row in rows], device)
        given = logits_fn, canvas, decoder.special, self.options.pairs, random
        found = iter(masked_log_likelihoods(*given).tolist())
        for row in several:
            out[row] = self._ranked(lists[row], found)
            passes[row] = 2 * self.options.pairs
        return out, passes

    def _ranked(self, texts: FirstPasses, found: Iterator[float]) -> FirstPasses:
        scored = [
            ScoredText(one.text, one.score + self.options.weight * next(found))
            for one in texts
        ]
        return tuple(sorted(scored, key=lambda one: one.score, reverse=True))


def masked_log_likelihoods(
    logits_fn: LogitsFn,
    canvas: Canvas,
    special: SpecialTokens,
    pairs: int,
    random: RowRandom,
) -> Tensor:
    """(B,) float32: estimated log-likelihood of each text, nats.

    Args:
        logits_fn: of the canvas; called twice for each pair.
        canvas: (B, L), texts and the positions behind them that count.
        special: mask and EOS ids.
        pairs: of complementary masks, averaged.
        random: draws size and places of a row's masks.
    """
    total = torch.zeros(len(canvas.tokens), device=canvas.tokens.device)
    samples = torch.zeros_like(total)
    for _ in range(pairs):
        for masked in complementary(canvas, random):
            means = masked_means(logits_fn, canvas, special, masked)
            total += means
            samples += masked.any(dim=1)
    return canvas.lengths * total / samples.clamp(min=1)


def complementary(canvas: Canvas, random: RowRandom) -> tuple[Tensor, Tensor]:
    """Two masks (B, L) bool that share no position and together hold all of a row.

    The first has from 1 to length - 1 positions, each size as probable as the others;
    a row of one position has it in the first.
    """
    lengths, width = canvas.lengths, canvas.tokens.shape[1]
    shares = [random.row(row, 1)[0] for row in range(len(lengths))]
    shares = torch.tensor(shares, device=lengths.device)
    sizes = 1 + (shares * (lengths - 1)).long()
    order = random.uniform(lengths, width)
    first = lowest(order, canvas.valid, sizes)
    return first, canvas.valid & ~first


def masked_means(
    logits_fn: LogitsFn, canvas: Canvas, special: SpecialTokens, masked: Tensor
) -> Tensor:
    """(B,) float32: mean log-probability of the tokens that a mask (B, L) hides."""
    shown = canvas.tokens.masked_fill(masked, special.mask)
    log_probs = log_probabilities(logits_fn(shown, masked), special)
    own = log_probs.gather(-1, canvas.tokens[masked][:, None])[:, 0]
    values = torch.zeros(masked.shape, device=own.device).masked_scatter(masked, own)
    return values.sum(dim=1) / masked.sum(dim=1).clamp(min=1)
