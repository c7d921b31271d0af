"""Options of the published sampler: what it can do of the core's, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from espnet_llada.core.options import SamplerOptions
from espnet_llada.io.schema import require


@dataclass(frozen=True)
class ReleaseSamplerOptions(SamplerOptions):
    """How ``release.sampler`` fills a canvas: ``profile: release``.

    Attributes:
        tail: none: the published deliberation keeps a transcript's length.
        profile: says in a decoding's records whose options these are.

    Raises:
        UserError: a value outside its range, or that the published code has not got.
    """

    tail: Annotated[int, Meta(ge=0, le=8192)] = 0
    profile: Literal["release"] = "release"

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "0: the release has a fixed schedule"
        require(not self.threshold, "threshold", self.threshold, allowed)
        if self.strategy == "semi_ar":
            allowed = f"a divisor of canvas_length {self.canvas_length} and of steps"
            fits = self.canvas_length % self.num_blocks == 0
            fits = fits and self.steps % self.num_blocks == 0
            require(fits, "num_blocks", self.num_blocks, f"{allowed} {self.steps}")
        if self.deliberates:
            allowed = "0: the release keeps the length"
            require(self.tail == 0, "tail", self.tail, allowed)

    @property
    def fewest_steps(self) -> int:
        """One: measuring a transcript is no part of the budget."""
        return 1
