"""What an installation does to an environment, and how the set-up repairs itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ROOT / "egs2/librispeech/asr_llada/local/install.sh"


def run(*command, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, **keywords
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What pip reads, in a folder that a build may litter."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    shutil.copy(ROOT / "setup.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    ignore = shutil.ignore_patterns("__pycache__", "mini")  # 60 MB of weights
    shutil.copytree(ROOT / "espnet_llada", folder / "espnet_llada", ignore=ignore)
    copy = folder / INSTALL.relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(INSTALL, copy)
    return folder


def would_install(checkout: Path, report: Path, *options: str) -> dict[str, dict]:
    """Package name -> pip's report of it, for installing the checkout here."""
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--quiet")
    options += ("--no-build-isolation", "--report", str(report), str(checkout))
    done = run(*pip, *options)
    assert done.returncode == 0, done.stderr
    packages = json.loads(report.read_text())["install"]
    return {p["metadata"]["name"].replace("-", "_"): p for p in packages}


def test_installing_replaces_nothing_of_a_working_espnet(checkout, tmp_path):
    pytest.importorskip("espnet2")
    found = would_install(checkout, tmp_path / "report.json", "--no-index")
    assert set(found) <= {"espnet_llada"}


def test_metadata(checkout, tmp_path):
    options = ("--no-index", "--no-deps", "--ignore-installed")
    found = would_install(checkout, tmp_path / "report.json", *options)
    metadata = found["espnet_llada"]["metadata"]
    import espnet_llada

    assert metadata["version"] == espnet_llada.__version__
    assert metadata["requires_python"] == ">=3.10"
    # What is sure to be there already must not be bounded from above or pinned, and
    # espnet must not be asked for at all: see setup.py.
    needs = [r for r in metadata["requires_dist"] if "extra ==" not in r]
    assert not [r for r in needs if "<" in r or "==" in r or "~=" in r]
    assert not [r for r in needs if r.startswith(("espnet", "torchaudio", "openai"))]


def test_wheel_and_sdist_hold_every_module_and_all_data(checkout, tmp_path):
    tensors = ("model.safetensors", "model.safetensors.sha256")
    stand_ins = ["README.md", *(f"lm/{name}" for name in ("tokenizer.json", *tensors))]
    for system in ("llama", "llada"):
        names = ("config.yaml", "decode.yaml", *tensors)
        stand_ins += [f"{system}/{name}" for name in names]
    mini = checkout / "espnet_llada/mini"
    for name in stand_ins:
        (mini / name).parent.mkdir(parents=True, exist_ok=True)
        (mini / name).write_text("")
    out = str(tmp_path)
    build = f"b.build_wheel({out!r}); b.build_sdist({out!r})"
    code = f"import setuptools.build_meta as b; {build}"
    done = run(sys.executable, "-c", code, cwd=checkout)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    names = set(ZipFile(wheel).namelist())
    sources = [p for p in (checkout / "espnet_llada").rglob("*") if p.is_file()]
    wanted = {str(s.relative_to(checkout)) for s in sources}
    assert "espnet_llada/report/templates/report.css" in wanted
    assert wanted <= names
    with tarfile.open(sdist) as opened:
        assert wanted <= {n.partition("/")[2] for n in opened.getnames()}
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    assert "espnet-llada" in ZipFile(wheel).read(entry_points).decode()


def test_import_is_light():
    code = "import sys, espnet_llada; print(' '.join(sys.modules))"
    before = set(
        run(sys.executable, "-c", "import sys; print(*sys.modules)").stdout.split()
    )
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    packages = {m.split(".")[0] for m in set(done.stdout.split()) - before}
    assert packages - set(sys.stdlib_module_names) == {"espnet_llada"}


def test_install_script_parses():
    assert run("bash", "-n", str(INSTALL)).returncode == 0


def test_install_script_refuses_what_it_cannot_use(tmp_path):
    done = run("bash", str(INSTALL))
    assert done.returncode == 1
    assert "usage" in done.stderr
    environment = {**os.environ, "PYTHON": "/no/such/python"}
    done = run("bash", str(INSTALL), str(tmp_path / "venv"), env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: none of '/no/such/python'")
    assert len(done.stderr.splitlines()) == 1


def stamped(checkout: Path, venv: Path) -> None:
    """A finished environment as the script leaves it; its Python records its calls."""
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >>"{venv}/called"\nexit 1\n')
    python.chmod(0o755)
    state = f'cat setup.py "{INSTALL.relative_to(ROOT)}"; echo "{checkout} {venv}"'
    done = run("bash", "-c", f"{{ {state}; }} | sha256sum", cwd=checkout)
    (venv / ".espnet_llada_installed").write_text(done.stdout)


def test_finished_set_up_is_left_alone(checkout, tmp_path):
    venv = tmp_path / "venv"
    stamped(checkout, venv)
    before = sorted(venv.rglob("*"))
    done = run("bash", str(checkout / INSTALL.relative_to(ROOT)), str(venv))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(venv.rglob("*")) == before  # no log, no lock; Python was not called


def test_changed_requirements_set_up_again(checkout, tmp_path):
    venv = tmp_path / "venv"
    stamped(checkout, venv)
    with open(checkout / "setup.py", "a") as f:
        f.write("# another dependency\n")
    environment = {**os.environ, "PYTHON": "/no/such/python"}
    script = str(checkout / INSTALL.relative_to(ROOT))
    done = run("bash", script, str(venv), env=environment)
    assert done.returncode == 1  # it went to work, and found no Python
    assert not (venv / ".espnet_llada_installed").exists()
