from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import scoring_model

from espnet_llada.core.model import WhisperLLM
from espnet_llada.extensions.whisper_scorer.network import Options, WhisperScorer

TEXTS = ["the quick brown", "fox jumps", "a dark and stormy night"]


@pytest.fixture
def model(word_lm, tiny_whisper) -> WhisperLLM:
    """Whisper-LLaDA with a scorer; it has learnt placeholders."""
    return scoring_model(word_lm, tiny_whisper, placeholders=0.2)


@pytest.fixture
def llama(word_lm, tiny_whisper) -> WhisperLLM:
    """Its autoregressive twin."""
    return scoring_model(word_lm, tiny_whisper, "llama")


@pytest.fixture
def speech() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [0.1 * random.normal(size=n).astype(np.float32) for n in (9000, 16000, 5000)]


@pytest.fixture
def texts() -> list[str]:
    """A first pass of each."""
    return list(TEXTS)


@pytest.fixture
def network(tiny_whisper) -> WhisperScorer:
    """A scorer's network alone."""
    return WhisperScorer.from_pretrained(str(tiny_whisper), Options()).eval()


@pytest.fixture
def table(tiny_whisper) -> torch.Tensor:
    """Embeddings of Whisper's tokens (V, width)."""
    state = load_file(tiny_whisper / "model.safetensors")
    return state["decoder.embed_tokens.weight"]
