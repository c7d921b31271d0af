"""The published sampler as it is: plain loops over one row, its defects included.

Source: liuzhan22/Diffusion-ASR (Apache-2.0), commit 18c8263, models/WhisperLLaDA.py;
each function names the one there that it is to be compared with. Where that divides by
zero, the transcript comes back unchanged. README.md has what the core does otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.sampler import OnPass, Pass, SamplerResult, propose
from espnet_llada.networks.rows import RowRandom
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.types import SpecialTokens


@torch.no_grad()
def sample(
    logits_fn: LogitsFn,
    canvas: Canvas,
    options: ReleaseSamplerOptions,
    special: SpecialTokens,
    seeds: Sequence[int] | None = None,
    on_pass: OnPass | None = None,
    process: object = None,
    plan: object = None,
) -> SamplerResult:
    """Fill a batch of canvases, one row after the other (``generate``).

    Args:
        logits_fn, canvas, special, seeds, on_pass: see ``core.sampler.sample``.
        options: the strategy and its budget.
        process, plan: are not used: the release knows none.

    Returns:
        The result; it may hold mask tokens, and words behind an EOS.
    """
    tokens, passes = canvas.tokens.clone(), torch.zeros_like(canvas.lengths)
    log_probs = torch.zeros(tokens.shape, device=tokens.device)
    for number, length in enumerate(canvas.lengths.tolist()):
        seed = options.seed if seeds is None else seeds[number]
        row = _Row(logits_fn, canvas, number, options, special, seed, on_pass)
        if options.strategy == "deliberation_semi_ar":
            _correct_chunks(row)
        elif options.deliberates:
            _correct(row)
        else:
            _transcribe(row, options.num_blocks if options.strategy == "semi_ar" else 1)
        tokens[number, :length], passes[number] = row.x, row.passes
        log_probs[number, :length] = row.log_probs
    return SamplerResult(tokens, log_probs, passes)


def _transcribe(row: _Row, num_blocks: int) -> None:
    """``transcribe``: sub-block after sub-block, until one has committed an EOS."""
    steps, ended = row.options.steps // num_blocks, False
    for start, end in _chunks(len(row.x), num_blocks):
        for count in _transfer_counts(row.masked[start:end], steps):
            if not row.masked.any():
                return
            # Besides its own positions also what earlier sub-blocks have left masked.
            candidates = row.masked
            candidates[end:] = False
            ended |= row.denoise(candidates, count, ends_at_eos=True)
        if ended:
            return


def _correct(row: _Row) -> None:
    """``transcribe_correction``, strategy ``diffusion``: mask a share, fill it."""
    count = int(len(row.x) * row.options.mask_ratio)
    if not count:
        return
    low_confidence = row.options.strategy == "deliberation_low_confidence"
    scores = row.confidence() if low_confidence else row.uniform()
    row.x[scores.argsort(stable=True)[:count]] = row.special.mask
    _fill(row, min(row.options.steps, count))


def _correct_chunks(row: _Row) -> None:
    """``transcribe_correction``, strategy ``semi_ar``: mask and fill chunk by chunk.

    A pass commits wherever a mask is, but only the chunk is taken over.
    """
    options, text = row.options, row.x
    steps = options.steps // options.num_blocks
    if not steps:
        return
    for start, end in _chunks(len(text), options.num_blocks):
        row.x = text.clone()
        row.x[start:end] = row.special.mask
        _fill(row, steps)
        text[start:end] = row.x[start:end]
    row.x = text


def _fill(row: _Row, steps: int) -> None:
    for count in _transfer_counts(row.masked, steps):
        if not row.masked.any():
            return
        row.denoise(row.masked, count)


def _chunks(length: int, num: int) -> Iterator[tuple[int, int]]:
    """First position and end of each; the last one takes what is left."""
    size = length // num
    for i in range(num):
        yield i * size, length if i == num - 1 else (i + 1) * size


def _transfer_counts(masked: Tensor, steps: int) -> Iterator[int]:
    """``get_num_transfer_tokens``: how many positions each pass commits."""
    share, rest = divmod(int(masked.sum()), steps)
    return (share + (i < rest) for i in range(steps))


class _Row:
    """One row of a batch, and the LLM's passes over it.

    Attributes:
        x: (L,) int64, its tokens.
        log_probs: (L,) float32, see ``SamplerResult``.
        passes: made so far.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        canvas: Canvas,
        number: int,
        options: ReleaseSamplerOptions,
        special: SpecialTokens,
        seed: int,
        on_pass: OnPass | None,
    ):
        self.logits_fn, self.canvas, self.number = logits_fn, canvas, number
        self.options, self.special, self.on_pass = options, special, on_pass
        self.x = canvas.tokens[number, : canvas.lengths[number]].clone()
        self.log_probs, self.passes = torch.zeros_like(self.x, dtype=torch.float32), 0
        self.random = RowRandom([seed], self.x.device)

    @property
    def masked(self) -> Tensor:
        """(L,) bool."""
        return self.x == self.special.mask

    def uniform(self) -> Tensor:
        """(L,) random numbers."""
        return self.random.uniform(torch.tensor([len(self.x)]), len(self.x))[0]

    def confidence(self) -> Tensor:
        """(L,) log-probability of each token, on a canvas of EOS: one pass."""
        nothing = torch.zeros_like(self.masked)
        found = self._forward(torch.full_like(self.x, self.special.eos), ~nothing)
        confidence = found.gather(-1, self.x[:, None])[:, 0]
        self._tell(self.x, nothing, confidence)
        return confidence

    def denoise(
        self, candidates: Tensor, count: int, ends_at_eos: bool = False
    ) -> bool:
        """One pass: the ``count`` surest candidates take their most probable token.

        That may be the mask token, or an EOS with words behind it.

        Args:
            candidates: (L,) bool; where there are fewer, all of them are taken.
            count: may be 0.
            ends_at_eos: everything behind an EOS becomes EOS.

        Returns:
            Whether an EOS was among them.
        """
        seen, places = self.x.clone(), candidates.nonzero()[:, 0]
        found = self._forward(self.x, candidates)
        temperature, noise = self.options.temperature, None
        if temperature and len(places):
            size = len(self.x), found.shape[-1]
            noise = self.random.gumbel(torch.tensor(size[:1]), *size)[0][candidates]
        tokens, values = propose(found, temperature, noise)
        scores = values
        if self.options.remasking == "random" and len(places):
            scores = -self.uniform()[candidates]
        order = scores.argsort(descending=True, stable=True)[:count]
        chosen = places[order]
        self.x[chosen], self.log_probs[chosen] = tokens[order], values[order]
        ends = chosen[tokens[order] == self.special.eos]
        if ends_at_eos and len(ends):
            behind = int(ends.min()) + 1
            self.x[behind:], self.log_probs[behind:] = self.special.eos, 0.0
        committed = torch.zeros_like(candidates)
        committed[chosen] = True
        self._tell(seen, committed, self.log_probs)
        return bool(len(ends))

    def _forward(self, x: Tensor, wanted: Tensor) -> Tensor:
        """(N, V) float32 log-probabilities of the wanted positions of ``x``."""
        self.passes += 1
        asked = torch.zeros_like(self.canvas.tokens, dtype=torch.bool)
        tokens = self._whole(self.canvas.tokens, x)
        logits = self.logits_fn(tokens, self._whole(asked, wanted))
        return logits.float().log_softmax(dim=-1)

    def _tell(self, seen: Tensor, committed: Tensor, log_probs: Tensor) -> None:
        """Show a pass to whoever watches; of the batch's other rows the canvas."""
        if self.on_pass is None:
            return
        tokens, nothing = self.canvas.tokens, torch.zeros_like(self.canvas.tokens)
        rows = torch.zeros_like(self.canvas.lengths, dtype=torch.bool)
        rows[self.number] = True
        self.on_pass(
            Pass(
                self._whole(tokens, seen),
                self._whole(tokens, self.x),
                self._whole(nothing.bool(), committed),
                self._whole(nothing.float(), log_probs),
                rows,
            )
        )

    def _whole(self, batch: Tensor, own: Tensor) -> Tensor:
        """(B, L): a batch with something else in this row."""
        batch = batch.clone()
        batch[self.number, : len(own)] = own
        return batch
