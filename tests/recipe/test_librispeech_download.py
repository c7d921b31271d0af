"""Archives of LibriSpeech from a server on this machine: cut, wrong, killed, full."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from range_server import serve
from recipe_helpers import write_chapter

from espnet_llada.io.weights import download as fetching
from espnet_llada.recipe import download, librispeech
from espnet_llada.recipe.subsets import SUBSETS, Subset
from espnet_llada.types import UserError

ROOT = Path(__file__).parents[2]
# In another process, where a fixture's patches do not reach.
PROGRAM = """
import os, signal, sys
from espnet_llada.recipe import download, subsets
subsets.SUBSETS["dev-clean"] = subsets.Subset(int(sys.argv[1]), sys.argv[2], 3)
if sys.argv[3] != "-":
    seen, check = [], download._check_member
    def killing(archive, member):
        seen.append(member)
        if len(seen) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        check(archive, member)
    download._check_member = killing
download.main(sys.argv[4:])
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``dev-clean.tar.gz`` with three utterances, known as the published one."""
    write_chapter(tmp_path / "made", "dev-clean", "3-1", 3)
    (tmp_path / "made/LibriSpeech/README.TXT").write_text("about\n")
    noise = random.Random(0).randbytes(3 * fetching.CHUNK)  # gzip cannot shrink it
    (tmp_path / "made/LibriSpeech/BOOKS.TXT").write_bytes(noise)
    path = tmp_path / "mirror" / "dev-clean.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "made/LibriSpeech", "LibriSpeech")
    _publish(path, monkeypatch)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)  # each waits a little longer
    return path


def _publish(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    subset = Subset(path.stat().st_size, digest, 3)
    monkeypatch.setitem(SUBSETS, "dev-clean", subset)


@pytest.fixture
def server(archive: Path):
    with serve(archive.parent) as server:
        yield server


def _assert_whole(root: Path) -> None:
    assert len(librispeech.list_utterances(root, ["dev-clean"])) == 3
    assert (root / "LibriSpeech/README.TXT").read_text() == "about\n"
    marker = root / "LibriSpeech/dev-clean/.completed"
    assert marker.read_text() == SUBSETS["dev-clean"].sha256 + "\n"
    assert sorted(p.name for p in root.iterdir()) == [".lock", "LibriSpeech"]


def test_fetch_and_prepare_in_one_command(server, tmp_path: Path):
    root = tmp_path / "downloads"
    argv = ["--root", str(root), "--data_dir", str(tmp_path / "data")]
    argv += ["--download", "true", "--download_url", server.url + "/"]
    librispeech.main([*argv, "dev=dev-clean"])
    assert len((tmp_path / "data/dev/text").read_text().splitlines()) == 3
    _assert_whole(root)
    librispeech.main([*argv, "dev=dev-clean"])
    assert len(server.ranges) == 1  # nothing is fetched twice


def test_a_cut_transfer_is_resumed(server, tmp_path: Path):
    server.breaks = 2
    download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    assert [r is None for r in server.ranges] == [True, False, False]
    _assert_whole(tmp_path / "d")


def test_wrong_checksum_is_refused(server, archive: Path, tmp_path: Path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"dev-clean\.tar\.gz: .*sha256 is not"):
        download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    assert [p.name for p in (tmp_path / "d").iterdir()] == [".lock"]


@pytest.mark.parametrize(("status", "times"), [(404, 1), (503, 2)])
def test_a_server_that_refuses(server, tmp_path: Path, status: int, times: int):
    server.status = status
    with pytest.raises(UserError, match=rf"{status}.*--download_url") as e:
        download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    assert "\n" not in str(e.value)
    assert len(server.ranges) == times


def test_an_archive_of_ones_own_is_used_or_refused(server, archive, tmp_path: Path):
    (tmp_path / "d").mkdir()
    own = tmp_path / "d" / archive.name
    own.write_bytes(b"something else")
    with pytest.raises(UserError, match=f"{own}: not the published archive"):
        download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    shutil.copy(archive, own)
    download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url, True)
    assert own.exists()
    assert server.ranges == []


def test_a_subset_unpacked_by_hand_is_left_alone(server, tmp_path: Path):
    write_chapter(tmp_path, "dev-clean", "9-9", 1)
    download.fetch_subsets(tmp_path / "LibriSpeech", ["dev-clean"], server.url)
    assert server.ranges == []


def test_full_disk_is_told_before_the_download(server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1)
    )
    with pytest.raises(UserError, match="GB are needed here"):
        download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    assert server.ranges == []


@pytest.mark.parametrize("url", ["nowhere", "http://[::1", ""])
def test_what_is_no_url(tmp_path: Path, url: str):
    with pytest.raises(UserError, match=r"dev-clean\.tar\.gz: cannot be fetched"):
        download.fetch_subsets(tmp_path, ["dev-clean"], url)


def test_unknown_subset(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'dev-clean'"):
        download.fetch_subsets(tmp_path, ["dev-claen"])


@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "LibriSpeech/../../evil", "evil", "LibriSpeech/link"],
)
def test_an_archive_cannot_write_elsewhere(archive, tmp_path: Path, monkeypatch, name):
    member = tarfile.TarInfo(name)
    if name.endswith("link"):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    _publish(archive, monkeypatch)
    with serve(archive.parent) as server, pytest.raises(UserError, match="do not tru"):
        download.fetch_subsets(tmp_path / "d", ["dev-clean"], server.url)
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "d/LibriSpeech").exists()


def _start(server, root: Path, kill_at: str = "-") -> subprocess.Popen:
    known = SUBSETS["dev-clean"]
    command = [sys.executable, "-c", PROGRAM, str(known.size), known.sha256, kill_at]
    command += ["--dir", str(root), "--download_url", server.url, "dev-clean"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def test_killed_while_downloading(server, tmp_path: Path):
    server.stalls = True
    process = _start(server, tmp_path / "d")
    part = tmp_path / "d/dev-clean.tar.part"
    deadline = time.monotonic() + 30
    while fetching.size_of(part) < fetching.CHUNK and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    server.stalls = False
    assert _start(server, tmp_path / "d").wait(60) == 0
    assert server.ranges == [None, f"bytes={fetching.CHUNK}-"]
    _assert_whole(tmp_path / "d")


def test_killed_while_unpacking(server, tmp_path: Path):
    assert _start(server, tmp_path / "d", kill_at="5").wait(60) == -9
    assert list((tmp_path / "d/.unpacking-dev-clean").rglob("*.*"))
    assert not (tmp_path / "d/LibriSpeech").exists()
    assert _start(server, tmp_path / "d").wait(60) == 0
    assert server.ranges == [None]  # the archive was whole
    _assert_whole(tmp_path / "d")
