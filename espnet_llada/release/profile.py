"""What the default sampler does otherwise than the paper's release, as data.

README.md beside this file has the same differences as a table, with the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Behaviours that differ between the profiles.

    Attributes:
        commits_mask_token: the mask token may be an answer (the position then stays
            masked and is taken up again).
        protects_text: no EOS is committed left of a word, each is as sure as all that
            it decides (``confidence.ends``), and in deliberation too it ends its row.
        measures_on_eos: low-confidence deliberation measures a transcript on a canvas
            of EOS tokens (the release's pad token) instead of mask tokens.
        measuring_is_free: that pass is not taken from the budget.
        drops_remainders: sub-blocks have length // num positions (the last takes what
            is left) and steps // num passes; otherwise both are shared out evenly.
        looks_beyond_block: passes go on while a mask stands anywhere on the canvas,
            whether or not this sub-block has one.
    """

    commits_mask_token: bool
    protects_text: bool
    measures_on_eos: bool
    measuring_is_free: bool
    drops_remainders: bool
    looks_beyond_block: bool


PROFILE = {
    "default": Profile(
        commits_mask_token=False,
        protects_text=True,
        measures_on_eos=False,
        measuring_is_free=False,
        drops_remainders=False,
        looks_beyond_block=False,
    ),
    "release": Profile(
        commits_mask_token=True,
        protects_text=False,
        measures_on_eos=True,
        measuring_is_free=True,
        drops_remainders=True,
        looks_beyond_block=True,
    ),
}
