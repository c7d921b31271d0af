"""Files that this package reads and writes: YAML and JSON, checksum files, the cache.

A checksum file is ``NAME.sha256`` next to NAME, as sha256sum writes it. Tensors,
configs and tokenizers have one where this package has made the directory. A file
without one (a user's own) is taken as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from espnet_llada.io.schema import DEEPEST, check_plain, checked
from espnet_llada.types import UserError, atomic_write, local_path

CHUNK = 1 << 20

LARGE = 128 << 20
"""Bytes. Smaller files are hashed in every process (Whisper tiny.en: 0.05 s); a larger
one when it is first seen or has been written to, and by ``espnet-llada weights
--verify``."""

SUFFIX = ".sha256"
TEXT_SUFFIXES = (".json", ".yaml")


def sha256(path: Path) -> str:
    """Hex digest of a file; with a progress bar where it takes long."""
    with open(path, "rb") as f:
        return copy(f, None, f"check {path.name}", path.stat().st_size, delay=2.0)


def copy(
    source: BinaryIO,
    target: BinaryIO | None,
    label: str,
    total: int,
    done: int = 0,
    delay: float = 0.0,
) -> str:
    """Copy, or only read, with a progress bar on a terminal.

    Args:
        source: from its position.
        target: where to write it; None to write nothing.
        label: of the bar.
        total, done: bytes in all, and those that are there before.
        delay: seconds until the bar shows.

    Returns:
        The sha256 of what was read.
    """
    from tqdm import tqdm

    digest = hashlib.sha256()
    options = {"unit": "B", "unit_scale": True, "disable": None}  # None: no terminal
    with tqdm(desc=label, initial=done, total=total, delay=delay, **options) as bar:
        while block := source.read(CHUNK):
            if target is not None:
                target.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def checksum_file(path: Path) -> Path:
    """Where the checksum of a file lies."""
    return path.with_name(path.name + SUFFIX)


def checksum_line(digest: str, name: str) -> str:
    """The content of ``checksum_file``."""
    return f"{digest}  {name}\n"


def checksum_of(content: bytes, name: str) -> bytes:
    """The content of the checksum file of a small file."""
    return checksum_line(hashlib.sha256(content).hexdigest(), name).encode()


def write_checksum(path: Path) -> None:
    """Write the checksum of a file that was just made."""
    line = checksum_line(sha256(path), path.name)
    checksum_file(path).write_text(line, encoding="utf-8")


def write_checksums(directory: Path) -> None:
    """Write those of the configs and tokenizers in a directory that was just made."""
    for file in directory.iterdir():
        if file.suffix in TEXT_SUFFIXES and not checksum_file(file).exists():
            write_checksum(file)


def read_checksum(path: Path) -> str | None:
    """The digest in a file's checksum file, if there is one.

    Raises:
        UserError: a checksum that cannot be read.
    """
    file = checksum_file(path)
    if not os.path.isfile(file):  # nor where the name is too long
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    if found := re.match(r"\\?([0-9a-fA-F]{64})\s", text + "\n"):
        return found[1].lower()
    raise UserError(f"{file}: not what sha256sum writes; delete it, or copy it again")


def check_content(path: Path, content: bytes) -> bytes:
    """The content of a small file, compared with its checksum if it has one.

    Raises:
        UserError: it is damaged; the message says where to get it anew.
    """
    wanted = read_checksum(path) if path.name else None
    if wanted not in (None, hashlib.sha256(content).hexdigest()):
        raise damaged(path)
    return content


def damaged(path: Path) -> UserError:
    """The error for a damaged file: it says where to get a new copy."""
    if not path.is_relative_to(cache_dir()):
        mend = "copy, make or install it again"
        if checksum_file(path).exists():
            mend += f" (changed on purpose: delete {checksum_file(path).name})"
    elif (parts := path.relative_to(cache_dir()).parts)[0] == "models":
        mend = "publish it again"
    else:
        made = cache_dir().joinpath(*parts[: 2 if parts[0] == "packs" else 1])
        mend = f"delete {made}, to have it made anew"
    return UserError(
        f"{path}: damaged or changed, its sha256 is not the recorded one; {mend}"
    )


def cache_dir() -> Path:
    """``$ESPNET_LLADA_CACHE``, or ``~/.cache/espnet_llada``."""
    path = os.environ.get("ESPNET_LLADA_CACHE") or "~/.cache/espnet_llada"
    return local_path(path).absolute()


def not_writable(path: Path, error: OSError) -> UserError:
    """The error for a cache that is full or read-only."""
    return UserError(
        f"{error.filename or path}: {error.strerror or error}; free some space, or set "
        "ESPNET_LLADA_CACHE to a writable directory"
    )


@contextlib.contextmanager
def new_directory(home: Path) -> Iterator[Path]:
    """Yield a hidden directory to fill; one rename then makes it ``home``.

    A ``home`` that is not empty by then, as of a faster process, stays as it is.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    temporary = home.with_name(f".{home.name}.tmp.{secrets.token_hex(4)}")
    temporary.mkdir()  # with the umask's permissions, unlike mkdtemp
    try:
        yield temporary
        try:
            temporary.rename(home)
        except OSError:
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_MERGED = 10_000
"""The most keys of a mapping that merges (``<<``) others into it."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; one that is empty has no keys.

    Of YAML's types those of JSON: a date is a text, and there are no tags.

    Raises:
        UserError: the file is missing, is not YAML, has a key twice, or is not a
            mapping of plain values.
    """
    text = read_text_file(path, "YAML")
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from e
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    check_plain(content, path, _most(text))
    return content


def read_json(path: str | Path, kind: Any = dict[str, Any]) -> Any:
    """What a JSON file holds, as ``kind`` (see ``schema``).

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    text = read_text_file(path, "JSON")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not valid JSON ({e}); fetch it again") from e
    check_plain(content, path, _most(text))
    return checked(content, kind, path)


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by a whole new JSON file."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a whole new file."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_dir(path: Path) -> Path:
    """Make ``path`` and its parents.

    Raises:
        UserError: that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{path}: cannot make the directory ({e.strerror}); choose a writable one"
        ) from e
    return path


def read_text_file(path: str | Path, kind: str) -> str:
    """The text of a small UTF-8 file; ``kind``: what it is, for messages.

    Raises:
        UserError: it is missing, damaged or not UTF-8.
    """
    try:
        content = check_content(Path(path), Path(path).read_bytes())
        return content.decode("utf-8-sig")
    except OSError as e:
        raise UserError(
            f"{path}: cannot read it ({e.strerror}); name an existing {kind} file"
        ) from e
    except ValueError as e:
        raise UserError(f"{path}: not valid {kind} ({e})") from e


def _most(text: str) -> int:
    """The most values for a file of that length: some aliases, but no alias bomb."""
    return 1000 + 10 * len(text)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader without tags and dates, which refuses a key given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, rule) for tag, rule in rules if not tag.endswith(":timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise _refused("a tag", event)
        if self.depth > DEEPEST:
            raise _refused("nested too deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise _refused(f"'{key.value:.60}' a second time", key)
                keys.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node):
        super().flatten_mapping(node)
        if len(node.value) > _MERGED:
            raise _refused("too many merged keys", node)


# YAML 1.2's, which everyone means; of 1.1 only 1.0e-5 is a number, 1e-5 a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("+-.0123456789"),
)


def _refused(what: str, found: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, found.start_mark)
