"""A package that is imported when it is used; test_train_and_infer has ESPnet's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from espnet_llada import run
from espnet_llada.import_guards import import_when_used
from espnet_llada.types import UserError


@pytest.fixture()
def package(tmp_path, monkeypatch) -> str:
    """One that leaves a file behind when it runs, and has a module of its own."""
    folder = tmp_path / "wakeful"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n"
        "from .inner import answer\nclass Speaker: pass\n"
    )
    (folder / "inner.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "wakeful"
    for name in [m for m in sys.modules if m.split(".")[0] == "wakeful"]:
        del sys.modules[name]


def test_it_runs_once_and_when_used(package, tmp_path):
    import_when_used(package)
    import wakeful

    assert getattr(wakeful, "__wrapped__", None) is None
    assert Path(wakeful.__file__).name == "__init__.py"
    assert not (tmp_path / "ran").exists()
    assert wakeful.answer == 42 and wakeful.Speaker.__module__ == "wakeful"
    import_when_used(package)
    with pytest.raises(AttributeError, match="nothing"):
        wakeful.nothing  # noqa: B018
    assert (tmp_path / "ran").read_text() == "x"


def test_a_name_or_a_module_of_it_is_a_use(package, tmp_path):
    import_when_used(package)
    from wakeful import Speaker

    assert isinstance(Speaker(), Speaker)
    import wakeful.inner

    assert wakeful.inner.answer == 42
    assert (tmp_path / "ran").read_text() == "x"


def test_one_that_fails_does_so_at_each_use(package, tmp_path):
    (tmp_path / "wakeful/inner.py").write_text("raise OSError('no data')\n")
    import_when_used(package)
    import wakeful

    for _ in range(2):
        with pytest.raises(OSError, match="no data"):
            wakeful.Speaker  # noqa: B018


def test_a_module_in_a_package(package, tmp_path):
    import_when_used(f"{package}.inner")
    import wakeful.inner

    assert wakeful.inner.answer == 42
    assert not (tmp_path / "ran").exists()
    assert isinstance(wakeful.Speaker(), wakeful.Speaker)
    assert (tmp_path / "ran").read_text() == "x"
    import_when_used(f"{package}.nothing")
    with pytest.raises(ModuleNotFoundError):
        import wakeful.nothing


def test_what_is_not_installed_is_missing_as_before():
    import_when_used("no_such_package_anywhere")
    import_when_used("no_such_package_anywhere.nor_this")
    with pytest.raises(ModuleNotFoundError):
        import no_such_package_anywhere  # noqa: F401


@pytest.mark.parametrize(
    "args",
    [
        ["-m", "nowhere"],
        ["-m", "no.where"],
        ["-m", "json"],
        ["-m", ".x"],
        ["."],
        ["-x"],
    ],
)
def test_the_launcher_names_what_it_cannot_run(monkeypatch, tmp_path, args):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "before_espnet", lambda: None)
    with pytest.raises(
        UserError, match=f"{args[-1]}: no such (module to run|script); e"
    ):
        run.main(args)
