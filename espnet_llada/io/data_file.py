"""YAML and JSON files: the one reader of each, and how ours are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from espnet_llada.io.files import check_content
from espnet_llada.io.schema import DEEPEST, check_plain, checked
from espnet_llada.types import UserError, atomic_write

_MERGED = 10_000
"""The most keys of a mapping that merges (``<<``) others into it."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; one that is empty has no keys.

    Of YAML's types those of JSON: a date is a text, and there are no tags.

    Raises:
        UserError: the file is missing, is not YAML, has a key twice, or is not a
            mapping of plain values.
    """
    text = _text(path, "YAML")
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
    text = _text(path, "JSON")
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


def _text(path: str | Path, kind: str) -> str:
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
