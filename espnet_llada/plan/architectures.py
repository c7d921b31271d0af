"""Sizes of published models and of GPUs, for planning where neither can be reached.

Whisper's are those of openai/whisper ``model.py`` (dims of its checkpoints), the LMs'
those of config.json in the repositories of the same names on Hugging Face's hub, the
GPUs' those of NVIDIA's data sheets: dense bf16, without sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports torch, and --help shows the table of GPUs
    from espnet_llada.networks.whisper_file import WhisperConfig

_WHISPER = {  # width, layers, heads
    "tiny": (384, 4, 6),
    "base": (512, 6, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1280, 32, 20),
}


def whisper_sizes(name: str) -> WhisperConfig | None:
    """Sizes of ``whisper-tiny.en``, ``openai/whisper-large-v3``, …; None if unknown."""
    from espnet_llada.networks.whisper_file import WhisperConfig

    size, _, version = name.rpartition("whisper-")[2].partition("-")
    if "whisper-" not in name or size.removesuffix(".en") not in _WHISPER:
        return None
    width, layers, heads = _WHISPER[size.removesuffix(".en")]
    mels = 128 if version.startswith("v3") else 80  # turbo is large-v3's encoder
    return WhisperConfig(width, layers, heads, 4 * width, mels)


LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "GSAI-ML/LLaDA-8B-Instruct": {
        "model_type": "llada",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "max_sequence_length": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "weight_tying": False,
        "eos_token_id": 126081,
        "mask_token_id": 126336,
    },
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}
"""What config.json says of them, as far as it decides sizes."""


@dataclass(frozen=True)
class Gpu:
    """Memory (GB), dense bf16 speed (TFLOP/s), the memory's bandwidth (TB/s)."""

    memory: float
    tflops: float
    bandwidth: float


GPUS = {
    "b200": Gpu(180, 2250, 8.0),
    "h200": Gpu(141, 989, 4.8),
    "h100": Gpu(80, 989, 3.35),  # SXM
    "h100-pcie": Gpu(80, 756, 2.0),
    "a100-80g": Gpu(80, 312, 2.04),
    "a100-40g": Gpu(40, 312, 1.56),
    "a6000": Gpu(48, 155, 0.77),
    "l40s": Gpu(48, 362, 0.86),
    "a10": Gpu(24, 125, 0.6),
    "rtx4090": Gpu(24, 165, 1.01),
}

USABLE = 0.95
"""Of a GPU's memory; the rest is lost between blocks."""

LIBRISPEECH = {
    "test_clean": (2620, 5.40),
    "test_other": (2939, 5.34),
    "dev_clean": (2703, 5.39),
    "dev_other": (2864, 5.12),
}
"""Utterances and hours."""

MEASURED = "-14 to +2 % off in 19 rows, see PERFORMANCE.md"
"""How good the times of decodings are that ``plan.decoding`` gives for an H200."""
