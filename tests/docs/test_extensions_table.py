"""The tables of the extensions' README say what the code has."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from espnet_llada.build import POSTENCODER, POSTENCODERS, DecoderConf
from espnet_llada.inference.options import GROUPS
from espnet_llada.io.schema import options_of

README = Path(__file__).parents[2] / "espnet_llada/extensions/README.md"


def places() -> dict[str, str]:
    """{name of an option, or of a postencoder: the class, or the module, behind it}."""
    found = {name: f"{module}:Options" for name, module in GROUPS.items()}
    for field in fields(DecoderConf):
        # The annotation as it is written: it has the class's place as a text.
        if place := re.search(r"OptionsOf\(\s*['\"](.*?)['\"]", str(field.type)):
            found[f"decoder_conf.{field.name}"] = place[1]
    found["decoder_conf.cached_prefix"] = "espnet_llada.extensions.lm_cache:"
    for name, place in POSTENCODERS.items():
        if name != POSTENCODER:
            found[f"postencoder: {name}"] = place
    return found


def row(name: str, place: str) -> str:
    """A line of the table."""
    module, _, cls = place.partition(":")
    imported = import_module(module)
    described = getattr(imported, cls) if name.startswith("postencoder") else imported
    about = described.__doc__.partition("\n")[0]
    options = options_of(getattr(imported, cls)).__struct_fields__ if cls else ()
    names = ", ".join(f"`{option}`" for option in options)
    file = os.path.relpath(imported.__file__, README.parent)
    return f"| `{name}` | {about} | {names} | [{Path(file).name}]({file}) |"


def test_each_extension_has_its_row():
    lines = README.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    wanted = [row(name, place) for name, place in places().items()]
    assert rows == wanted, "write these:\n" + "\n".join(wanted)


def test_all_kinds_are_found():
    assert {"joint", "decoder_conf.ctc", "postencoder: frames"} <= {*places()}


@pytest.mark.parametrize("name", ["core", "extensions"])
def test_links_lead_somewhere(name):
    text = (README.parents[1] / name / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (README.parents[1] / name / link).exists(), link
