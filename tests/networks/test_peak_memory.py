"""What reading and writing weights costs, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

PEAK = """
import sys
from pathlib import Path
import torch, safetensors.torch
import transformers.models.llama.modeling_llama
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks import llama_export
from espnet_llada.networks.llama_export import Update, export_llama, export_merged
from espnet_llada.networks.llama_files import load_llama

def peak():
    # getrusage's ru_maxrss is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

kind, path, dtype = sys.argv[1], Path(sys.argv[2]), getattr(torch, sys.argv[3])
before = peak()
if kind == "lm":
    body, head, _ = load_llama(path, dtype)
    size = sum(t.nbytes for t in [*body.parameters(), head])
elif kind == "export":
    export_llama(path, path / "out", dtype)
    size = (path / "out/model.safetensors").stat().st_size
elif kind == "merge":
    llama_export.SHARD_BYTES = size = 60_000_000
    a, b = torch.randn(8, 768), torch.randn(768, 8)
    names = [f"layers.{i}.self_attn.q_proj.weight" for i in range(10)]
    export_merged(path, path / "out", {name: Update(a, b, 4.0) for name in names})
else:
    encoder = WhisperEncoder.from_pretrained(path, dtype=dtype)
    size = sum(t.nbytes for t in encoder.parameters())
print((peak() - before) / size)
"""


OPENAI = {
    "embed_positions.weight": "positional_embedding",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "layer_norm": "ln_post",
    "layers.": "blocks.",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}


def write_llama(path: Path, dtype: torch.dtype) -> None:
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=12,
        tie_word_embeddings=False,
    )
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(LlamaForCausalLM(config).to(dtype).state_dict(), path / "a.safetensors")


def write_whisper(path: Path, dtype: torch.dtype, openai: bool) -> Path:
    config = WhisperConfig(
        d_model=1280,
        encoder_layers=6,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        num_mel_bins=128,
    )
    state = WhisperEncoder(config).to(dtype).state_dict()
    if not openai:
        (path / "config.json").write_text(json.dumps(config.to_dict()))
        tensors = {f"encoder.{k}": v for k, v in state.items()}
        save_file(tensors, path / "model.safetensors")
        return path
    for theirs, ours in OPENAI.items():
        state = {k.replace(theirs, ours): v for k, v in state.items()}
    dims = {"n_mels": 128, "n_audio_ctx": 1500, "n_audio_state": 1280}
    dims |= {"n_audio_head": 20, "n_audio_layer": 6}
    content = {f"encoder.{k}": v for k, v in state.items()}
    torch.save({"dims": dims, "model_state_dict": content}, path / "a.pt")
    return path / "a.pt"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtypes", ["float32 bfloat16", "bfloat16 float32"])
@pytest.mark.parametrize("kind", ["lm", "export", "directory", "file"])
def test_the_peak_is_the_result_and_little_more(tmp_path, repo, kind, dtypes):
    """83 and 126 M parameters, read in another dtype than they are stored in."""
    stored, wanted = dtypes.split()
    dtype = getattr(torch, stored)
    if kind in ("lm", "export"):
        write_llama(path := tmp_path, dtype)
        (tmp_path / "out").mkdir()
    else:
        path = write_whisper(tmp_path, dtype, openai=kind == "file")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, kind, path, wanted],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout)
    assert 0.5 < ratio < 1.2, ratio


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_merging_takes_the_memory_of_a_shard(tmp_path, repo):
    """Of 166 MB in bf16, 60 MB at a time, and a weight in fp64."""
    write_llama(tmp_path, torch.bfloat16)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "merge", tmp_path, "bfloat16"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    ratio = float(done.stdout)
    assert 0.5 < ratio < 1.7, ratio
