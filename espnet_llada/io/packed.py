"""Models as ``espnet2.bin.pack asr`` packs them: a zip, or what unpacking one leaves.

A pack has a ``meta.yaml`` that names its files. Their names, and the paths inside the
packed config.yaml, are those of the machine that packed it, relative to the directory
of the recipe there.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from msgspec import Struct

from espnet_llada.io.files import (
    TEXT_SUFFIXES,
    cache_dir,
    checksum_file,
    new_directory,
    not_writable,
    read_yaml,
    write_checksum,
)
from espnet_llada.io.schema import checked
from espnet_llada.io.weights import WEIGHT_SUFFIXES, cached_sha256
from espnet_llada.types import UserError

META = "meta.yaml"
_CONFIG, _MODEL = "asr_train_config", "asr_model_file"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
_PLAIN = (0, stat.S_IFREG, stat.S_IFDIR)

# What is unpacked without being asked. Packs hold trained tensors (MBs, which hardly
# compress), a config and pictures.
MAX_BYTES = 4 << 30
MAX_RATIO, ANY_RATIO_BYTES = 100, 16 << 20
MAX_MEMBERS, MAX_NAME = 10_000, 1_000


def unpack(archive: Path) -> Path:
    """Unpack a zip into the cache, once for each content.

    Returns:
        The directory, which holds ``meta.yaml``.

    Raises:
        UserError: not a pack, damaged, larger than a pack is, with a member that would
            land elsewhere, or the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as pack:
            if META not in pack.namelist():
                raise UserError(
                    f"{archive}: no packed model ({META} is not in it); name a zip "
                    "that stage 14 made, or a model directory"
                )
            home = cache_dir() / "packs" / cached_sha256(archive)
            if not home.is_dir():
                members = _checked_members(pack, archive)
                with new_directory(home) as made:
                    for path, member in members.items():
                        _write(pack, member, made / path)
    except (*_DAMAGE, OSError) as e:
        if not isinstance(e, OSError) or e.errno == errno.EINVAL:  # a place before 0
            raise UserError(
                f"{archive}: not a whole zip ({e or type(e).__name__}); copy or pack "
                "it again"
            ) from e
        raise not_writable(archive, e) from e
    return home


def _write(pack: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile reads no byte more than declared, and a member that has more is damaged.
    with pack.open(member) as source, open(target, "wb") as f:
        shutil.copyfileobj(source, f)
    sealed = WEIGHT_SUFFIXES + TEXT_SUFFIXES
    if target.suffix in sealed and not checksum_file(target).exists():
        write_checksum(target)


def _checked_members(
    pack: zipfile.ZipFile, archive: Path
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a pack by path, before any of it is read."""
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    by_hand = f"if you trust {archive}, unzip it yourself and name the directory"
    if (count := len(pack.infolist())) > MAX_MEMBERS:
        raise UserError(f"{archive}: holds {count} files; {by_hand}")
    for member in pack.infolist():
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in _PLAIN or "\0" in member.orig_filename or not _is_inside(name):
            raise UserError(
                f"{archive}: its member {name[:80]!a} would be written outside the "
                "directory of the model, or is no plain file; get the zip from its "
                "author again"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{archive}: compressed in an unusual way; {by_hand}")
        path = PurePosixPath(name)
        first = members.get(path, member)
        if (first.CRC, first.file_size) != (member.CRC, member.file_size):
            raise UserError(f"{archive}: has {name[:80]!a} twice; pack it again")
        if not member.is_dir():
            members[path] = member
    # Of one file system names differ that are the same on another.
    same = {str(path).casefold() for path in members}
    parents = (str(p).casefold() for path in members for p in path.parents)
    if len(same) < len(members) or any(parent in same for parent in parents):
        raise UserError(f"{archive}: two members would be one file; pack it again")
    total, packed = sum(m.file_size for m in members.values()), archive.stat().st_size
    if total > MAX_BYTES or total > max(MAX_RATIO * packed, ANY_RATIO_BYTES):
        raise UserError(
            f"{archive}: {packed / 1e6:.1f} MB that unpack to {total / 1e6:.1f} MB; "
            f"{by_hand}"
        )
    return members


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        not re.search(r"[\0-\x1f\x7f]", name)
        and "\\" not in name
        and not path.is_absolute()
        and not PureWindowsPath(name).drive
        and bool(path.parts)
        and ".." not in path.parts
        and len(name) < MAX_NAME
        and all(len(part.encode(errors="replace")) < 256 for part in path.parts)
    )


class _Configs(Struct):
    asr_train_config: str


class _Models(Struct):
    asr_model_file: str


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
    config, model = (_packed_path(directory, name) for name in named)
    for name, file in zip(named, (config, model), strict=True):
        if file is None or not file.is_file():
            raise UserError(f"{path}: '{name}' is not next to it; unpack it again")
    return config, model


def _packed_path(directory: Path, name: str) -> Path | None:
    """Path of a packed file; None for one that would lie outside the directory."""
    # zip strips the leading slash of what was outside the packer's directory.
    relative = name.lstrip("/")
    return directory / relative if relative and _is_inside(relative) else None


def own_paths(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A config with its paths changed to the files packed with it.

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
    packed = _packed_path(directory, value) if isinstance(value, str) else None
    # A file, or a Hugging Face directory of weights.
    if packed and (packed.is_file() or (packed / "config.json").is_file()):
        return str(packed)
    return value
