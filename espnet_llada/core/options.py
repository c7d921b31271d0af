"""Options of decoding and deliberation, as the paper varies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from espnet_llada.io.schema import Count, Share, Weight, check_options, require

STRATEGIES = (
    "diffusion",
    "semi_ar",
    "deliberation_random",
    "deliberation_low_confidence",
    "deliberation_semi_ar",
)

Positions = Annotated[int, Meta(ge=1, le=8192)]
"""Canvas positions; more than the LMs are trained for is refused."""


@dataclass(frozen=True)
class SamplerOptions:
    """Options of the sampler, described by the annotation of each field.

    At most one of ``steps`` is used for each masked position; ``num_blocks`` is clamped
    to ``steps`` and to the positions. A ``mask_ratio`` of less than one token leaves a
    transcript unchanged. A value outside its range is a UserError.
    """

    strategy: Annotated[
        Literal[STRATEGIES], Meta(description="how the canvas is filled")
    ] = "diffusion"
    steps: Annotated[
        Count, Meta(description="budget of LLM passes for an utterance")
    ] = 32
    canvas_length: Annotated[
        Positions, Meta(description="positions of an empty canvas, in tokens")
    ] = 64
    num_blocks: Annotated[
        Count, Meta(description="sub-blocks that semi_ar fills one by one")
    ] = 1
    mask_ratio: Annotated[
        Share, Meta(description="share of a transcript that is masked")
    ] = 0.5
    temperature: Annotated[
        Weight, Meta(description="0: the most probable token; above: sampling")
    ] = 0.0
    remasking: Annotated[
        Literal["confidence", "random"], Meta(description="what a pass commits first")
    ] = "confidence"
    threshold: Annotated[
        Share, Meta(description="above 0: also commit tokens that probable")
    ] = 0.0
    tail: Annotated[
        int, Meta(ge=0, le=8192, description="tokens by which a transcript may grow")
    ] = 1
    seed: Annotated[
        int, Meta(ge=-(2**62), le=2**62, description="of random masks and draws")
    ] = 0

    def __post_init__(self) -> None:
        check_options(vars(self), type(self))
        fewest, why = self.fewest_steps, "measuring the transcript takes a pass"
        require(self.steps >= fewest, "steps", self.steps, f">= {fewest}: {why}")

    @property
    def fewest_steps(self) -> int:
        """One pass to fill the canvas, and one if a transcript is measured first."""
        return 1 + (self.strategy == "deliberation_low_confidence")

    @property
    def deliberates(self) -> bool:
        """Whether the strategy starts from a first-pass transcript."""
        return self.strategy.startswith("deliberation")
