"""Whisper-LLaDA (arXiv 2509.16622) as a plugin for ESPnet2.

    import espnet_llada
    espnet_llada.register()          # `decoder: llada` now works in a train YAML

Nothing heavy is imported until it is asked for: names below load on first use.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_LAZY = {
    "Speech2Text": "espnet_llada.inference.api",
    "Deliberator": "espnet_llada.inference.api",
    "UserError": "espnet_llada.types",
}

__all__ = ["Deliberator", "Speech2Text", "UserError", "register"]


def register() -> None:
    """Put our classes into ESPnet2's choices, and behind its ``Speech2Text``.

    See ``espnet_llada.espnet.register`` and the hooks of ``espnet.inference``.
    """
    importlib.import_module("espnet_llada.espnet.register").register()
    inference = importlib.import_module("espnet_llada.espnet.inference")
    inference.hook_speech2text()
    inference.hook_others()


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
