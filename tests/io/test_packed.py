"""ESPnet's own pack of a model, moved and unpacked: the same text. Real zips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from espnet_llada import Deliberator, Speech2Text, UserError
from espnet_llada.bin import cli
from espnet_llada.build import build_model
from espnet_llada.inference.loading import find_model, read_train_config
from espnet_llada.io.checkpoint import atomic_torch_save, read_state, trained_state
from espnet_llada.io.packed import unpack

pytest.importorskip("espnet2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(path))
    return path


@pytest.fixture(scope="module")
def recipe(tiny_config, tmp_path_factory) -> Path:
    """A recipe's directory with a model, and what ESPnet packs of it."""
    top = tmp_path_factory.mktemp("recipe")
    exp = top / "exp/asr_x"
    (exp / "images").mkdir(parents=True)
    (exp / "images/acc.png").write_bytes(b"image")
    (exp / "RESULTS.md").write_text("results\n")
    torch.manual_seed(0)
    state = trained_state(build_model(tiny_config))
    (exp / "config.yaml").write_text(yaml.safe_dump(tiny_config))
    atomic_torch_save(state, exp / "3epoch.pth")
    (exp / "valid.acc.ave.pth").symlink_to("3epoch.pth")
    return top


@pytest.fixture(scope="module")
def archive(recipe, repo) -> Path:
    return pack(repo, recipe, "exp/asr_x", recipe / "x.zip")


def pack(repo: Path, cwd: Path, exp: str, out: Path, *options: object) -> Path:
    """As stage 14 of asr.sh."""
    command = [
        sys.executable,
        "-m",
        "espnet_llada.run",
        "-m",
        "espnet2.bin.pack",
        "asr",
    ]
    command += ["--asr_train_config", f"{exp}/config.yaml"]
    command += ["--asr_model_file", f"{exp}/valid.acc.ave.pth"]
    for option in (f"{exp}/RESULTS.md", f"{exp}/images", *options):
        command += ["--option", str(option)]
    subprocess.run(
        [*command, "--outpath", str(out)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(repo)},
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture
def text(recipe, speech) -> str:
    exp = recipe / "exp/asr_x"
    return decode(Speech2Text(exp / "config.yaml", exp / "3epoch.pth", steps=3), speech)


def decode(speech2text: Speech2Text, speech: list[Path]) -> str:
    return " | ".join(speech2text(path)[0][0] for path in speech)


def test_a_pack_decodes_the_same_text_elsewhere(
    archive, recipe, speech, text, tmp_path, monkeypatch, cache, capsys
):
    moved = tmp_path / "elsewhere/model.zip"
    moved.parent.mkdir()
    shutil.copy(archive, moved)
    monkeypatch.chdir(moved.parent)
    away = recipe / "exp_away"
    os.rename(recipe / "exp", away)
    try:
        assert decode(Speech2Text.from_pretrained(moved, steps=3), speech) == text
        with zipfile.ZipFile(moved) as opened:
            opened.extractall("unzipped")
            trained = sum(
                m.file_size for m in opened.infolist() if m.filename.endswith(".pth")
            )
        assert trained < 100_000  # of the weights: the trained ones, once
        assert decode(Speech2Text.from_pretrained("unzipped", steps=3), speech) == text
        shutil.copytree("unzipped", cache / "models/mine")
        assert decode(Speech2Text.from_pretrained("mine", steps=3), speech) == text
        deliberator = Deliberator.from_pretrained(str(moved), mask_ratio=0.0)
        assert deliberator(speech[0], "the dog")[0][0] == "the dog"
        files = [str(path) for path in speech]
        assert (
            cli.main(["transcribe", *files, "--steps", "3", "--model", "model.zip"])
            == 0
        )
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(" ")[2] for line in lines] == text.split(" | ")
    finally:
        os.rename(away, recipe / "exp")
    assert len(list((cache / "packs").iterdir())) == 1


def test_espnets_own_unpack_is_taken_too(archive, speech, text, tmp_path):
    from espnet2.main_funcs.pack_funcs import unpack as espnet_unpack

    files = espnet_unpack(archive, tmp_path / "espnet")
    assert decode(Speech2Text(**files, steps=3), speech) == text


def test_a_tag_of_the_hub_that_was_fetched(
    archive, speech, text, tmp_path, monkeypatch
):
    """As huggingface_hub stores a repository: links into a directory of blobs."""
    from huggingface_hub import constants

    repository = tmp_path / "hub/models--some--model"
    blobs, snapshot = repository / "blobs", repository / "snapshots/abc"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "content")
    blobs.mkdir(parents=True)
    files = [p for p in (tmp_path / "content").rglob("*") if p.is_file()]
    for i, path in enumerate(files):
        link = snapshot / path.relative_to(tmp_path / "content")
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(i))
        link.symlink_to(blobs / str(i))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert decode(Speech2Text.from_pretrained("some/model", steps=3), speech) == text


@pytest.mark.slow
def test_weights_packed_with_it_and_weights_that_are_not_here(
    repo, recipe, tiny_config, tiny_lm, tiny_whisper, speech, text, tmp_path, capsys
):
    """Paths in the config: packed, gone, and given anew."""
    work = tmp_path / "work"
    exp = work / "exp"
    shutil.copytree(recipe / "exp/asr_x", exp, symlinks=True)
    shutil.copytree(tiny_lm, work / "lm")
    shutil.copytree(tiny_whisper, tmp_path / "whisper")
    config = {
        **tiny_config,
        "decoder_conf": {**tiny_config["decoder_conf"], "lm": "lm"},
    }
    config["encoder_conf"] = {
        **tiny_config["encoder_conf"],
        "whisper": str(tmp_path / "whisper"),
    }
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with_whisper = pack(
        repo, work, "exp", tmp_path / "1.zip", "lm", tmp_path / "whisper"
    )
    without = pack(repo, work, "exp", tmp_path / "2.zip", "lm")
    shutil.rmtree(work)
    shutil.rmtree(tmp_path / "whisper")
    assert decode(Speech2Text.from_pretrained(with_whisper, steps=3), speech) == text
    with pytest.raises(
        UserError, match=r"its whisper '.*/whisper' is not on this"
    ) as e:
        Speech2Text.from_pretrained(without)
    assert "\n" not in str(e.value)
    given = Speech2Text.from_pretrained(without, steps=3, whisper=tiny_whisper)
    assert decode(given, speech) == text
    files = [str(path) for path in speech]
    cmd = ["transcribe", *files, "--steps", "3", "--model", str(without)]
    assert cli.main([*cmd, "--whisper", str(tiny_whisper)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == text.split(" | ")


def test_packed_from_another_directory(repo, recipe, speech, text, tmp_path):
    """ESPnet then writes absolute paths into meta.yaml, and none into the zip."""
    exp = recipe / "exp/asr_x"
    archive = pack(repo, tmp_path, str(exp), tmp_path / "x.zip")
    away = recipe / "exp_away"
    os.rename(recipe / "exp", away)
    try:
        assert decode(Speech2Text.from_pretrained(archive, steps=3), speech) == text
    finally:
        os.rename(away, recipe / "exp")


NOT_TAKEN = {
    "fifo": ["a"],
    "twice": ["a", "a"],
    "case": ["a", "A"],
    "below": ["a", "A/b"],
    "back": ["a\\..\\..\\b"],
    "drive": ["C:/windows"],
    "control": ["a\nerror: b"],
    "long": ["a" * 300],
}


def bad_archives(folder: Path, good: Path) -> dict[str, str]:
    """{file: what its message says}."""
    folder.mkdir()
    (folder / "text.zip").write_text("not a zip")
    whole = bytearray(good.read_bytes())
    (folder / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(good) as opened:
        name = max(opened.infolist(), key=lambda m: m.file_size)
    middle = name.header_offset + len(name.filename) + 30 + name.compress_size // 2
    whole[middle] ^= 0xFF
    (folder / "flipped.zip").write_bytes(whole)
    config = "yaml_files: {asr_train_config: c.yaml}\n"
    metas = {
        "no_meta": None,
        "no_model": f"files: {{}}\n{config}",
        "list": "- 1\n",
        "gone": f"files: {{asr_model_file: m.pth}}\n{config}",
        "up": f"files: {{asr_model_file: ../m.pth}}\n{config}",
    }
    for name, meta in metas.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as opened:
            opened.writestr("c.yaml", "decoder: llada\n")
            if meta is not None:
                opened.writestr("meta.yaml", meta)
    for name, member in (("dots", "../../evil"), ("root", "/tmp/evil"), ("link", "x")):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as opened:
            opened.writestr("meta.yaml", metas["gone"])
            info = zipfile.ZipInfo(member)
            info.external_attr = (0o120777 if name == "link" else 0o100644) << 16
            opened.writestr(info, "/etc/passwd")
    for name, members in NOT_TAKEN.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as opened:
            opened.writestr("meta.yaml", metas["gone"])
            for i, member in enumerate(members):
                info = zipfile.ZipInfo(member)
                if name == "fifo":
                    info.external_attr = 0o010644 << 16
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a name that is there twice
                    opened.writestr(info, str(i))
    return {
        "fifo.zip": "no plain file",
        "twice.zip": "'a' twice",
        "case.zip": "two members would be one file",
        "below.zip": "two members would be one file",
        "back.zip": "outside the directory",
        "drive.zip": "outside the directory",
        "control.zip": "outside the directory",
        "long.zip": "outside the directory",
        "text.zip": "not a whole zip",
        "cut.zip": "not a whole zip",
        "flipped.zip": "not a whole zip",
        "no_meta.zip": "no packed model",
        "no_model.zip": "names no asr_train_config and asr_model_file",
        "list.zip": "names no asr_train_config and asr_model_file",
        "gone.zip": "'m.pth' is not next to it",
        "up.zip": r"'\.\./m.pth' is not next to it",
        "dots.zip": "outside the directory",
        "root.zip": "outside the directory",
        "link.zip": "outside the directory",
    }


def test_bad_archives_are_one_line_and_leave_nothing(archive, tmp_path, cache):
    for name, message in bad_archives(tmp_path / "bad", archive).items():
        with pytest.raises(UserError, match=message) as e:
            find_model(tmp_path / "bad" / name)
        assert "\n" not in str(e.value)
    assert not list(tmp_path.parent.rglob("evil"))
    assert not list(cache.rglob(".unpack.*"))
    checkpoint = tmp_path / "x.pth"  # a zip too
    torch.save({"a": torch.ones(3)}, checkpoint)
    with pytest.raises(UserError, match=r"x\.pth: no packed model"):
        find_model(checkpoint)


def packed_anyhow(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in {"meta.yaml": b"{}", **members}.items():
            opened.writestr(name, content)
    return path


def declare(path: Path, size: int, says: int) -> Path:
    """Have the zip say another size of what is ``size`` bytes long."""
    content, old = path.read_bytes(), size.to_bytes(4, "little")
    assert content.count(old) == 2  # at the member, and in the directory
    path.write_bytes(content.replace(old, says.to_bytes(4, "little")))
    return path


def test_what_a_pack_unpacks_to_is_bounded(tmp_path, cache, monkeypatch, archive):
    monkeypatch.setattr("espnet_llada.io.packed.ANY_RATIO_BYTES", 1_000_000)
    zeros = 2_000_003
    members = {"a.pth": bytes(zeros)}
    bomb = packed_anyhow(tmp_path / "bomb.zip", members)
    lies = declare(packed_anyhow(tmp_path / "lies.zip", members), zeros, 1_000)
    giant = declare(packed_anyhow(tmp_path / "giant.zip", members), zeros, 4 * 10**9)
    many = packed_anyhow(tmp_path / "many.zip", {str(i): b"" for i in range(10_001)})
    by_hand = "unzip it yourself and name the directory"
    for file, message in {
        bomb: rf"0\.0 MB that unpack to 2\.0 MB; .*{by_hand}",
        giant: rf"unpack to 4000\.0 MB; .*{by_hand}",
        lies: "not a whole zip",
        many: f"holds 10002 files; .*{by_hand}",
    }.items():
        with pytest.raises(UserError, match=message) as e:
            unpack(file)
        assert str(file) in str(e.value) and "\n" not in str(e.value)
    assert not list(cache.rglob("a.pth"))
    noise = packed_anyhow(tmp_path / "ok.zip", {"a.pth": os.urandom(zeros)})
    assert (unpack(noise) / "a.pth").stat().st_size == zeros
    monkeypatch.setattr("espnet_llada.io.packed.MAX_BYTES", zeros - 1)
    shutil.rmtree(cache)
    with pytest.raises(UserError, match=f"unpack to 2.0 MB; .*{by_hand}"):
        unpack(noise)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "by hand")
    monkeypatch.setattr("espnet_llada.io.packed.MAX_BYTES", 1)
    with pytest.raises(UserError, match=by_hand):
        find_model(archive)
    assert find_model(tmp_path / "by hand")[1].is_file()


def test_a_bit_that_turns_in_what_was_unpacked_is_found(archive, cache):
    readers = read_train_config, read_state
    for file, read in zip(find_model(archive), readers, strict=True):
        assert read(file)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"damaged .*; delete {cache}/packs/.*anew"):
            read(file)
    shutil.rmtree(cache / "packs")
    assert read_state(find_model(archive)[1])


def test_unpacking_once_and_in_one_step(archive, tmp_path, cache, monkeypatch):
    home = unpack(archive)
    stamp = (home / "meta.yaml").stat().st_mtime_ns
    shutil.copy(archive, tmp_path / "other_name.zip")
    assert unpack(tmp_path / "other_name.zip") == home
    assert (home / "meta.yaml").stat().st_mtime_ns == stamp
    shutil.rmtree(home)
    real = os.rename

    def faster_twin(made, target):  # another process finishes in the meantime
        shutil.copytree(made, target)
        real(made, target)

    monkeypatch.setattr(os, "rename", faster_twin)
    assert unpack(archive) == home
    assert [p.name for p in home.parent.iterdir()] == [home.name]
