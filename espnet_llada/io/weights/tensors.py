"""Writes and reads the tensors of weights files, one by one through memory maps.

The pages of a memory map count as memory until it is closed, so that a file read
through one map and converted costs its own size on top of the result: 1.5 times the
result for bf16 to fp32, 3 times for the other way. Here maps are closed on the way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from espnet_llada.io.files import LARGE, checksum_file, checksum_line, sha256
from espnet_llada.types import UserError, atomic_write

_PORTION = 32 << 20  # bytes read through one map of a .pt


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        file, name: where it lies, and its name there.
        shape, dtype: from the file's header.
        load: reads it; what comes back may lie in a memory map.
    """

    file: Path
    name: str
    shape: torch.Size
    dtype: torch.dtype
    load: Callable[[], Tensor]

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """A copy in memory, in its own or another dtype."""
        return self.load().to(dtype or self.dtype, copy=True)


def check_tensors(
    expected: Mapping[str, torch.Size],
    have: Mapping[str, Tensor | StoredTensor],
    source: object,
) -> None:
    """Refuse tensors that are not exactly those of their config.

    Args:
        expected: name -> shape, what the config makes.
        have: name -> what the file holds.
        source: file or directory, for the message.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    missing = sorted(expected.keys() - have.keys())
    unexpected = sorted(have.keys() - expected.keys())
    if missing or unexpected:
        raise UserError(
            f"{source}: not the tensors that its config describes; missing: "
            f"{_few(missing)}; unexpected: {_few(unexpected)}"
        )
    for name, shape in expected.items():
        if have[name].shape != shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(have[name].shape)}, its config "
                f"makes {tuple(shape)}; use the config that belongs to it"
            )


def _few(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of weights, by their names in a safetensors file."""


def stored_safetensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """All tensors of (the shards of) a model; headers only are read.

    Raises:
        UserError: a file is missing or damaged, or two hold the same tensor.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        with _open(file) as opened:
            for name in opened.keys():
                if name in found:
                    raise UserError(
                        f"{file}: tensor {name} is in {found[name].file.name} as "
                        "well; leave one of the two files in the directory"
                    )
                found[name] = _in_safetensors(file, name, opened)
    return found


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError, RuntimeError) as e:
        raise UserError(f"{file}: not readable ({e}); download it again") from e


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file and its checksum file.

    Raises:
        UserError: the disk is full or the directory not writable; an old file, if any,
            is intact.
    """
    # Some openai-whisper files hold transposed views.
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    line = checksum_file(path)
    with atomic_write(line) as checksum, atomic_write(path) as temporary:
        try:
            save_file(content, os.fspath(temporary), metadata={"format": "pt"})
        except SafetensorError as e:
            found = re.search(r"os error (\d+)", str(e))
            code = int(found[1]) if found else errno.EIO
            raise OSError(code, os.strerror(code)) from e
        checksum.write_text(checksum_line(sha256(temporary), path.name))
        line.unlink(missing_ok=True)  # at no moment the old one with new tensors


def _in_safetensors(file: Path, name: str, opened: Any) -> StoredTensor:
    def load() -> Tensor:
        # A map of its own for each tensor; opening costs less than a millisecond.
        with _open(file) as again:
            return again.get_tensor(name)

    header = opened.get_slice(name)
    shape = torch.Size(header.get_shape())
    # A slice knows its dtype too, but takes milliseconds to make in a large file.
    dtype = _DTYPES.get(header.get_dtype())
    if dtype is None:
        dtype = (header[:0] if shape else opened.get_tensor(name)).dtype
    return StoredTensor(file, name, shape, dtype, load)


def torch_load(path: Path, kind: str) -> tuple[Any, bool]:
    """Content of a ``.pt`` without running its code, and whether it is mapped.

    Args:
        path: the file.
        kind: what it should be, for messages: "an openai-whisper checkpoint".

    Raises:
        UserError: no such file, not one that torch wrote, or it holds code.
    """
    options = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            return torch.load(path, mmap=True, **options), True
        except RuntimeError:  # mmap takes torch's zip format, not the one before it
            return torch.load(path, **options), False
    except Exception as e:  # of damaged files any
        raise UserError(
            f"{path}: not {kind} ({why_unreadable(e)}); download it again"
        ) from e


def check_crc(path: str | os.PathLike) -> None:
    """Check the CRCs in the zip that ``torch.save`` writes.

    torch itself reads over damaged bytes. Of a file from ``LARGE`` on it would take
    seconds, and is not done.

    Raises:
        ValueError, or another error of ``zipfile``: it is damaged.
    """
    if os.stat(path).st_size < LARGE and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            if damaged := opened.testzip():
                raise ValueError(f"{damaged} in it is damaged")


def is_plain(value: Any) -> bool:
    """Whether it is an ordinary dense tensor of real numbers."""
    return (
        torch.is_tensor(value)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_nested or value.is_quantized)
        and not value.is_complex()
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of it is infinite or NaN."""
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch has no more
    return bool(wide.isfinite().all())


def why_unreadable(error: Exception) -> str:
    """The reason that ``torch.load`` failed, on one line."""
    refused = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
    if refused:  # torch would advise to run the code
        return "damaged, or it holds code, which is not run"
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__


def stored_torch(
    path: Path, kind: str, state_of: Callable[[Any], Mapping[str, Tensor]]
) -> dict[str, StoredTensor]:
    """Tensors of a ``.pt``.

    Args:
        path: the file.
        kind: see ``torch_load``.
        state_of: finds the tensors in its content.

    Raises:
        UserError: see ``torch_load``; and whatever ``state_of`` raises.
    """
    source = _MappedState(path, kind, state_of)
    return {
        name: StoredTensor(path, name, t.shape, t.dtype, partial(source.load, name))
        for name, t in source.state.items()
    }


class _MappedState:
    """A ``.pt`` that is opened again after each portion, to free the pages read."""

    def __init__(self, path: Path, kind: str, state_of: Callable):
        self._path, self._kind, self._state_of = path, kind, state_of
        self._open()

    def _open(self) -> None:
        content, self._mapped = torch_load(self._path, self._kind)
        self.state = dict(self._state_of(content))
        self._read = 0

    def load(self, name: str) -> Tensor:
        if self._mapped and self._read > _PORTION:
            self.state.clear()
            self._open()
        tensor = self.state[name]
        self._read += tensor.nbytes
        return tensor
