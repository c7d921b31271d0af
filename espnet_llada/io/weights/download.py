"""Fetches pinned files, resumed and verified: from a URL, or a wheel by its name.

For a wheel ``pip`` itself says where it lies (so an own index or mirror is used, and no
host is named here); the file is then fetched by us, because not every pip resumes a
broken download. pip never gets to build anything, which would run a package's code.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.files import CHUNK, copy, sha256

log = logging.getLogger(__name__)

ATTEMPTS = 4  # in a row without progress
FRESH_STARTS = 2
WRONG_CONTENT = "the download's sha256 is not the pinned one"
NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class FetchError(Exception):
    """It could not be fetched; the message is the reason only."""


@dataclass(frozen=True)
class Wheel:
    """A package's wheel, pinned: ``name==version``, and the file's sha256 and bytes."""

    requirement: str
    sha256: str
    size: int


def fetch_wheel(wheel: Wheel, target: Path) -> None:
    """Download and verify the wheel; a broken download is resumed.

    Raises:
        FetchError: neither the direct way nor ``pip download`` worked.
        OSError: writing failed.
    """
    if target.is_file() and sha256(target) == wheel.sha256:
        return
    url = _locate(wheel)
    try:
        fetch_file(url, target, wheel.sha256, wheel.size, wheel.requirement)
    except (FetchError, *NETWORK_ERRORS) as e:
        log.info("%s: %s; trying pip download", wheel.requirement, e)
        _pip_download(wheel, target)


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        errors = [line for line in lines if line.startswith("ERROR: ")]
        if any("DO NOT MATCH THE HASHES" in line for line in errors):
            raise FetchError(WRONG_CONTENT)
        raise FetchError((errors or lines)[-1].removeprefix("ERROR: "))
    return done.stdout


_WHEELS_ONLY = "--only-binary=:all: --no-deps --retries=1 --quiet --no-input".split()


def _locate(wheel: Wheel) -> str:
    """The wheel's URL on the index that the user's pip is configured for.

    Not with its hash: pip would then download the wheel to compare it.
    """
    options = ["--dry-run", "--ignore-installed", "--report=-", wheel.requirement]
    report = json.loads(_pip("install", *_WHEELS_ONLY, *options))
    found = report["install"][0]["download_info"]
    hashes = found.get("archive_info", {}).get("hashes", {})
    if hashes.get("sha256", wheel.sha256) != wheel.sha256:
        raise FetchError("the index has another file of that name; " + WRONG_CONTENT)
    return found["url"].partition("#")[0]


def _pip_download(wheel: Wheel, target: Path) -> None:
    """For indexes that only pip can reach, by its own credentials or proxies."""
    folder = target.with_suffix(".pip")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        asked = folder / "requirements.txt"
        asked.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        options = ["--require-hashes", f"--requirement={asked}"]
        options += [f"--dest={folder / 'wheel'}"]
        _pip("download", *_WHEELS_ONLY, *options)
        (file,) = (folder / "wheel").iterdir()
        file.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_file(url: str, target: Path, digest: str, size: int, label: str) -> None:
    """Download with resume; the result appears under its name only when verified.

    A dropped connection is taken up again as often as it brings something. Content
    with another sha256 is fetched afresh once: what an earlier process left may be a
    mix of two files.

    Args:
        url: where the file lies.
        target: where it shall be.
        digest, size: its sha256 and its bytes.
        label: what the progress bar calls it.

    Raises:
        FetchError: too many breaks in a row, or the sha256 is not the pinned one.
        One of ``NETWORK_ERRORS``: the server refuses, or cannot be reached.
        OSError: writing failed.
    """
    part = target.with_suffix(".part")
    idle = wrong = 0
    while wrong < FRESH_STARTS:
        if (have := size_of(part)) < size:
            time.sleep(idle)
            try:
                _transfer(url, part, size, label)
            except NETWORK_ERRORS as e:  # which another attempt may mend
                code = getattr(e, "code", 0)
                if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink(missing_ok=True)
                elif 400 <= code < 500 or idle == ATTEMPTS - 1:
                    raise
        if size_of(part) >= size:
            if sha256(part) == digest:
                part.replace(target)
                return
            part.unlink()
            wrong, idle = wrong + 1, 0
            continue
        idle = 0 if size_of(part) > have + CHUNK else idle + 1
        if idle == ATTEMPTS:
            raise FetchError("the download is incomplete; run it again to resume")
    raise FetchError(WRONG_CONTENT)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, part: Path, size: int, label: str) -> None:
    have = size_of(part)
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    ca_file = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=ca_file or None)
    with urllib.request.urlopen(request, timeout=60, context=context) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        with open(part, "ab" if resumed else "wb") as f:
            copy(response, f, label, size, have if resumed else 0)
