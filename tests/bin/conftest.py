"""A model directory with both systems, of tiny weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from espnet_llada.checkpoint import atomic_torch_save, trained_state
from espnet_llada.model import WhisperLLM


@pytest.fixture(scope="session")
def model_dir(tiny_config, tmp_path_factory) -> Path:
    """``llada`` and ``llama`` below one directory, as a tag of the cache has them."""
    top = tmp_path_factory.mktemp("model")
    for decoder in ("llada", "llama"):
        torch.manual_seed(0)
        config = {**tiny_config, "decoder": decoder}
        (top / decoder).mkdir()
        (top / decoder / "config.yaml").write_text(yaml.safe_dump(config))
        state = trained_state(WhisperLLM.from_config(config))
        atomic_torch_save(state, top / decoder / "valid.acc.ave.pth")
    return top
