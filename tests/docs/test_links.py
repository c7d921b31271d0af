"""Links and paths in the Markdown files lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = "docs", "egs2/librispeech/asr_llada", "espnet_llada", "tests"
RECIPE = ROOT / "egs2/librispeech/asr_llada"
MADE = {"exp", "exp_ci", "dump", "downloads"}
RECORDS = "LOG.md", "PERFORMANCE.md"
"""They name files as on the day of the entry; their links are checked all the same."""

_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|sh|yaml|md))`")
_ELSEWHERE = {
    "models/WhisperLLaDA.py",  # the paper's release
    "local/data_prep.sh",  # Kaldi's and ESPnet's, as the others
    "utils/validate_data_dir.sh",
    "scripts/utils/show_asr_result.sh",
    "tools/installers/install_sctk.sh",
    "ESPNET/tools/activate_python.sh",
    "conf/inference.yaml",
}


def _files() -> list[str]:
    found = [*ROOT.glob("*.md"), *(f for r in ROOMS for f in (ROOT / r).rglob("*.md"))]
    names = [file.relative_to(ROOT) for file in found]
    return sorted(str(name) for name in names if not MADE & set(name.parts))


def _anchors(file: Path) -> set[str]:
    """The headings of a Markdown file as links name them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", _files())
def test_links_lead_somewhere(name):
    file = ROOT / name
    for link, anchor in _LINK.findall(file.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target = file.parent / link if link else file
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("name", [n for n in _files() if not n.endswith(RECORDS)])
def test_files_that_are_named_exist(name):
    """Relative to the file, the repository, the package or the recipe."""
    bases = (ROOT / name).parent, ROOT, ROOT / "espnet_llada", RECIPE
    for path in _PATH.findall((ROOT / name).read_text(encoding="utf-8")):
        if path not in _ELSEWHERE and path.split("/")[0] not in MADE:
            assert any((base / path).exists() for base in bases), path
