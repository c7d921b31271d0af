"""Where extensions are; each is imported when a config, or an option, asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from espnet_llada.types import UserError

EXTENSIONS = {
    "draft_refinement": "espnet_llada.extensions.draft_refinement",
    "canvas_size": "espnet_llada.extensions.canvas_size",
    "mask_ctc": "espnet_llada.extensions.mask_ctc",
    "confidence": "espnet_llada.extensions.confidence",
    "placeholders": "espnet_llada.extensions.placeholders",
    "joint": "espnet_llada.extensions.joint_decoding",
    "rescoring": "espnet_llada.extensions.rescoring",
    "block_cache": "espnet_llada.extensions.lm_cache",
}
"""Of decoding, by the names of their options, in the order in which they act. Each has
``Options``, a dataclass, and ``Hook``, a ``DecodingHook``."""


def named(place: str) -> Any:
    """What ``module:name`` says.

    Raises:
        UserError: this installation lacks the module.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as e:
        raise UserError(
            f"{name}: this installation of espnet_llada lacks {module}; install it "
            "whole"
        ) from e
