"""How a canvas is filled: strategy, budget, and what is masked; checked once, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from espnet_llada.io.schema import Count, Share, Weight, check_options
from espnet_llada.types import UserError

STRATEGIES = (
    "diffusion",
    "semi_ar",
    "mask_ctc",
    "deliberation_random",
    "deliberation_low_confidence",
    "deliberation_semi_ar",
)


Positions = Annotated[int, Meta(ge=1, le=8192)]
"""Of a canvas; no LM here knows more."""
Rate = Annotated[float, Meta(ge=0.0, le=1000.0)]
Rounds = Annotated[int, Meta(ge=0, le=1000)]


@dataclass(frozen=True)
class SamplerOptions:
    """How a canvas is filled. Conflicting values are refused here, once.

    Attributes:
        strategy: one of ``STRATEGIES``.
        steps: the budget of LLM forward passes for each utterance, the pass that
            measures a transcript's confidence included. A block never takes more
            passes than it has masked positions, so a large budget is clamped by what
            there is to fill.
        canvas_length: response positions of a decoding canvas (tokens), or the most of
            them with ``tokens_per_second``.
        tokens_per_second: above 0, an utterance's canvas has so many positions for each
            second, and two; a canvas near the transcript's length is cheaper, and what
            training with a small ``canvas_slack`` has seen.
        positions_per_vector: above 0, likewise for each vector that the LLM hears and
            that is likely a word, and two: for ``projection: words``.
        num_blocks: sub-blocks, filled left to right (``semi_ar``,
            ``deliberation_semi_ar``). Clamped to ``steps`` and to the positions there
            are, since each sub-block takes at least one pass and one position.
        mask_ratio: share of the transcript's positions that deliberation masks
            (``mask_ctc``: of the draft's), rounded down; where that is none, the
            transcript is returned unchanged.
        mask_below: above 0, not a share of the positions is masked but every token that
            is less probable, in [0, 1]: by the LM (``deliberation_low_confidence``) or
            by the CTC (``mask_ctc``, as in Mask-CTC).
        measuring_passes: forward passes in which ``deliberation_low_confidence`` asks
            for a transcript's tokens: one hides all of them at once, two every other
            one, and so on; the others are there to read. 0 asks the adapter that reads
            along the transcript, which takes no pass (``text_qformer``).
        refine: rounds in which the adapter corrects the draft that it reads along, by
            itself, before the LM sees it (``text_qformer``; not in deliberation).
        slots_below: above 0, a canvas over a text has an empty position before each
            token that reading along finds less probable; it is masked with that token,
            may take one, and any masked token may leave its position empty, so that the
            text grows and shrinks (for a model trained with ``slots``).
        verify: read along what has become of a text as well, and keep the text of
            before unless that finds the new one likelier by a nat; it takes no LLM
            pass.
        second_opinion: let the adapter spell the utterance by itself as well, and take
            over from that what reading along finds likelier by two nats
            (``text_qformer``); it takes no LLM pass.
        temperature: 0 commits the most probable token; above 0 tokens are drawn.
        remasking: which masked positions a pass commits: those of highest
            ``confidence``, or ``random`` ones.
        tail: EOS positions that deliberation appends to a transcript and masks as
            well, so that the transcript can grow.
        seed: makes random masks and draws repeatable, for each utterance id.
        threshold: above 0, a pass also commits every position whose token is at least
            so probable, in [0, 1]: sure positions are not held back for the budget, and
            an easy utterance takes fewer passes.
        beam_size: hypotheses that an autoregressive LM keeps; 1 is greedy. The
            strategies of masked diffusion search no beam.
        reader_weight: above 0, LM and adapter decide together (``text_qformer``): so
            many times the log-probability that reading along gives is added to the
            LM's. An autoregressive LM asks for the next token of its own text; masked
            diffusion for a row's first masked position, with what stands behind it,
            and commits that in every pass (``extensions.joint_decoding``).
        block_cache: after the first pass of a sub-block compute its masked positions
            alone; all others, prompt and audio included, keep the keys and values of
            that pass. Faster, and an approximation (``core.passes.Passes``).
        longest_piece: seconds, at most Whisper's 30. A recording that is longer is cut
            where it is quiet and decoded piece by piece: for a model that was trained
            on shorter utterances.

    Raises:
        UserError: a value outside its range.
    """

    strategy: Literal[STRATEGIES] = "diffusion"
    steps: Count = 32
    canvas_length: Positions = 64
    tokens_per_second: Rate = 0.0
    positions_per_vector: Rate = 0.0
    num_blocks: Count = 1
    mask_ratio: Share = 0.5
    mask_below: Share = 0.0
    measuring_passes: Rounds = 1
    refine: Rounds = 0
    slots_below: Share = 0.0
    verify: bool = False
    second_opinion: bool = False
    temperature: Weight = 0.0
    remasking: Literal["confidence", "random"] = "confidence"
    tail: Annotated[int, Meta(ge=0, le=8192)] = 1
    seed: Annotated[int, Meta(ge=-(2**62), le=2**62)] = 0
    threshold: Share = 0.0
    beam_size: Annotated[int, Meta(ge=1, le=1024)] = 1
    reader_weight: Weight = 0.0
    block_cache: bool = False
    longest_piece: Annotated[float, Meta(ge=1.0, le=30.0)] = 30.0

    def __post_init__(self) -> None:
        check_options(vars(self), type(self))
        measures = self.strategy in ("mask_ctc", "deliberation_low_confidence")
        allowed = "0: this strategy knows no probability of a token"
        require(not self.mask_below or measures, "mask_below", self.mask_below, allowed)
        rounds, allowed = self.refine, "0: deliberation has no draft of its own"
        require(not (rounds and self.deliberates), "refine", rounds, allowed)
        for name in ("slots_below", "verify"):
            value, allowed = getattr(self, name), "0: no text is on the canvas"
            require(not value or self.edits, name, value, allowed)
        fewest, why = self.fewest_steps, "measuring the transcript's confidence takes"
        require(self.steps >= fewest, "steps", self.steps, f">= {fewest}: {why} passes")

    @property
    def fewest_steps(self) -> int:
        """The passes that measure a transcript, and one to fill it."""
        measures = self.strategy == "deliberation_low_confidence"
        return 1 + measures * self.measuring_passes

    @property
    def deliberates(self) -> bool:
        """Whether the strategy starts from a first-pass transcript."""
        return self.strategy.startswith("deliberation")

    @property
    def changes_nothing(self) -> bool:
        """Whether deliberation is to mask no share of a transcript, none at all."""
        return self.deliberates and not self.mask_ratio and not self.mask_below

    @property
    def edits(self) -> bool:
        """Whether the canvas holds a text on entry: a first pass, or the CTC draft."""
        return self.deliberates or self.strategy == "mask_ctc"

    @property
    def reads_along(self) -> str | None:
        """The option, if any, that needs a model which reads along a transcript."""
        by_reading = self.strategy == "deliberation_low_confidence"
        needing = {
            "measuring_passes": by_reading and not self.measuring_passes,
            "refine": self.refine > 0,
            "slots_below": self.slots_below > 0,
            "verify": self.verify,
            "second_opinion": self.second_opinion,
            "reader_weight": self.reader_weight > 0,
        }
        return next((name for name, needs in needing.items() if needs), None)

    @property
    def resizes(self) -> bool:
        """Whether EOS on the canvas is an empty position, and no end."""
        return self.edits and self.slots_below > 0


def require(holds: bool, name: str, value: object, allowed: object) -> None:
    """Refuse an option's value in one line, unless it ``holds``.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    if not holds:
        raise UserError(f"{name}: {value!r} does not fit; allowed: {allowed}")
