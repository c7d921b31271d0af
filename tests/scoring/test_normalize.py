from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from espnet_llada.scoring import normalize as module
from espnet_llada.scoring.normalize import normalize, normalize_all
from espnet_llada.types import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The COLOUR grey", "the color gray"),
        ("twenty one thousand and five", "21005"),
        ("in NINETEEN SIXTIES style", "in 1960s style"),
        ("five dollars and ten cents", "$5.10"),
        ("I WON'T, you can't", "i will not you can not"),
        ("he's here; they'll go", "he is here they will go"),
        ("Mr. Brown", "mister brown"),
        ("um, well - hmm (laughs) [noise] yes", "well yes"),
        ("caf\u00e9  na\u00efve", "cafe naive"),
        ("nice %", "nice"),
        ("uh, mm", ""),
        ("", ""),
    ],
)
def test_behaviours(text: str, expected: str):
    assert normalize(text) == expected


def test_what_it_fails_on_is_named():
    with pytest.raises(UserError, match=r"'777.*…: Whisper's normaliser fails"):
        normalize("7" * 5000)


def test_upper_and_lower_case_of_librispeech_agree():
    assert normalize("MISTER QUILTER'S MANNER") == normalize("Mr. Quilter's manner!")


def test_all_keeps_ids_and_order():
    assert normalize_all({"b": "Two", "a": "UH"}) == {"b": "2", "a": ""}
    assert list(normalize_all({"b": "x", "a": "y"})) == ["b", "a"]


def test_heavy_modules_stay_unloaded():
    code = (
        "import sys; from espnet_llada.scoring.normalize import normalize;"
        "assert 'more_itertools' not in sys.modules, 'not lazy';"
        "assert normalize('Colour') == 'color';"
        "heavy = {'torch', 'numba', 'tiktoken', 'whisper'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def fresh():
    """Nothing cached before and after, so that loading happens in the test."""
    _forget()
    yield
    _forget()


def _forget():
    module._normalizer.cache_clear()
    normalize.cache_clear()
    for name in [name for name in sys.modules if name.startswith(module._ALIAS)]:
        del sys.modules[name]


@pytest.mark.usefixtures("fresh")
def test_missing_package_names_the_mend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps openai-whisper"):
        normalize("a")


@pytest.mark.usefixtures("fresh")
def test_another_package_of_that_name_is_not_taken(monkeypatch, tmp_path):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "__init__.py").write_text("")  # Graphite's, on PyPI
    monkeypatch.delitem(sys.modules, "whisper", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="openai-whisper is not installed"):
        normalize("a")


@pytest.mark.usefixtures("fresh")
def test_missing_dependency_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "more_itertools", None)
    with pytest.raises(UserError, match=r"more_itertools.*pip install"):
        normalize("a")
    assert module._ALIAS not in sys.modules
