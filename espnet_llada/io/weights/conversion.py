"""Runs a conversion once: its output is complete or absent, and records its sources.

The record, ``convert.json``, names every source and every file written with its size
and sha256. A second run that would read and write the same leaves all bytes alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from espnet_llada import __version__
from espnet_llada.io.files import (
    new_directory,
    read_json,
    sha256,
    write_checksums,
    write_json,
)
from espnet_llada.io.schema import checked
from espnet_llada.io.weights import (
    WEIGHT_SUFFIXES,
    Weights,
    cached_sha256,
    recorded_sha256,
)
from espnet_llada.types import UserError

RECORD = "convert.json"


def describe(weights: Weights) -> dict[str, Any]:
    """A source in the record: name, bytes and sha256 of its weights.

    Of a directory every file that a conversion may read is listed too.
    """
    path = weights.path
    if path.is_file():
        size = path.stat().st_size
        return {"name": path.name, "bytes": size, "sha256": weights.sha256}
    files = sorted(f for f in path.iterdir() if f.is_file())
    tensors = [f for f in files if f.suffix in WEIGHT_SUFFIXES]
    texts = [f for f in files if f.suffix in (".json", ".txt", ".jinja", ".model")]
    return {
        "name": path.name,
        "bytes": sum(f.stat().st_size for f in tensors),
        "sha256": weights.sha256,
        "files": {f.name: cached_sha256(f) for f in tensors + texts},
    }


def convert_once(
    output: Path, recipe: Mapping[str, Any], write: Callable[[Path], None]
) -> bool:
    """Have ``write`` fill ``output``, unless it has done so from the same recipe.

    Args:
        output: directory to make. One that exists must be empty or an earlier
            conversion; files of other origin in the latter stay.
        recipe: everything that the output depends on, and what the record shall say.
        write: writes into the directory it is given, which becomes ``output``.

    Returns:
        False where nothing had to be done.

    Raises:
        UserError: ``output`` is something else, or it cannot be written.
    """
    recipe = json.loads(json.dumps({"version": __version__, **recipe}))
    old = _old_outputs(output, recipe)
    if old is None:
        return False
    try:
        with new_directory(output) as made:
            try:
                write(made)
            except UserError as e:  # by the name it was to get
                raise UserError(str(e).replace(str(made), str(output))) from e
            new = _seal(made)
            write_json(made / RECORD, {**recipe, "outputs": new})
            if output.exists() and any(output.iterdir()):
                for name in (*new, RECORD):  # the record is the last
                    (output / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(made / name, output / name)
        for name in old.keys() - new.keys():
            (output / name).unlink(missing_ok=True)
    except OSError as e:
        raise UserError(
            f"{output}: cannot write it ({e.strerror or e}); free some space or choose "
            "another directory"
        ) from e
    return True


_NAME = r"(?!\.\.?(/|$))[^/\0]{1,63}"
_Inside = Annotated[str, Meta(pattern=f"^{_NAME}(/{_NAME})*$")]
"""The name of a file in the output: a record must not have others removed."""


class _Output(Struct):
    """A file in the record."""

    bytes: int
    sha256: str


def _old_outputs(output: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Files of an earlier conversion; None if that was the same and is undamaged."""
    if not output.exists():
        return {}
    if not output.is_dir():
        raise UserError(f"{output}: not a directory; name another output")
    try:
        record = read_json(output / RECORD)
        old = checked(record.pop("outputs", None), dict[_Inside, _Output], output)
    except UserError as e:
        if any(output.iterdir()):
            raise UserError(
                f"{output}: exists and is no earlier conversion (no readable {RECORD} "
                "in it); name another output"
            ) from e
        return {}
    if record == recipe and all(
        (output / name).is_file() and cached_sha256(output / name) == was.sha256
        for name, was in old.items()
    ):
        return None
    return old


def _seal(made: Path) -> dict[str, dict[str, Any]]:
    """Write the checksums and flush all files; returns size and digest of each."""
    outputs = {}
    for directory in {f.parent for f in made.rglob("*")}:
        write_checksums(directory)
    for file in sorted(f for f in made.rglob("*") if f.is_file()):
        with open(file, "rb") as f:
            os.fsync(f.fileno())
        digest = recorded_sha256(file) or sha256(file)  # of tensors it was just taken
        described = {"bytes": file.stat().st_size, "sha256": digest}
        outputs[file.relative_to(made).as_posix()] = described
    return outputs
