"""The formulas against what torch counts, and the command as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_llada.bin import plan as command
from espnet_llada.build import build_model
from espnet_llada.core.objective import Objective, Targets, noisy_canvas
from espnet_llada.plan import estimate as plan
from espnet_llada.plan import meta_model
from espnet_llada.types import SpecialTokens, UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
ROWS, SECONDS, TOKENS = 2, 4.0, 12
SEEDS = [1, 2]
FROZEN_LM = [p for p in sorted(CONF.glob("train_*.yaml")) if "mini" not in p.stem]


@pytest.fixture(scope="module")
def wide_lm(tiny_lm, tmp_path_factory) -> Path:
    """tiny_lm with layers that are wider than attention's rows are long."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("wide_lm")
    settings = json.loads((tiny_lm / "config.json").read_text())
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3}
    settings |= {**sizes, "head_dim": 48}
    config = LlamaConfig.from_dict(settings)
    state = LlamaForCausalLM(config).state_dict()
    del state["lm_head.weight"]
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_lm / name, path)
    return path


@pytest.fixture(params=["llada", "llama", "ctc"])
def config(request, tiny_config, wide_lm) -> dict:
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    decoder = {**tiny_config["decoder_conf"], "lm": str(wide_lm), "lora": lora}
    if request.param == "ctc":
        decoder["ctc"] = {"weight": 0.3, "head": "lm"}
    qformer = {"hidden": 96, "heads": 4, "ffn": 192, "layers": 2}
    qformer |= {"dropout": 0.0}  # a CPU's fused attention, unlike a GPU's, has none
    return {
        **tiny_config,
        "decoder": "llama" if request.param == "llama" else "llada",
        "decoder_conf": {**decoder, "max_eos_padding": 0},
        "postencoder_conf": qformer,
    }


def targets(text: torch.Tensor) -> Targets:
    return Targets(text, torch.tensor([TOKENS] * ROWS))


def step(config: dict, amp: bool = False) -> tuple[float, float]:
    """FLOPs of a real training step on the CPU, and bytes that autograd saved."""
    torch.manual_seed(0)
    model = build_model(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor  # alive, so that no address is used twice
        return tensor

    samples = int(SECONDS * 16_000)
    speech, lengths = 0.1 * torch.randn(ROWS, samples), torch.tensor([samples] * ROWS)
    text = torch.randint(10, 200, (ROWS, TOKENS))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter:
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=amp):
            given = *model.encode(speech, lengths), targets(text), SEEDS
            loss = model.decoder.training_loss(*given).mean
        loss.backward()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return counter.get_total_flops(), size


def scored(config: dict) -> int:
    """Positions that the head scores in ``step``."""
    if config["decoder"] == "llama":
        return ROWS * (TOKENS + 1)
    special = SpecialTokens(mask=3, eos=2)
    text = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    objective = Objective(config["decoder_conf"].get("loss", "llada"), 0)
    return int(noisy_canvas(targets(text), special, objective, SEEDS).masked.sum())


@pytest.fixture()
def short_prompt(monkeypatch, config) -> None:
    model = build_model(config)
    length = len(model.decoder.prompt_ids)
    monkeypatch.setattr(meta_model, "PROMPT_TOKENS", length)


@pytest.mark.usefixtures("short_prompt")
@pytest.mark.parametrize(
    ("dtype", "amp"), [("float32", False), ("bfloat16", False), ("bfloat16", True)]
)
def test_the_formulas_give_what_torch_counts(config, dtype, amp):
    decoder = {**config["decoder_conf"], "dtype": dtype}
    config = {**config, "decoder_conf": decoder, "use_amp": amp}
    network = meta_model.build(config)
    load = meta_model.Load(ROWS, SECONDS, TOKENS)
    with sdpa_kernel(SDPBackend.MATH):  # the counter misses the CPU's fused kernel
        flops, _ = step(config, amp)
    _, size = step(config, amp)
    planned = plan.flops(network, load)
    planned["head"] *= scored(config) / (ROWS * network.scored(load))
    assert sum(planned.values()) == pytest.approx(flops, rel=1e-3)
    kept = plan.activation_bytes(network, load, mask_bytes=4)
    assert sum(kept.values()) == pytest.approx(size, rel=0.02)


def test_counts_are_those_of_the_model(config):
    model, network = build_model(config), meta_model.build(config)
    counts = plan.parameters(network)
    for part, name in (
        (model.encoder, "encoder"),
        (model.postencoder, "postencoder"),
        (model.decoder.lm, "decoder.lm"),
        (model.decoder.audio_prefix, "decoder.audio_prefix"),
    ):
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        total = sum(p.numel() for p in part.parameters())
        assert counts[name] == {"trained": trained, "frozen": total - trained}
    devices = {p.device.type for m in network.parts().values() for p in m.parameters()}
    assert devices == {"meta"}


@pytest.mark.parametrize("path", FROZEN_LM, ids=lambda p: p.stem)
def test_every_config_with_a_frozen_lm_has_a_plan(path, capsys):
    command.main([str(path), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["fits"] and content["hours"] > 0
    assert content["memory_total"] == pytest.approx(sum(content["memory"].values()))
    command.main([str(path)])
    table = capsys.readouterr().out
    assert path.name in table and "hours at 35%" in table


def test_the_papers_size(capsys):
    path = CONF / "train_asr_whisper_llada_8b.yaml"
    command.main([str(path), "--json", "--gpu", "a100-80g", "--mfu", "0.4"])
    content = json.loads(capsys.readouterr().out)
    counts = content["parameters"]
    # tests/networks/test_full_size.py counts both in the files' own headers.
    assert counts["decoder.lm"] == {"trained": 6_291_456, "frozen": 8_015_581_184}
    assert counts["encoder"] == {"trained": 0, "frozen": 636_968_960}
    frozen = sum(part["frozen"] for part in counts.values())
    assert content["memory"]["weights, frozen bfloat16"] == 2 * frozen
    timing = content["schedule"]
    assert (timing["rows"], timing["iterations"]) == (4, 120 * 3000)
    # By hand: LLM forward and backward are 2 x 2 x 7e9 FLOPs a position (without
    # embedding and head), of which a row has 24 + 88 x 4 + 45.
    lm = content["flops"]["decoder.lm"]
    assert content["lm_positions"] == 421
    assert lm == pytest.approx(4 * 421 * 4 * 6.98e9, rel=0.05)
    seconds = content["flops_total"] * 360_000 / (312e12 * 0.4)
    assert content["hours"] == pytest.approx(seconds / 3600)


def test_options_change_what_they_should(capsys):
    path = str(CONF / "train_asr_whisper_llada_8b.yaml")

    def made(*options: str) -> dict:
        command.main([path, "--json", *options])
        return json.loads(capsys.readouterr().out)

    base, cached = made(), made("--cached")
    assert cached["flops"]["encoder"] == 0 < base["flops"]["encoder"]
    assert not made("--gpu", "rtx4090")["fits"]
    half = made("--num_gpus", "4")
    assert half["schedule"]["rows"] == 8 and half["hours"] > 1.9 * base["hours"]
    assert made("--tokens", "90")["lm_positions"] == base["lm_positions"] + 45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "conformer"}, "other parts"),
        ({"decoder_conf": {"lm": "some/lm"}}, "some/lm: unknown sizes"),
        ({"encoder_conf": {"whisper": "whisper-huge"}}, "whisper-huge: unknown sizes"),
        ({"batch_type": "numel"}, "batch_type numel"),
        ({"decoder_conf": {"ctc": {"only": True}, "lm": "smollm2-135m"}}, "only: true"),
        (
            {"decoder_conf": {"ctc": {"head": "x"}, "lm": "smollm2-135m"}},
            "head: 'x'",
        ),
        (
            {"decoder_conf": {"posterior_prefix": {}, "lm": "smollm2-135m"}},
            "not posterior_prefix",
        ),
    ],
)
def test_what_cannot_be_planned_is_named(tmp_path, config, change, message):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**config, **change}))
    with pytest.raises(UserError, match=message):
        command.main([str(path)])


@pytest.mark.parametrize(
    ("option", "value"), [("--gpu", "tpu"), ("--mfu", "0"), ("--seconds", "1e-300")]
)
def test_bad_options_are_named(option, value):
    path = CONF / "train_asr_whisper_llada_8b.yaml"
    with pytest.raises(UserError, match=option):
        command.main([str(path), option, value])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("whisper-tiny.en", (384, 4, 6, 80)),
        ("openai/whisper-large-v3", (1280, 32, 20, 128)),
        ("openai/whisper-large-v3-turbo", (1280, 32, 20, 128)),
        ("openai/whisper-large-v2", (1280, 32, 20, 80)),
        ("openai/whisper-medium.en", (1024, 24, 16, 80)),
    ],
)
def test_whispers_sizes(name, sizes):
    from espnet_llada.plan.architectures import whisper_sizes

    found = whisper_sizes(name)
    assert (found.d_model, found.layers, found.heads, found.n_mels) == sizes


@pytest.mark.slow
def test_as_a_user_types_it(repo):
    run = [sys.executable, "-m", "espnet_llada.bin.cli", "plan"]
    path = "conf/train_asr_whisper_llama3_8b.yaml"
    done = subprocess.run([*run, path], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fits into h100" in done.stdout and not done.stderr
