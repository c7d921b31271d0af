"""Options of the published sampler: what it can do of the core's, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from espnet_llada.core.options import SamplerOptions, require

_FIXED = {
    "tokens_per_second": "0: the release's canvas is fixed",
    "positions_per_vector": "0: the release's canvas is fixed",
    "mask_below": "0: the release masks a share",
    "slots_below": "0: the release keeps the length",
    "verify": "false: the release reads once",
    "second_opinion": "false: the release reads once",
    "block_cache": "false: the release computes all anew",
    "refine": "0: the release has no draft",
    "reader_weight": "0: the release's LM decides alone",
    "measuring_passes": "1: the release's",
    "threshold": "0: the release has a fixed schedule",
}
"""Options that keep the core's default, and why."""


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
        require(self.strategy != "mask_ctc", "strategy", self.strategy, "the paper's")
        for name, allowed in _FIXED.items():
            value = getattr(self, name)
            require(value == getattr(SamplerOptions, name), name, value, allowed)
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
