"""The tables of the extensions' README say what the code has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from espnet_llada.build import POSTENCODER, POSTENCODERS, ExtensionConf
from espnet_llada.extensions import lm_cache
from espnet_llada.inference.options import GROUPS, options_class
from espnet_llada.io.schema import OptionsOf, named, options_of

README = Path(__file__).parents[2] / "espnet_llada/extensions/README.md"


def classes() -> dict[str, type]:
    """{name of an option, or of a postencoder: the class of its own options}."""
    found = {name: options_class(name) for name in GROUPS}
    for name, hint in get_type_hints(ExtensionConf, include_extras=True).items():
        for part in get_args(hint):
            for marker in get_args(part):
                if isinstance(marker, OptionsOf):
                    found[f"decoder_conf.{name}"] = marker.function
    found["decoder_conf.cached_prefix"] = lm_cache.Options
    for name, place in POSTENCODERS.items():
        if name != POSTENCODER:
            found[f"postencoder: {name}"] = named(place)
    return found


def row(name: str, cls: type) -> str:
    """A line of the table: what the module says of itself, or the postencoder."""
    module = sys.modules[cls.__module__]
    about = (cls if name.startswith("postencoder") else module).__doc__
    options = ", ".join(f"`{o}`" for o in options_of(cls).__struct_fields__)
    file = os.path.relpath(module.__file__, README.parent)
    what = about.partition("\n")[0]
    return f"| `{name}` | {what} | {options} | [{Path(file).name}]({file}) |"


def test_each_extension_has_its_row():
    lines = README.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.startswith("| `")]
    wanted = [row(name, cls) for name, cls in classes().items()]
    assert found == wanted, "write these:\n" + "\n".join(wanted)
    kept = {"joint", "decoder_conf.ctc", "postencoder: frames"}
    assert kept <= {*classes()}
