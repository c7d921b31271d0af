"""YAML files that a user has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from espnet_llada.types import UserError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(
            f"{path}: cannot read it ({e.strerror}); name an existing YAML file"
        ) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"{path}: not valid YAML ({reason})") from e
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    return content
