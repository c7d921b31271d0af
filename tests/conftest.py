"""Tiny random weights in the real formats, made once for each test session."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # the default tests need no network, and show it

from espnet_llada.torchaudio_guard import import_torchaudio

import_torchaudio()

REPO = Path(__file__).resolve().parents[1]
RECIPE = REPO / "egs2/librispeech/asr_llada"
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "she had a lovely voice and sang of the sea",
    "it was a dark and stormy night in the old town",
    "nothing is so painful to the human mind as a great and sudden change",
]


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory) -> Path:
    """A Llama directory: 2 layers, width 32, a byte-pair tokenizer of 200 entries."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("tiny_lm")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    return path


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory) -> Path:
    """A Hugging Face Whisper directory: 2 encoder layers, width 16."""
    from transformers import WhisperConfig, WhisperModel

    path = tmp_path_factory.mktemp("tiny_whisper")
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_lm, tiny_whisper) -> dict:
    """The sections of a train YAML around the tiny weights (decoder: llada)."""
    return {
        "encoder": "whisper_frozen",
        "encoder_conf": {"whisper": str(tiny_whisper), "pad_seconds": 0.0},
        "postencoder": "window_qformer",
        "postencoder_conf": {"hidden": 16, "heads": 2, "ffn": 32, "layers": 1},
        "decoder": "llada",
        "decoder_conf": {
            "lm": str(tiny_lm),
            "lora": {"r": 2, "alpha": 4},
            "chat_template": False,
            "canvas_slack": 4,
        },
    }


@pytest.fixture()
def speech(tmp_path) -> list[Path]:
    """Three audio files of 0.6, 1.3 and 2.1 seconds."""
    rng = np.random.default_rng(0)
    files = []
    for i, seconds in enumerate((0.6, 1.3, 2.1)):
        samples = rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
        files.append(tmp_path / f"utt{i}.flac")
        soundfile.write(files[-1], samples, 16_000)
    return files
