"""OpenAI Whisper's English text normaliser, the one the paper scores with.

``import whisper`` would pull torch, numba and tiktoken. Its ``normalizers`` sub-package
needs only ``more_itertools`` and ``regex``, so that alone is loaded, on first use.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from espnet_llada.types import UserError

_ALIAS = "espnet_llada.scoring._whisper_normalizers"
_MEND = "pip install --no-deps openai-whisper==20250625 more-itertools regex"


@functools.lru_cache(maxsize=1 << 16)  # a reference recurs once for each system
def normalize(text: str) -> str:
    """Lower case, no punctuation, American spelling, numbers as digits, and the like.

    Args:
        text: any transcript.

    Returns:
        The text as Whisper's ``EnglishTextNormalizer`` leaves it, without spaces at
        the ends. It may be empty ("uh, mm").

    Raises:
        UserError: openai-whisper, or what its normaliser needs, is not installed; or
            it fails, as on a number of more digits than Python converts.
    """
    try:
        return _normalizer()(text).strip()
    except (AssertionError, ValueError) as e:
        raise UserError(
            f"{text[:40]!r}…: Whisper's normaliser fails on it; correct this transcript"
        ) from e


def normalize_all(texts: Mapping[str, str]) -> dict[str, str]:
    """``normalize`` over the transcripts of ``utterance id -> transcript``."""
    return {utt: normalize(text) for utt, text in texts.items()}


@functools.cache
def _normalizer() -> Callable[[str], str]:
    try:
        whisper = importlib.util.find_spec("whisper")
    except ValueError:  # a stub in sys.modules without a spec
        whisper = None
    folders = (whisper and whisper.submodule_search_locations) or []
    for init in (Path(d) / "normalizers" / "__init__.py" for d in folders):
        if init.is_file():
            return _load(init).EnglishTextNormalizer()
    raise UserError(f"openai-whisper is not installed (its normaliser scores): {_MEND}")


def _load(init: Path):
    """Import a package from its ``__init__.py``, without its parent's."""
    spec = importlib.util.spec_from_file_location(
        _ALIAS, init, submodule_search_locations=[str(init.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_ALIAS] = module  # its relative imports look the package up there
    try:
        spec.loader.exec_module(module)
    except ImportError as e:
        del sys.modules[_ALIAS]
        raise UserError(f"{init}: cannot be imported ({e}): {_MEND}") from e
    return module
