"""Lets ``import torchaudio`` succeed beside a CPU build of torch.

PyPI's torchaudio wheels link their native extension against CUDA, so next to a CPU
torch the import raises OSError (libc10_cuda.so). ESPnet2 and transformers both import
torchaudio, yet neither needs that extension here: with the library left out,
torchaudio runs in pure PyTorch, which is a mode of its own (``_load_lib`` documents
it). Call ``import_torchaudio()`` before importing either.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from unittest import mock


def import_torchaudio() -> None:
    """Import torchaudio where it is installed, without its extension if need be."""
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
