"""Published sizes and tensor names, on the meta device: no weight is in memory.

The files are sparse: a header with all names and shapes, then nothing. The lists of
names are written from the layouts' own rules, apart from the tables under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from espnet_llada.core.qformer import WindowQFormer
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.llama_files import HEAD, empty_llama, stored_llama
from espnet_llada.networks.lora import LoraOptions, add_lora
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.plan.architectures import LANGUAGE_MODELS
from espnet_llada.types import UserError

Shapes = dict[str, tuple[int, ...]]

LLADA = LANGUAGE_MODELS["GSAI-ML/LLaDA-8B-Instruct"]
LLAMA3 = LANGUAGE_MODELS["meta-llama/Meta-Llama-3-8B-Instruct"]
LARGE_V3 = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}


def llada_shapes() -> Shapes:
    d, inner = 4096, 12288
    top = "model.transformer"
    shapes: Shapes = {
        f"{top}.wte.weight": (126464, d),
        f"{top}.ff_out.weight": (126464, d),
        f"{top}.ln_f.weight": (d,),
    }
    block = {"attn_norm": (d,), "ff_norm": (d,), "ff_out": (d, inner)}
    block |= dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (d, d))
    block |= dict.fromkeys(("ff_proj", "up_proj"), (inner, d))
    for i in range(32):
        shapes |= {f"{top}.blocks.{i}.{k}.weight": v for k, v in block.items()}
    return shapes


def llama3_shapes() -> Shapes:
    d, inner, kv = 4096, 14336, 1024
    shapes: Shapes = {
        "model.embed_tokens.weight": (128256, d),
        "lm_head.weight": (128256, d),
        "model.norm.weight": (d,),
    }
    layer = {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    layer |= {"self_attn.q_proj": (d, d), "self_attn.o_proj": (d, d)}
    layer |= {"self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d)}
    layer |= {"mlp.gate_proj": (inner, d), "mlp.up_proj": (inner, d)}
    layer |= {"mlp.down_proj": (d, inner)}
    for i in range(32):
        shapes |= {f"model.layers.{i}.{k}.weight": v for k, v in layer.items()}
    return shapes


def whisper_shapes(layout: str) -> Shapes:
    """Both layouts have the same modules; k has no bias in either."""
    d, openai = 1280, layout == "openai"
    attention = (
        ("attn.query", "attn.key", "attn.value", "attn.out")
        if openai
        else tuple(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out"))
    )
    norms = (
        ("attn_ln", "mlp_ln")
        if openai
        else ("self_attn_layer_norm", "final_layer_norm")
    )
    ffn = ("mlp.0", "mlp.2") if openai else ("fc1", "fc2")
    positions = "positional_embedding" if openai else "embed_positions.weight"
    shapes: Shapes = {positions: (1500, d)}

    def put(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    put("conv1", d, 128, 3)
    put("conv2", d, d, 3)
    put("ln_post" if openai else "layer_norm", d)
    for i in range(32):
        layer = f"{'blocks' if openai else 'layers'}.{i}"
        for name in attention:
            put(f"{layer}.{name}", d, d, bias=name not in ("attn.key", attention[1]))
        for name in norms:
            put(f"{layer}.{name}", d)
        put(f"{layer}.{ffn[0]}", 4 * d, d)
        put(f"{layer}.{ffn[1]}", d, 4 * d)
    return shapes


def write_sparse(path: Path, shapes: Shapes, dtype: str = "BF16") -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + end)


def write_shards(path: Path, config: dict, shapes: Shapes, count: int = 6) -> None:
    (path / "config.json").write_text(json.dumps(config))
    names = list(shapes)
    for i in range(count):
        shard = {name: shapes[name] for name in names[i::count]}
        write_sparse(path / f"model-{i + 1:05d}-of-{count:05d}.safetensors", shard)


def memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


@pytest.fixture()
def no_weights_in_memory():
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        yield  # not Linux: the names and counts are tested all the same
        return
    reset.write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < 300e6


@pytest.mark.usefixtures("no_weights_in_memory")
@pytest.mark.parametrize(
    ("config", "shapes", "billions"),
    [(LLADA, llada_shapes(), 8.02), (LLAMA3, llama3_shapes(), 8.03)],
    ids=["LLaDA-8B", "Llama-3-8B"],
)
def test_language_models(tmp_path, config, shapes, billions):
    write_shards(tmp_path, config, shapes)
    body, _ = empty_llama(tmp_path)
    stored = stored_llama(tmp_path, body)
    assert sorted(t.name for t in stored.values()) == sorted(shapes)
    assert stored[HEAD].shape == body.embed_tokens.weight.shape
    count = sum(p.numel() for p in body.parameters()) + stored[HEAD].shape.numel()
    assert round(count / 1e9, 2) == billions
    assert count == sum(t.shape.numel() for t in stored.values())
    assert {p.device.type for p in body.parameters()} == {"meta"}
    rope = 1 / 500000 ** (torch.arange(0, 128, 2) / 128)
    assert torch.allclose(body.rotary_emb.inv_freq, rope)
    for file in tmp_path.glob("model-00003*"):
        file.unlink()
    with pytest.raises(UserError, match="missing"):
        stored_llama(tmp_path, body)


@pytest.mark.usefixtures("no_weights_in_memory")
@pytest.mark.parametrize("prefix", ["encoder.", "model.encoder."])
def test_whisper_large_v3_directory(tmp_path, prefix):
    shapes = {prefix + k: v for k, v in whisper_shapes("huggingface").items()}
    other = f"{prefix.replace('encoder', 'decoder')}embed_tokens.weight"
    write_sparse(tmp_path / "model.safetensors", {**shapes, other: (51866, 1280)})
    (tmp_path / "config.json").write_text(json.dumps(LARGE_V3))
    check_whisper(tmp_path, shapes)


@pytest.mark.usefixtures("no_weights_in_memory")
def test_whisper_large_v3_file(tmp_path):
    shapes = {f"encoder.{k}": v for k, v in whisper_shapes("openai").items()}
    path = tmp_path / "large-v3.pt"
    state = {k: torch.empty(v, dtype=torch.float16) for k, v in shapes.items()}
    dims = {"n_mels": 128, "n_audio_ctx": 1500, "n_audio_state": 1280}
    dims |= {"n_audio_head": 20, "n_audio_layer": 32, "n_text_layer": 32}
    with torch.serialization.skip_data():  # nothing is written where the data would be
        torch.save({"dims": dims, "model_state_dict": state}, path)
    check_whisper(path, shapes)


def check_whisper(path: Path, shapes: Shapes) -> None:
    file = open_whisper(path)
    with torch.device("meta"):
        encoder = WhisperEncoder(file.config)
    wanted = {name: v.shape for name, v in encoder.state_dict().items()}
    stored = file.check(wanted)
    assert sorted(t.name for t in stored.values()) == sorted(shapes)
    count = sum(p.numel() for p in encoder.parameters())
    assert round(count / 1e9, 2) == 0.64
    assert count == sum(torch.Size(s).numel() for s in shapes.values())


@pytest.mark.usefixtures("no_weights_in_memory")
def test_what_the_paper_trains(tmp_path):
    """BERT-base's layer twice, 4 queries, projection, LoRA on q, k, v of 32 layers."""
    write_shards(tmp_path, LLADA, llada_shapes())
    body, _ = empty_llama(tmp_path)
    h, frames, d, r = 768, 1280, 4096, 8
    with torch.device("meta"):
        qformer = WindowQFormer(frames)
        add_lora(body, LoraOptions())
    count = sum(p.numel() for p in qformer.parameters())
    norm, square = 2 * h, h * h + h
    cross = 2 * square + 2 * (frames * h + h) + norm
    ffn = (h * 4 * h + 4 * h) + (4 * h * h + h) + norm
    assert count == 4 * h + norm + 2 * (4 * square + norm + cross + ffn)
    lora = {n: p.numel() for n, p in body.named_parameters() if "lora_" in n}
    assert len(lora) == 32 * 3 * 2
    assert sum(lora.values()) == 32 * 3 * 2 * r * d == 6_291_456
