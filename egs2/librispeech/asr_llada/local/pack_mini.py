#!/usr/bin/env python3
"""Puts two trained models and the LM that both adapt into the package.

    local/pack_mini.py --llama exp/asr_a --llada exp/asr_b --lm DIR \
        --output ../../../espnet_llada/mini

``DIR`` is what local/make_lm.py wrote and both were trained on. The output gets ``lm``,
and ``llama`` and ``llada`` with the trained tensors in float16, a config.yaml of what
decoding reads, and the decode.yaml that lies beside the training's config.yaml, if any.
New weights need a new calibration: local/calibrate.py.
Each model is loaded from there before anything of the output is replaced.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.build import is_ours
from espnet_llada.inference.loading import find_model, load_model, read_train_config
from espnet_llada.io.checkpoint import (
    IDENTITY,
    identity_tensor,
    read_identity,
    read_state,
)
from espnet_llada.io.files import write_checksum, write_checksums
from espnet_llada.io.model_dir import write_model
from espnet_llada.io.weights import Weights, resolve
from espnet_llada.io.weights.assets import ASSETS
from espnet_llada.types import LoadOptions, UserError

LM, LM_FILES = "stories15m", ("config.json", "model.safetensors", "tokenizer*.json")
LM_MAY_HAVE = ("whisper_tokens.json",)
SECTIONS = [
    f"{part}{conf}"
    for part in ("encoder", "postencoder", "decoder")
    for conf in ("", "_conf")
]
TRAINING_ONLY = (
    *("compile_layers", "text_injection"),
    *("corrupt_tokens", "acoustic_confusion"),
)
"""Of ``decoder_conf`` and its ``posterior_prefix``: decoding has no use for them."""

MAX_BYTES = 60_000_000
"""Of the two systems' tensors."""


def inference_config(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What decoding reads of a train config; frozen weights by their names alone.

    Raises:
        UserError: parts that are not ours, or a Whisper that has no name.
    """
    if not is_ours(config):
        raise UserError(f"{source}: an encoder or adapter that is not of this package")
    kept = {key: config[key] for key in SECTIONS if config.get(key)}
    whisper = (kept.get("encoder_conf") or {}).get("whisper", "whisper-tiny.en")
    if whisper not in ASSETS:
        raise UserError(
            f"{source}: its whisper '{whisper}' is a path; train with a name that "
            f"every machine knows: {', '.join(ASSETS)}"
        )
    kept["encoder_conf"] = {**kept.get("encoder_conf", {}), "whisper": whisper}
    decoder = {**kept.get("decoder_conf", {}), "lm": LM}
    if prefix := decoder.get("posterior_prefix"):
        decoder["posterior_prefix"] = _for_decoding(prefix)
    kept["decoder_conf"] = _for_decoding(decoder)
    return kept


def _for_decoding(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in TRAINING_ONLY}


def packed_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any], lm: Weights, source: Path
) -> dict[str, Tensor]:
    """Trained tensors in float16; the frozen weights go by their names in ``config``.

    Raises:
        UserError: trained on another LM, or a value that float16 does not hold.
    """
    identity = read_identity(state, source)
    if identity["decoder"]["sha256"] != lm.sha256:
        raise UserError(
            f"{source}: was trained on the LM '{identity['decoder']['name']}', whose "
            f"weights are not those in {lm.path}; name the LM it was trained on"
        )
    identity["encoder"]["name"] = config["encoder_conf"]["whisper"]
    identity["decoder"]["name"] = config["decoder_conf"]["lm"]
    halves = {name: tensor.half() for name, tensor in state.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise UserError(f"{source}: {name} has values that float16 does not hold")
    return halves | {IDENTITY: identity_tensor(identity)}


def pack(models: Mapping[str, Path], lm: Path, made: Path) -> None:
    """Write everything into ``made``, and load it from there."""
    (made / "lm").mkdir()
    for pattern in LM_FILES + LM_MAY_HAVE:
        files = sorted(lm.glob(pattern))
        if not files and pattern in LM_FILES:
            raise UserError(f"{lm}: no {pattern} in it; make it with local/make_lm.py")
        for file in files:
            shutil.copyfile(file, made / "lm" / file.name)
    write_checksum(made / "lm/model.safetensors")
    write_checksums(made / "lm")
    for system, exp in models.items():
        source, checkpoint = find_model(exp, system)
        config = inference_config(read_train_config(source), source)
        if config["decoder"] != system:
            raise UserError(f"{source}: decoder {config['decoder']}, not {system}")
        state = read_state(checkpoint)
        state = packed_state(state, config, resolve(lm, "lm"), checkpoint)
        write_model(made / system, config, state, source.parent)
        files = made / system / "config.yaml", made / system / "model.safetensors"
        load_model(*files, LoadOptions(lm=made / "lm"))


def size(directory: Path) -> int:
    """Bytes of the files below a directory."""
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())


def replace(made: Path, output: Path) -> None:
    """Move what was made into ``output``; what else lies there stays.

    Raises:
        UserError: the package would grow too large.
    """
    parts = sorted(made.iterdir())
    total = size(made) - size(made / "lm")
    if total > MAX_BYTES:
        raise UserError(
            f"{output}: {total / 1e6:.1f} MB of trained tensors, above "
            f"{MAX_BYTES / 1e6:g}; train smaller models"
        )
    for part in parts:
        shutil.rmtree(output / part.name, ignore_errors=True)
        part.rename(output / part.name)
    sys.stdout.write(f"{output}: {total / 1e6:.1f} MB of trained tensors\n")


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    for name, text in (
        ("llama", "directory of Whisper-LLaMA's training"),
        ("llada", "directory of Whisper-LLaDA's training"),
        ("lm", "directory of the LM"),
        ("output", "directory to fill: espnet_llada/mini"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Pack; see the module."""
    args = get_parser().parse_args(cmd)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".mini.") as made:
        pack({"llama": args.llama, "llada": args.llada}, args.lm, Path(made))
        replace(Path(made), args.output)


if __name__ == "__main__":
    run_main(main)
