"""Models as ``espnet2.bin.pack asr`` packs them: a zip, or what unpacking one leaves.

A pack has a ``meta.yaml`` that names its files. Their names, and the paths inside the
packed config.yaml, are those of the machine that packed it, relative to the directory
of the recipe there.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from msgspec import Meta, Struct

from espnet_llada.data_file import read_yaml
from espnet_llada.schema import checked
from espnet_llada.types import UserError
from espnet_llada.weights import cache_dir, cached_sha256

META = "meta.yaml"
_CONFIG, _MODEL = "asr_train_config", "asr_model_file"
PackedName = Annotated[
    str, Meta(pattern="^/?([^/]{1,255}/)*[^/]{1,255}$", max_length=1000)
]
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def unpack(archive: Path) -> Path:
    """Unpack a zip into the cache, once for each content.

    Returns:
        The directory, which holds ``meta.yaml``.

    Raises:
        UserError: not a pack, damaged, with a member that would land elsewhere, or the
            disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            if META not in opened.namelist():
                raise UserError(
                    f"{archive}: no packed model ({META} is not in it); name a zip "
                    "that stage 14 made, or a model directory"
                )
            home = cache_dir() / "packs" / cached_sha256(archive)
            if not home.is_dir():
                _extract(opened, archive, home)
    except _DAMAGE as e:
        raise UserError(
            f"{archive}: not a whole zip ({e or type(e).__name__}); copy or pack it "
            "again"
        ) from e
    except OSError as e:
        raise UserError(
            f"{e.filename or archive}: {e.strerror or e}; free some space, or set "
            "ESPNET_LLADA_CACHE to a writable directory"
        ) from e
    return home


def _extract(opened: zipfile.ZipFile, archive: Path, home: Path) -> None:
    """Make ``home`` in one rename, so that it exists only when it is complete."""
    for member in opened.infolist():
        link = stat.S_ISLNK(member.external_attr >> 16)
        if link or not _is_inside(member.filename):
            raise UserError(
                f"{archive}: its member '{member.filename}' would be written outside "
                "the directory of the model; get the zip from its author again"
            )
    home.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unpack.", dir=home.parent))
    try:
        opened.extractall(temporary)
        temporary.chmod(0o755)  # mkdtemp makes 0700; the cache may be shared
        try:
            os.rename(temporary, home)
        except OSError:
            if not home.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


class _Configs(Struct):
    asr_train_config: PackedName


class _Models(Struct):
    asr_model_file: PackedName


class _Meta(Struct):
    """Of meta.yaml the files of an ASR model."""

    yaml_files: _Configs
    files: _Models


def packed_files(directory: Path) -> tuple[Path, Path] | None:
    """Config and checkpoint of an unpacked model; None where there is no meta.yaml.

    Raises:
        UserError: the meta.yaml is not of an ASR model, or a file of it is missing.
    """
    path = directory / META
    if not path.is_file():
        return None
    try:
        meta = checked(read_yaml(path), _Meta, path)
    except UserError as e:
        raise UserError(
            f"{e}: names no {_CONFIG} and {_MODEL}; pack it with "
            "'python -m espnet2.bin.pack asr'"
        ) from e
    named = meta.yaml_files.asr_train_config, meta.files.asr_model_file
    config, model = (_beside(directory, name) for name in named)
    for name, file in zip(named, (config, model), strict=True):
        if file is None or not file.is_file():
            raise UserError(f"{path}: '{name}' is not beside it; unpack it again")
    return config, model


def _beside(directory: Path, name: object) -> Path | None:
    """Where a packed file lies; None when it has no place in the directory."""
    # zip strips the leading slash of what was outside the packer's directory.
    relative = str(name).lstrip("/")
    return directory / relative if relative and _is_inside(relative) else None


def own_paths(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A config whose paths name the files packed with it.

    Args:
        config: the content of ``path``.
        path: where it lies; without a meta.yaml above it nothing changes.
    """
    for directory in path.absolute().parents:
        try:
            files = packed_files(directory)
        except UserError:
            continue  # some other meta.yaml
        if files and files[0] == path.absolute():
            return _replaced(config, directory)
    return dict(config)


def _replaced(value: Any, directory: Path) -> Any:
    if isinstance(value, Mapping):
        return {k: _replaced(v, directory) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(v, directory) for v in value]
    packed = _beside(directory, value) if isinstance(value, str) else None
    # A file, or a Hugging Face directory of weights.
    if packed and (packed.is_file() or (packed / "config.json").is_file()):
        return str(packed)
    return value
