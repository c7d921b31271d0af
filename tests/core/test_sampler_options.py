"""Options are checked once, by name."""

from __future__ import annotations

import pytest

from espnet_llada.core.options import SamplerOptions
from espnet_llada.types import UserError


@pytest.mark.parametrize(
    "bad",
    [
        {"mask_ratio": 1.01},
        {"mask_ratio": -0.1},
        {"steps": 0},
        {"num_blocks": 0},
        {"canvas_length": 0},
        {"temperature": -1.0},
        {"tail": -1},
        {"strategy": "beam"},
        {"remasking": "alphabetical"},
        {"strategy": "deliberation_low_confidence", "steps": 1},
        {"steps": "3"},
        {"steps": 1.5},
        {"steps": True},
        {"mask_ratio": "a"},
        {"mask_ratio": None},
        {"strategy": None},
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(bad):
    with pytest.raises(UserError) as e:
        SamplerOptions(**bad)
    assert list(bad)[-1] in str(e.value)
    assert "\n" not in str(e.value)
