"""An LM that has a Whisper's tokens."""

from __future__ import annotations

import json
import shutil

import pytest

from espnet_llada.adapter.words import TOKENS_FILE


@pytest.fixture
def word_lm(tiny_lm, tmp_path):
    """tiny_lm, whose last tokens are Whisper's 2 to 61."""
    path = shutil.copytree(tiny_lm, tmp_path / "lm")
    size = json.loads((path / "config.json").read_text())["vocab_size"]
    ids = [-1] * (size - 60) + list(range(2, 62))
    (path / TOKENS_FILE).write_text(json.dumps(ids))
    return path
