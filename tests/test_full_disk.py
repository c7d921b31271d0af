"""A disk that fills up while a model is written: the system itself refuses the write.

Files of this process end at 100 kB then, which works on every machine.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from espnet_llada.bin import cli, publish
from espnet_llada.inference.loading import find_model
from espnet_llada.io.model_dir import write_model
from espnet_llada.io.packed import unpack
from espnet_llada.types import UserError

LIMIT = 100_000


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def snapshot(directory: Path) -> dict[str, bytes]:
    files = [f for f in sorted(directory.rglob("*")) if f.is_file()]
    return {str(f.relative_to(directory)): f.read_bytes() for f in files}


def refused(call, file: Path) -> None:
    with full_disk(), pytest.raises(UserError) as e:
        call()
    assert str(e.value).startswith(f"{file}: ") and "File too large" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("too_large", ["model.safetensors", "config.yaml"])
def test_writing_a_model_leaves_the_old_one(tmp_path, too_large):
    model = tmp_path / "model"
    write_model(model, {"decoder": "llada"}, {"a": torch.ones(3)})
    old = snapshot(model)
    files = {"config.yaml", "model.safetensors"}
    assert set(old) == files | {f"{name}.sha256" for name in files}
    large = {
        "model.safetensors": ({"decoder": "llama"}, {"a": torch.ones(LIMIT)}),
        "config.yaml": ({"decoder": "llama" * LIMIT}, {"a": torch.zeros(3)}),
    }
    refused(lambda: write_model(model, *large[too_large]), model / too_large)
    assert snapshot(model) == old


def test_publishing_leaves_the_old_tag(model_dir, cache, tmp_path):
    models = [f"llada={model_dir}/llada"]
    publish.main(["--tag", "mine", *models])
    old = snapshot(cache)
    exp = tmp_path / "exp"
    shutil.copytree(model_dir / "llada", exp)
    file = find_model(exp)[1]
    state = torch.load(file, weights_only=True) | {"more": torch.ones(LIMIT)}
    torch.save(state, file)
    tensors = cache / "models/mine/llada/model.safetensors"
    call = ["--tag", "mine", f"llada={exp}"]
    refused(lambda: publish.main(call), tensors)
    assert snapshot(cache) == old
    publish.main(call)
    assert load_file(tensors).keys() == state.keys()
    assert yaml.safe_load((tensors.parent / "config.yaml").read_text())


def test_converting_leaves_nothing_and_names_the_output(tiny_lm, tmp_path):
    large = shutil.copytree(tiny_lm, tmp_path / "large")
    tensors = load_file(large / "model.safetensors")
    save_file({k: v.double() for k, v in tensors.items()}, large / "model.safetensors")
    output = tmp_path / "out"
    call = ["convert", "--lm", str(large), "--output", str(output)]
    before = snapshot(tmp_path)
    refused(lambda: cli.main(call), output / "model.safetensors")
    assert snapshot(tmp_path) == before and not output.exists()


def test_unpacking_leaves_nothing(cache, tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("meta.yaml", "{}")
        opened.writestr("m.pth", os.urandom(LIMIT + 1))
    refused(lambda: unpack(archive), archive)
    assert snapshot(cache) == {}
    assert (unpack(archive) / "m.pth").stat().st_size == LIMIT + 1


@pytest.mark.slow
def test_a_process_says_it_in_one_line(model_dir, cache, repo, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(model_dir / "llada", exp)
    file = exp / "valid.acc.ave.pth"
    state = torch.load(file, weights_only=True) | {"more": torch.ones(LIMIT)}
    torch.save(state, file)
    call = ["-", sys.executable, "-m", "espnet_llada.bin.publish"]
    call += ["--tag", "mine", f"llada={exp}"]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {LIMIT // 1024} && exec "$@"', *call],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    tensors = cache / "models/mine/llada/model.safetensors"
    assert done.stderr.startswith(f"error: {tensors}: writing failed (File too large)")
