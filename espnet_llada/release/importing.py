"""Makes a model directory of the release's checkpoint and the weights it needs.

The directory is what training leaves: ``config.yaml`` and trained tensors, so that
``Speech2Text.from_pretrained`` and ``--model`` take it; and ``convert.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espnet_llada.io import weights
from espnet_llada.io.checkpoint import IDENTITY, identity_tensor
from espnet_llada.io.model_dir import write_model
from espnet_llada.io.weights import Weights
from espnet_llada.io.weights.conversion import convert_once, describe
from espnet_llada.networks.llama_export import Update, export_merged
from espnet_llada.networks.llama_files import empty_llama, stored_llama
from espnet_llada.networks.lora import LoraOptions
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.release.checkpoint import (
    ReleaseTensors,
    check_shapes,
    lora_name,
    read_release,
)
from espnet_llada.types import UserError, local_path

MERGED = "lm"
"""Name of the merged LM inside the model directory."""


@dataclass(frozen=True)
class ReleaseOptions:
    """What the checkpoint does not say.

    Attributes:
        heads: of the Q-Former; BERT-base, which the release takes, has 12.
        window: encoder frames in a window of the Q-Former.
        lora_alpha: LoRA's scale is this by r; r is the checkpoint's own.
        prompt: the instruction before the audio.
        dtype: ``float32`` or ``bfloat16``, of the frozen weights when loaded, and of a
            merged LM. By default the former are ``float32``, the latter stays as it is.
        merge_lora: write the LM with LoRA merged, in its own layout, beside the
            checkpoint instead of LoRA into it.
    """

    heads: int = 12
    window: int = 17
    lora_alpha: float = LoraOptions.alpha
    prompt: str = "Transcribe the audio:"
    dtype: str | None = None
    merge_lora: bool = False


def import_release(
    release: str | Path,
    whisper: str,
    lm: str,
    output: str | Path,
    options: ReleaseOptions | None = None,
) -> tuple[bool, list[str]]:
    """Make the model directory ``output``, unless it is there already.

    Args:
        release: the release's checkpoint, ``.pth``.
        whisper: name or path of the encoder's weights (``espnet_llada.io.weights``).
        lm: name or directory of the LM.
        output: the directory; see ``io.weights.conversion.convert_once``.
        options: see ``ReleaseOptions``.

    Returns:
        Whether something was written, and the names of the release's unused tensors.

    Raises:
        UserError: a file is missing or damaged, or the three do not fit each other.
    """
    options = options or ReleaseOptions()
    tensors = read_release(release)
    if options.heads < 1 or tensors.hidden % options.heads:
        raise UserError(
            f"qformer_heads: {options.heads} does not divide the Q-Former's width "
            f"{tensors.hidden} in {release}; name its number of attention heads"
        )
    whisper_weights = weights.resolve(whisper, "whisper")
    lm_weights = weights.resolve(lm, "lm")
    _check_whisper(tensors, whisper_weights, release)
    _check_lm(tensors, lm_weights, release)
    # Where the output lies decides its config only if that names the merged LM.
    merged = Path(output).absolute() / MERGED if options.merge_lora else None
    config = _config(tensors, whisper_weights, lm_weights, merged, options)
    sources = {
        "release": weights.resolve(release, "release"),
        "whisper": whisper_weights,
        "lm": lm_weights,
    }
    recipe = {
        "sources": {part: describe(source) for part, source in sources.items()},
        "config": config,
        "lora_alpha": options.lora_alpha,
        "unused": tensors.unused,
    }
    if options.merge_lora:
        recipe["merged"] = {"layout": "its own", "dtype": options.dtype}

    def write(directory: Path) -> None:
        state, lm_sha256 = dict(tensors.state), lm_weights.sha256
        if options.merge_lora:
            (directory / MERGED).mkdir()
            updates = _take_lora(state, tensors, options.lora_alpha)
            dtype = getattr(torch, options.dtype) if options.dtype else None
            export_merged(lm_weights.path, directory / MERGED, updates, dtype)
            lm_sha256 = weights.resolve(directory / MERGED, "lm").sha256
        whisper_name = config["encoder_conf"]["whisper"]
        lm_name = config["decoder_conf"]["lm"]
        identity = {
            "encoder": {"name": whisper_name, "sha256": whisper_weights.sha256},
            "decoder": {"name": lm_name, "sha256": lm_sha256},
        }
        write_model(directory, config, state | {IDENTITY: identity_tensor(identity)})

    return convert_once(Path(output), recipe, write), tensors.unused


def _check_whisper(tensors: ReleaseTensors, whisper: Weights, release) -> None:
    width = open_whisper(whisper.path).config.d_model
    if width != tensors.encoder_width:
        raise UserError(
            f"{release}: was trained on a Whisper of width {tensors.encoder_width}, "
            f"{whisper.name} has {width}; name the one it was trained on"
        )


def _check_lm(tensors: ReleaseTensors, lm: Weights, release) -> None:
    body, _ = empty_llama(lm.path)
    config = body.config
    have = (config.num_hidden_layers, config.hidden_size)
    if have != (tensors.lm_layers, tensors.lm_width):
        raise UserError(
            f"{release}: was trained on an LM of {tensors.lm_layers} layers and width "
            f"{tensors.lm_width}, {lm.name} has {have[0]} and {have[1]}; name the one "
            "it was trained on"
        )
    stored_llama(lm.path, body)
    check_shapes(
        Path(release),
        tensors.state,
        {
            lora_name(i, part, "B"): torch.Size(
                (getattr(layer.self_attn, part).out_features, tensors.lora_rank)
            )
            for i, layer in enumerate(body.layers)
            for part in LoraOptions.target_modules
        },
    )


def _config(
    tensors: ReleaseTensors,
    whisper: Weights,
    lm: Weights,
    merged: Path | None,
    options: ReleaseOptions,
) -> dict[str, Any]:
    lora = {
        "r": tensors.lora_rank,
        "alpha": options.lora_alpha,
        "dropout": LoraOptions.dropout,
    }
    return {
        "encoder": "whisper_frozen",
        "encoder_conf": {
            "whisper": _lasting(whisper),
            "pad_seconds": 30.0,
            "keep_padding": True,
            "dtype": options.dtype or "float32",
        },
        "postencoder": "window_qformer",
        "postencoder_conf": {
            "hidden": tensors.hidden,
            "layers": tensors.layers,
            "heads": options.heads,
            "ffn": tensors.ffn,
            "queries": tensors.queries,
            "window": options.window,
            "drop_last_window": True,
        },
        "decoder": "llada",
        "decoder_conf": {
            "lm": _lasting(lm) if merged is None else str(merged),
            "dtype": options.dtype or "float32",
            "lora": lora if merged is None else None,
            "prompt": options.prompt,
            "chat_template": True,
            "text_case": "keep",
            "loss": "release",
        },
    }


def _lasting(source: Weights) -> str:
    """A name that holds in any working directory; pinned names and hub ids do."""
    local = local_path(source.name)
    return str(local.absolute()) if local == source.path else source.name


def _take_lora(state: dict, tensors: ReleaseTensors, alpha: float) -> dict[str, Update]:
    """Remove LoRA from ``state``; it comes back by the names of the LM's weights."""
    return {
        f"layers.{layer}.self_attn.{part}.weight": Update(
            state.pop(lora_name(layer, part, "A")),
            state.pop(lora_name(layer, part, "B")),
            alpha / tensors.lora_rank,
        )
        for layer in range(tensors.lm_layers)
        for part in LoraOptions.target_modules
    }
