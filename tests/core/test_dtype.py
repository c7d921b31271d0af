"""Frozen weights keep their dtype; trained tensors follow ``--train_dtype``."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.model import WhisperLLM
from espnet_llada.core.objective import Targets
from espnet_llada.io.checkpoint import IDENTITY, load_trained, trained_state
from espnet_llada.networks.frozen import Pretrained

KINDS = ("llada", "llama")


def build(tiny_config, kind: str = "llada", dtype: str = "bfloat16") -> WhisperLLM:
    torch.manual_seed(0)
    config = {**tiny_config, "decoder": kind}
    for section in ("encoder_conf", "decoder_conf"):
        config[section] = {**config[section], "dtype": dtype}
    config["postencoder_conf"] = {**config["postencoder_conf"], "dropout": 0.0}
    lora = {**config["decoder_conf"]["lora"], "dropout": 0.0}
    config["decoder_conf"] = {**config["decoder_conf"], "lora": lora}
    model = build_model(config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would leave LoRA untested
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def loss_of(model: WhisperLLM) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(2, 20_000, generator=g)
    text = torch.randint(10, 200, (2, 6), generator=g)
    audio, lengths = model.encode(speech, torch.tensor([20_000, 15_000]))
    prefix = model.decoder.prefix(audio, lengths)
    targets = Targets(text, torch.tensor([6, 4]))
    return model.decoder.loss(prefix, targets, [1, 2]).mean


def dtypes(model: WhisperLLM, trained: bool) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.requires_grad == trained}


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda m: m.to(dtype=torch.float32, device="cpu"), torch.float32),  # ESPnet
        (lambda m: m.float(), torch.float32),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.to(torch.float64), torch.float64),
        (lambda m: m.half().float(), torch.float32),
    ],
    ids=["to", "float", "half", "float64", "there and back"],
)
def test_only_what_is_trained_changes_its_dtype(tiny_config, change, dtype):
    model = build(tiny_config)
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    rope = model.decoder.lm.body.rotary_emb.inv_freq.clone()
    assert dtypes(model, trained=True) == {torch.float32}
    change(model)
    assert dtypes(model, trained=False) == {torch.bfloat16}
    assert dtypes(model, trained=True) == {dtype}
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    assert torch.equal(model.decoder.lm.body.rotary_emb.inv_freq, rope)
    model.eval()
    assert torch.isfinite(loss_of(model))


def test_a_move_takes_everything_along(tiny_config):
    model = build(tiny_config).to("meta", torch.float16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert dtypes(model, trained=False) == {torch.bfloat16}
    assert dtypes(model, trained=True) == {torch.float16}


def test_gradients_change_their_dtype_with_their_parameter(tiny_config):
    model = build(tiny_config)
    loss_of(model).backward()
    model.to(torch.float64)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert {g.dtype for g in grads} == {torch.float64}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_step_reaches_all_that_is_trained(tiny_config, kind, amp):
    model = build(tiny_config, kind).to(torch.float32)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.autocast("cpu", amp or torch.bfloat16, enabled=amp is not None):
        loss = loss_of(model)
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0 or "key.bias" in name, name
    optimizer.step()
    for name, parameter in model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == parameter.requires_grad or "key.bias" in name, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16], ids=str)
def test_the_loss_is_that_of_float32(tiny_config, kind, amp):
    exact = loss_of(build(tiny_config, kind, "float32"))
    model = build(tiny_config, kind).to(torch.float32)
    with torch.autocast("cpu", amp or torch.bfloat16, enabled=amp is not None):
        loss = loss_of(model)
    # Weights of the same seed, rounded to 8 bits of mantissa.
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert loss.item() != exact.item()


def test_autocast_never_casts_bf16_weights_to_fp16(tiny_config):
    lm = build(tiny_config).decoder.lm
    seen = set()
    projection = lm.body.layers[0].mlp.up_proj
    projection.register_forward_hook(lambda m, x, y: seen.add(y.dtype))
    tokens = torch.tensor([[5, 6, 7]])
    with torch.autocast("cpu", torch.float16):
        hidden = lm(lm.embed(tokens), torch.ones_like(tokens, dtype=torch.bool))
        logits = lm.logits(hidden)
    assert seen == {torch.bfloat16} and logits.dtype == torch.bfloat16


def test_frames_do_not_depend_on_autocast(tiny_config):
    encoder = build(tiny_config, dtype="float32").encoder
    speech = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    plain, _ = encoder(speech, torch.tensor([16_000]))
    with torch.autocast("cpu", torch.bfloat16):
        under, _ = encoder(speech, torch.tensor([16_000]))
    assert torch.equal(under, plain)


def test_a_checkpoint_goes_round(tiny_config):
    model = build(tiny_config).to(torch.float32)
    state = trained_state(model)
    assert {t.dtype for t in state.values()} == {torch.float32}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(state) - {IDENTITY} == trained
    other = build(tiny_config)
    for parameter in other.parameters():
        if parameter.requires_grad:
            torch.nn.init.zeros_(parameter)
    load_trained(other, state, "checkpoint")
    assert torch.equal(loss_of(other), loss_of(model))
    assert dtypes(other, trained=False) == {torch.bfloat16}


def test_all_that_a_checkpoint_leaves_out_is_frozen_so(tiny_config):
    model = build(tiny_config)
    parts = [m for m in model.modules() if getattr(m, "pretrained", False)]
    assert len(parts) == 2 and all(isinstance(m, Pretrained) for m in parts)
