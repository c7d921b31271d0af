"""Imports of ESPnet2 and transformers that fail, or do too much, without our help.

PyPI's torchaudio wheels link their native extension against CUDA, so next to a CPU
torch the import raises OSError (libc10_cuda.so). ESPnet2 and transformers both import
torchaudio, yet neither needs that extension here: with the library left out,
torchaudio runs in pure PyTorch, which is a mode of its own (``_load_lib`` documents
it).

ESPnet2 imports g2p_en wherever it imports a tokenizer, and g2p_en downloads data of
nltk's while it is imported: the jobs of a stage that start at once do so over one
another (espnet/espnet issue 3774), a machine without a network complains in each log
(4553). Only tokenizers of phonemes need it, so it waits for one.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType
from unittest import mock


def before_espnet() -> None:
    """To be called before ESPnet2 is imported."""
    import_torchaudio()
    import_when_used("g2p_en")


def import_torchaudio() -> None:
    """Import torchaudio where it is installed, without its extension if need be.

    To be called before transformers is imported.
    """
    if "torchaudio" in sys.modules or not importlib.util.find_spec("torchaudio"):
        return
    try:
        import torchaudio  # noqa: F401
    except OSError:
        _import_without_extension()


def _import_without_extension() -> None:
    find = pathlib.Path.glob

    def glob(self: pathlib.Path, pattern: str, **kwargs):
        if self.name == "lib" and self.parent.name == "torchaudio":
            return iter(())  # "the library file is not found": the documented fallback
        return find(self, pattern, **kwargs)

    for name in [m for m in sys.modules if m.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    with mock.patch.object(pathlib.Path, "glob", glob):
        import torchaudio  # noqa: F401


def import_when_used(package: str) -> None:
    """Let a package be imported without running it until something of it is used.

    ``importlib.util.LazyLoader`` would do, if the import statement of Python before
    3.12 did not ask the module for its ``__spec__``, which it counts as a use. A
    package that is not installed, or imported already, is left alone.
    """
    if package in sys.modules or not (spec := importlib.util.find_spec(package)):
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _WhenUsed
    sys.modules[package] = module


class _WhenUsed(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):  # asked for by those who look at any module
            raise AttributeError(name)
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
