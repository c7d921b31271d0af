"""Launcher: runs an ESPnet2 module with our classes registered.

    python -m espnet_llada.run -m espnet2.bin.asr_train --config …

Meant for ``asr.sh --python "python3 -m espnet_llada.run"``: asr.sh then calls every
ESPnet command through it. Training and decoding go to our twins of those commands,
which take the same options; everything else runs unchanged.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from espnet_llada.bin.options import run_main
from espnet_llada.import_guards import before_espnet
from espnet_llada.types import UserError

_EXAMPLE = "e.g. python -m espnet_llada.run -m espnet2.bin.asr_train"
OURS = {
    "espnet2.bin.asr_train": "espnet_llada.bin.asr_train",
    "espnet2.bin.asr_inference": "espnet_llada.bin.asr_inference",
    # Stage 5 would list the LM's whole vocabulary, from a hub; ours needs no list.
    "espnet2.bin.hugging_face_export_vocabulary": "espnet_llada.recipe.tokens",
}

_NO_LM = (
    "note: this LM is for ESPnet's decoders; decoder: llada or llama do not use it, "
    "and asr.sh --use_lm false saves its training"
)


def main(cmd: list[str] | None = None) -> None:
    """``-m MODULE ARGS…`` or ``SCRIPT ARGS…``, as python itself takes them."""
    args = sys.argv[1:] if cmd is None else list(cmd)
    while args and args[0] in ("-u", "-B", "-s"):  # options of python, not of ours
        args.pop(0)
    if not args or args == ["-m"]:
        raise UserError(f"nothing to run; {_EXAMPLE}")
    before_espnet()
    if args[0] != "-m":
        script = Path(args[0])
        if not any(map(Path.is_file, (script, script / "__main__.py"))):
            raise UserError(f"{script}: no such script; {_EXAMPLE}")
        sys.argv = args
        runpy.run_path(args[0], run_name="__main__")
        return
    module, rest = args[1], args[2:]
    if "espnet2.bin.lm_train" in args:  # asr.sh's stages 6 and 7, which start it
        sys.stderr.write(f"{_NO_LM}\n")
    name = OURS.get(module, module)
    if not _is_there(name):
        raise UserError(f"-m {module}: no such module to run; {_EXAMPLE}")
    if module.startswith("espnet2.bin.") and module not in (*OURS, *_FOR_ANY):
        _check_model(module, rest)
    sys.argv = [name, *rest]
    with _prepared(module):
        runpy.run_module(name, run_name="__main__", alter_sys=True)


_FOR_ANY = ("espnet2.bin.pack", "espnet2.bin.launch")  # take a model as it is
_OF_MODELS = ("espnet2.bin.asr", "espnet2.bin.lm")


def _is_there(module: str) -> bool:
    try:
        found = None if module.startswith(".") else find_spec(module)
        if found and found.submodule_search_locations:
            found = find_spec(f"{module}.__main__")
    except (ModuleNotFoundError, ValueError):  # of what is above it; no name at all
        return False
    return found is not None


def _check_model(module: str, words: list[str]) -> None:
    """Refuse a model of ours where ESPnet's command cannot use it."""
    named = (word.partition("=")[0] for word in words)
    options = {word for word in named if word.endswith("_train_config")}
    if module.startswith("espnet2.bin.asr_inference_"):
        options.add("--asr_train_config")  # maybe in the YAML of --config
    for option in sorted(options):
        from espnet_llada.bin.asr_inference import train_config
        from espnet_llada.build import uses_our_decoder

        if uses_our_decoder(train_config(words, option)):
            from espnet_llada.espnet.inference import cannot

            raise UserError(cannot(module))


@contextlib.contextmanager
def _prepared(module: str) -> Iterator[None]:
    """What ESPnet's own commands around ASR need; ours see to it themselves."""
    if not module.startswith(_OF_MODELS) or module in OURS:
        yield
        return
    from espnet_llada.espnet.inference import espnet_command

    with espnet_command():
        yield


if __name__ == "__main__":
    run_main(main)
