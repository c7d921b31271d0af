"""Tests that the docs name exist."""

from __future__ import annotations

import re


def test_what_docs_espnet_names_is_there(repo):
    text = (repo / "docs/espnet.md").read_text()
    named, path = re.findall(r"`(tests/[\w/.]+|)(?:::(\w+))?`", text), ""
    assert len(named) > 15
    for file, name in named:
        path = file or path  # `::test_x` is of the file before
        content = (repo / path).read_text()
        assert not name or f"def {name}(" in content, (path, name)
