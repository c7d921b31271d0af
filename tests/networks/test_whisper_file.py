from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.types import UserError


def same_weights(one: WhisperEncoder, other: WhisperEncoder) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_openai_file_equals_directory(directory, checkpoint):
    ours = WhisperEncoder.from_pretrained(checkpoint)
    theirs = WhisperEncoder.from_pretrained(directory)
    assert ours.config == theirs.config and same_weights(ours, theirs)


def test_openai_file_in_half_precision_and_in_the_old_format(openai_content, tmp_path):
    state = {k: v.half() for k, v in openai_content["model_state_dict"].items()}
    path = tmp_path / "old.pt"
    torch.save(
        {**openai_content, "model_state_dict": state},
        path,
        _use_new_zipfile_serialization=False,
    )
    encoder = WhisperEncoder.from_pretrained(path)
    assert encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.conv1.weight, state["encoder.conv1.weight"].float())


@pytest.mark.parametrize("sharded", [False, True])
def test_other_prefix_and_shards(directory, tmp_path, sharded):
    tensors = {
        "model." + name: tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    if sharded:
        where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
        for shard in set(where.values()):
            part = {k: v for k, v in tensors.items() if where[k] == shard}
            save_file(part, tmp_path / shard)
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": where}))
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    expected = WhisperEncoder.from_pretrained(directory)
    assert same_weights(WhisperEncoder.from_pretrained(tmp_path), expected)


MISSING_AND_EXTRA = [
    ("missing", "blocks.1.attn.query.bias", "layers.1.self_attn.q_proj.bias"),
    ("unexpected", "blocks.0.attn.key.bias", "layers.0.self_attn.k_proj.bias"),
    ("shape", "conv1.weight", "conv1.weight"),
]


def damage(tensors: dict[str, torch.Tensor], kind: str, name: str) -> None:
    if kind == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(5)


@pytest.mark.parametrize(("kind", "name", "_"), MISSING_AND_EXTRA)
def test_damaged_openai_file(openai_content, tmp_path, kind, name, _):
    state = dict(openai_content["model_state_dict"])
    damage(state, kind, "encoder." + name)
    path = tmp_path / "tiny.pt"
    torch.save({**openai_content, "model_state_dict": state}, path)
    with pytest.raises(UserError, match=kind) as caught:
        WhisperEncoder.from_pretrained(path)
    assert f"{path}" in str(caught.value) and f"encoder.{name}" in str(caught.value)


@pytest.mark.parametrize(("kind", "_", "name"), MISSING_AND_EXTRA)
def test_damaged_directory(directory, tmp_path, kind, _, name):
    tensors = load_file(directory / "model.safetensors")
    damage(tensors, kind, "encoder." + name)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    with pytest.raises(UserError, match=kind) as caught:
        WhisperEncoder.from_pretrained(tmp_path)
    assert f"{tmp_path}" in str(caught.value) and f"encoder.{name}" in str(caught.value)


def test_unreadable_weights(directory, checkpoint, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    other = tmp_path / "other.pt"
    torch.save({"model": {}}, other)
    bare = tmp_path / "bare"
    bare.mkdir()
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "config.json").write_text("{}")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((directory / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"12345678 no safetensors")
    for path in (cut, text, other, bare, lacking, broken, tmp_path / "absent"):
        with pytest.raises(UserError) as caught:
            WhisperEncoder.from_pretrained(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pickle_with_code_is_refused(openai_content, tmp_path):
    path = tmp_path / "code.pt"
    torch.save({**openai_content, "model_state_dict": pytest.raises}, path)
    with pytest.raises(UserError, match="not an openai-whisper checkpoint"):
        WhisperEncoder.from_pretrained(path)
