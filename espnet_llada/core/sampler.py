"""The denoising loop: the only one in the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.masking import (
    Block,
    LogitsFn,
    Plan,
    commits_per_pass,
    log_probabilities,
    lowest,
    make_plan,
)
from espnet_llada.core.options import SamplerOptions
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import SpecialTokens


@dataclass(frozen=True)
class SamplerResult:
    """A filled batch.

    Attributes:
        tokens: (B, L) int64, without mask tokens; a row's text is its tokens but EOS.
            Behind the first EOS there are only more, except on a canvas with gaps.
        log_probs: (B, L) float32, natural log-probability of each token when it was
            committed; 0 for given tokens and for EOS implied by a committed EOS.
        passes: (B,) int64, forward passes spent on each row, planning included.
    """

    tokens: Tensor
    log_probs: Tensor
    passes: Tensor


@dataclass(frozen=True)
class Pass:
    """What one forward pass did, for observers of the sampler.

    Attributes:
        seen: (B, L) int64, the canvas before it; masked positions hold the mask token.
        tokens: (B, L) int64, the canvas after it.
        committed: (B, L) bool, positions committed by this pass; none if it measured a
            transcript.
        log_probs: (B, L) float32, natural log-probability of each token at the pass
            that committed or measured it; else 0.
        rows: (B,) bool, rows that took part in the pass.
    """

    seen: Tensor
    tokens: Tensor
    committed: Tensor
    log_probs: Tensor
    rows: Tensor


OnPass = Callable[[Pass], None]

Process = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Logits processor: canvas (B, L), positions where the pass may commit (B, L) bool,
their log-probabilities (N, V) -> new log-probabilities, and (B, L) bool, positions to
commit in any case, or None."""

MakePlan = Callable[[LogitsFn, Canvas, RowRandom], Plan]


@torch.no_grad()
def sample(
    logits_fn: LogitsFn,
    canvas: Canvas,
    options: SamplerOptions,
    special: SpecialTokens,
    seeds: Sequence[int] | None = None,
    on_pass: OnPass | None = None,
    process: Process | None = None,
    plan: MakePlan | None = None,
) -> SamplerResult:
    """Fill a batch of canvases.

    Row r of the result depends on row r of the canvas and on ``seeds[r]`` alone, if
    ``logits_fn`` treats rows independently.

    Args:
        logits_fn: see ``LogitsFn``.
        canvas: blank for decoding, a transcript for deliberation.
        options: the strategy and its budget.
        special: mask and EOS ids.
        seeds: random seed of each row; ``options.seed`` by default.
        on_pass: observer, called after each forward pass.
        process: logits processor, called in every pass.
        plan: what is masked; by default ``make_plan``.
    """
    if seeds is None:
        seeds = [options.seed] * len(canvas.tokens)
    random = RowRandom(seeds, canvas.tokens.device)
    if plan is None:
        todo = make_plan(logits_fn, canvas, options, special, random)
    else:
        todo = plan(logits_fn, canvas, random)
    given = logits_fn, canvas, options, special, random, on_pass, process
    return _Denoiser(*given).run(todo)


@dataclass
class _Denoiser:
    """State of one run of the denoising loop."""

    logits_fn: LogitsFn
    canvas: Canvas
    options: SamplerOptions
    special: SpecialTokens
    random: RowRandom
    on_pass: OnPass | None
    process: Process | None

    def __post_init__(self) -> None:
        self.tokens, self.ends_at_eos = self.canvas.tokens, not self.canvas.gaps
        self.log_probs = torch.zeros(self.tokens.shape, device=self.tokens.device)
        # Tokens of the first pass that are not (yet) masked: the sampler neither
        # changes nor truncates them.
        self.given = self.canvas.valid & (self.tokens != self.special.mask)
        # Rows with blocks left to fill, and rows that have committed an EOS.
        self.open = torch.ones_like(self.canvas.lengths, dtype=torch.bool)
        self.ended = ~self.open

    def run(self, plan: Plan) -> SamplerResult:
        passes = plan.spent.clone()
        if plan.measured is not None:
            none = torch.zeros_like(self.given)
            self.tell(self.tokens, none, plan.measured, plan.spent > 0)
        for block in plan.blocks:
            self.enter(block.positions)
            masked = self.masked(block)
            quota = commits_per_pass(masked.sum(dim=1), block.passes)
            for commits in quota.unbind(dim=1):
                masked = self.masked(block)
                alive = masked.any(dim=1)
                if not alive.any():
                    break
                passes += alive
                seen = self.tokens
                chosen = self.step(masked, commits)
                self.tell(seen, chosen, self.log_probs, alive)
            self.open &= ~self.ended
        return SamplerResult(self.tokens, self.log_probs, passes)

    def tell(
        self, seen: Tensor, committed: Tensor, log_probs: Tensor, rows: Tensor
    ) -> None:
        """Report a pass to the observer."""
        if self.on_pass is not None:
            self.on_pass(Pass(seen, self.tokens, committed, log_probs, rows))

    def enter(self, positions: Tensor) -> None:
        """Mask a block, except behind an EOS committed in this run."""
        committed_eos = (self.tokens == self.special.eos) & ~self.given
        committed_eos &= self.canvas.valid
        if self.ends_at_eos:
            positions = positions & (committed_eos.cumsum(dim=1) == 0)
        self.tokens = self.tokens.masked_fill(positions, self.special.mask)
        self.given = self.given & ~positions

    def masked(self, block: Block) -> Tensor:
        """(B, L) bool: positions where a pass over this block may commit."""
        masked = (self.tokens == self.special.mask) & block.positions
        return masked & self.open[:, None]

    def step(self, masked: Tensor, commits: Tensor) -> Tensor:
        """One forward pass: propose, commit the most confident, close the tail.

        Commits at least ``commits`` (B,) of the ``masked`` (B, L); returns which.
        """
        # Finished rows draw no random numbers, as if each row ran alone.
        draws = self.canvas.lengths * masked.any(dim=1)
        proposal, log_prob, settled = self._propose(masked, draws)
        if self.options.remasking == "random":
            order = self.random.uniform(draws, self.tokens.shape[1])
        else:
            order = -log_prob
        if settled is not None:
            order = order.masked_fill(settled, -torch.inf)
        chosen = lowest(order, masked, commits) | (masked & order.isneginf())
        if self.options.threshold:
            sure = log_prob >= math.log(self.options.threshold)
            chosen = chosen | (masked & sure)
        self.tokens = torch.where(chosen, proposal, self.tokens)
        self.log_probs = torch.where(chosen, log_prob, self.log_probs)
        if self.ends_at_eos:
            self._close_tail(chosen & (proposal == self.special.eos))
        return chosen

    def _propose(
        self, masked: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, log-probabilities, and positions to commit in any case; (B, L)."""
        logits = self.logits_fn(self.tokens, masked)
        log_probs = log_probabilities(logits, self.special)
        if self.ends_at_eos:
            log_probs = ends(log_probs, masked, self.tokens, self.special)
        settled = None
        if self.process is not None:
            log_probs, settled = self.process(self.tokens, masked, log_probs)
        temperature, noise = self.options.temperature, None
        if temperature:
            size = masked.shape[1], log_probs.shape[-1]
            noise = self.random.gumbel(draws, *size)[masked]
        tokens, values = propose(log_probs, temperature, noise)
        proposal = self.tokens.masked_scatter(masked, tokens)
        log_prob = torch.zeros_like(self.log_probs).masked_scatter(masked, values)
        return proposal, log_prob, settled

    def _close_tail(self, new_eos: Tensor) -> None:
        """Set everything behind a committed EOS to EOS, same-pass commits too."""
        eos = new_eos.long()
        self.ended = self.ended | new_eos.any(dim=1)
        tail = ((eos.cumsum(dim=1) - eos) > 0) & self.canvas.valid
        self.tokens = self.tokens.masked_fill(tail, self.special.eos)
        self.log_probs = self.log_probs.masked_fill(tail, 0.0)


def ends(
    log_probs: Tensor, masked: Tensor, tokens: Tensor, special: SpecialTokens
) -> Tensor:
    """Lower the log-probability of each EOS to that of the whole tail being EOS.

    An EOS decides every masked position up to the end of its row, so it gets the lowest
    EOS log-probability among them; left of a committed token it gets -inf.
    ``log_probs`` (N, V) belong to the ``masked`` positions of ``tokens`` (B, L); other
    masks are ignored.
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

    Above temperature 0 a token is drawn from softmax(logits / temperature) by Gumbel
    ``noise`` (N, V). The log-probability is the model's own (temperature 1) in both
    cases, as in LLaDA's generate.py.
    """
    if noise is None:
        best, tokens = log_probs.max(dim=-1)
        return tokens, best
    tokens = (log_probs / temperature + noise).argmax(dim=-1)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]
