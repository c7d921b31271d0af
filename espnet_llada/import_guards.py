"""Imports of ESPnet2 and transformers that fail, or do too much, without our help.

PyPI's torchaudio wheels link their native extension against CUDA, so next to a CPU
torch the import raises OSError (libc10_cuda.so). ESPnet2 and transformers both import
torchaudio, yet neither needs that extension here: with the library left out,
torchaudio runs in pure PyTorch, which is a mode of its own (``_load_lib`` documents
it).

ESPnet2 imports g2p_en wherever it imports a tokenizer, and g2p_en downloads data of
nltk's while it is imported: the jobs of a stage that start at once do so over one
another (espnet/espnet issue 3774), a machine without a network complains in each log
(4553). Both this and a cleaner of texts for TTS import inflect, which takes 4 s: a
third of the time of any command that tokenizes. Neither is of use here.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from unittest import mock


def before_espnet() -> None:
    """To be called before ESPnet2 is imported."""
    import_torchaudio()
    import_when_used("g2p_en")
    import_when_used("tacotron_cleaner.cleaners")


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


def import_when_used(name: str) -> None:
    """Let a module be imported without running it until something of it is used.

    Nor are the packages run that it is in. ``importlib.util.LazyLoader`` would do, if
    the import statement of Python before 3.12 did not ask the module for its
    ``__spec__``, which it counts as a use. What is not installed, or is imported
    already, is left alone.
    """
    if name in sys.modules:
        return
    package, _, own = name.rpartition(".")
    if package:
        import_when_used(package)
        where = getattr(sys.modules.get(package), "__path__", [])
        spec = PathFinder.find_spec(name, where)
    else:
        spec = importlib.util.find_spec(name)
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _WhenUsed
    sys.modules[name] = module
    if package:
        setattr(sys.modules[package], own, module)


class _WhenUsed(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):  # asked for by those who look at any module
            raise AttributeError(name)
        self.__class__ = ModuleType  # while it runs a missing name is just missing
        try:
            self.__spec__.loader.exec_module(self)
        except BaseException:
            self.__class__ = _WhenUsed  # the next use gets the error as well
            raise
        return getattr(self, name)
