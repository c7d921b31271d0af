"""What a checkpoint holds, and what happens to one that does not fit."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.model import WhisperLLM
from espnet_llada.io.checkpoint import (
    IDENTITY,
    atomic_torch_save,
    load_trained,
    read_state,
    trained_state,
)
from espnet_llada.trust import tensors_only
from espnet_llada.types import UserError

BIAS = "decoder.audio_prefix.projection.bias"


@pytest.fixture(scope="module")
def model(tiny_config) -> WhisperLLM:
    torch.manual_seed(0)
    return build_model(tiny_config)


def test_it_holds_the_trained_tensors_and_the_identity(model):
    state = trained_state(model)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(state) == trained | {IDENTITY}
    assert {n.split(".")[0] for n in trained} == {"postencoder", "decoder"}
    identity = json.loads(bytes(state[IDENTITY].to(torch.uint8).tolist()))
    assert set(identity) == {"encoder", "decoder"}
    assert len(identity["decoder"]["sha256"]) == 64


def test_a_round_trip_through_a_file_and_through_averaging(model, tmp_path):
    state = trained_state(model)
    average = {k: (v + v + v) / 3 for k, v in state.items()}  # as ESPnet averages
    atomic_torch_save(average, tmp_path / "a.pth")
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        if parameter.requires_grad:
            torch.nn.init.zeros_(parameter)
    load_trained(other, read_state(tmp_path / "a.pth"), "a.pth")
    for name, tensor in trained_state(model).items():
        assert torch.allclose(trained_state(other)[name], tensor, atol=1e-6), name


class Subsampling(torch.nn.Linear):
    """Renames what its former version has saved, as ESPnet 202611's do."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name in [n for n in state_dict if n.startswith(f"{prefix}0.")]:
            state_dict[name.replace("0.", "")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_a_module_may_rename_what_its_former_version_has_saved(model):
    model = copy.deepcopy(model)
    model.postencoder.embed = Subsampling(2, 2)
    state = trained_state(model)
    place = "postencoder.embed"
    bias = state.pop(f"{place}.bias").clone()
    former = {**state, f"{place}.0.bias": bias + 1}
    with pytest.raises(UserError, match="unexpected: x"):
        load_trained(model, {**former, "x": bias}, "a.pth")
    assert torch.equal(model.postencoder.embed.bias, bias)
    load_trained(model, former, "a.pth")
    assert torch.equal(model.postencoder.embed.bias, bias + 1)
    assert f"{place}.0.bias" in former


def test_another_base_is_refused_by_name(model, tiny_config, tiny_lm, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_lm, tmp_path / "other_lm")
    tensors = load_file(tiny_lm / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, tmp_path / "other_lm/model.safetensors")
    config = copy.deepcopy(tiny_config)
    config["decoder_conf"]["lm"] = str(tmp_path / "other_lm")
    other = build_model(config)
    with pytest.raises(UserError, match=r"trained on decoder .*other_lm") as e:
        load_trained(other, trained_state(model), "exp/x.pth")
    assert str(e.value).startswith("exp/x.pth: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(BIAS), f"missing: {BIAS}"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda s: s.update({BIAS: torch.ones(3)}), "shape"),
        (lambda s: s.pop(IDENTITY), "no espnet_llada checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(model, change, message):
    target = copy.deepcopy(model)
    before = trained_state(copy.deepcopy(model))
    state = {k: v + 1 if k != IDENTITY else v for k, v in trained_state(model).items()}
    change(state)
    with pytest.raises(UserError, match=message):
        load_trained(target, state, "x.pth")
    after = trained_state(target)
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_unreadable_files_are_named(tmp_path):
    cut = tmp_path / "cut.pth"
    torch.save({"a": torch.ones(1000)}, cut)
    cut.write_bytes(cut.read_bytes()[:500])
    whole = tmp_path / "checkpoint.pth"
    torch.save({"model": {"a": torch.ones(1)}, "epoch": 3}, whole)
    code = tmp_path / "code.pth"
    torch.save({"a": pytest}, code, pickle_module=_EvilPickle)
    for path in (tmp_path / "none.pth", cut, whole, code):
        with pytest.raises(UserError, match=path.name) as e:
            read_state(path)
        assert "\n" not in str(e.value)


class _EvilPickle:
    """Pickles a call to ``print`` in place of any object."""

    import pickle as _pickle

    dumps, loads = _pickle.dumps, _pickle.loads

    class Pickler(_pickle.Pickler):
        def reducer_override(self, obj):
            return (print, ("unpickled",)) if obj is pytest else NotImplemented


STRANGE = {
    "meta": lambda v: v.to("meta"),
    "sparse": lambda v: v.to_sparse(),
    "quantized": lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8),
    "nested": lambda v: torch.nested.nested_tensor([v]),
    "complex": lambda v: v.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_of_other_kinds_are_refused(model, tmp_path, kind):
    state = trained_state(model)
    for name in ("postencoder.queries", IDENTITY):
        torch.save({**state, name: STRANGE[kind](state[name])}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=r"a.pth: holds more than model tensors"):
            read_state(tmp_path / "a.pth")
    torch.save({**state, 1: torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a.pth: holds more than model tensors"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("change", [torch.nan, torch.inf, torch.bool])
def test_what_is_no_number_is_refused_by_name(model, change):
    state = trained_state(model)
    name = "postencoder.queries"
    is_kind = isinstance(change, torch.dtype)
    state[name] = state[name].to(change) if is_kind else state[name] * change
    with pytest.raises(
        UserError, match=r"^a.pth: postencoder.queries holds what is no"
    ):
        load_trained(model, state, "a.pth")
    state[name] = trained_state(model)[name].to(torch.float8_e5m2)
    load_trained(copy.deepcopy(model), state, "a.pth")


def test_a_turned_bit_is_found_in_what_torch_reads_over(model, tmp_path):
    """Of a training's own files, which have no checksum files."""
    file = tmp_path / "1epoch.pth"
    atomic_torch_save(trained_state(model), file)
    content = bytearray(file.read_bytes())
    queries = trained_state(model)["postencoder.queries"].numpy().tobytes()
    content[content.index(queries) + 2] ^= 1
    file.write_bytes(content)
    assert torch.load(file)["postencoder.queries"].isfinite().all()
    message = "epoch.pth: not .*damage"
    with tensors_only():
        for read in (read_state, torch.load):
            with pytest.raises(UserError, match=message):
                read(file)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, repo):
    """The system itself refuses the write: files of this process end at 100 kB."""
    path = tmp_path / "checkpoint.pth"
    atomic_torch_save({"a": torch.ones(2)}, path)
    old = path.read_bytes()
    code = (
        "import resource, torch\n"
        "from espnet_llada.bin.options import run_main\n"
        "from espnet_llada.io.checkpoint import atomic_torch_save\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "content = {'a': torch.ones(10**6)}\n"
        f"run_main(lambda _: atomic_torch_save(content, {str(path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {path}: ") and "intact" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_an_lm_trained_itself_is_in_it_but_for_its_embedding(tiny_config, tmp_path):
    conf = {**tiny_config["decoder_conf"], "lora": None, "train_lm": True}
    config = {**tiny_config, "decoder_conf": conf}
    model = build_model(config)
    lm = model.decoder.lm
    assert not any(p.requires_grad for p in (lm.embedding.weight, lm.head))
    torch.nn.init.ones_(lm.body.layers[0].mlp.up_proj.weight)
    atomic_torch_save(trained_state(model), tmp_path / "a.pth")
    state = read_state(tmp_path / "a.pth")
    of_lm = {n for n in state if n.startswith("decoder.lm.body.")}
    assert of_lm == {
        f"decoder.lm.body.{n}"
        for n, _ in lm.body.named_parameters()
        if n.startswith(("layers.", "norm."))
    }
    other = build_model(config)
    load_trained(other, state, "a.pth")
    for name, tensor in model.state_dict().items():
        if name in state:
            assert torch.equal(other.state_dict()[name], tensor), name


def test_lora_and_a_trained_lm_exclude_each_other(tiny_config):
    conf = {**tiny_config["decoder_conf"], "lora": {"r": 2}, "train_lm": True}
    with pytest.raises(UserError, match="train_lm: true leaves nothing to lora"):
        build_model({**tiny_config, "decoder_conf": conf})
