"""Loads a model for decoding from its train config and checkpoint."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_llada.build import (
    ENCODER,
    build_model,
    check_config,
    current_names,
    is_ours,
    uses_our_decoder,
)
from espnet_llada.io.checkpoint import load_trained, read_state
from espnet_llada.io.files import cache_dir, read_yaml
from espnet_llada.io.schema import named
from espnet_llada.io.weights import HUB_ID, from_hub
from espnet_llada.types import LoadOptions, UserError, local_path, nearest

MODEL_FILES = (
    "model.safetensors",
    "valid.acc.ave.pth",
    "valid.loss.ave.pth",
    "train.total_count.ave.pth",
    "valid.acc.best.pth",
    "valid.loss.best.pth",
    "latest.pth",
)
"""Checkpoints looked for in a model directory; the first one found is taken."""

HUB_FILES = ("*.yaml", "*.safetensors", "*.pth", "*.npz")
"""Files downloaded of a model on the hub: no code. ``.pth`` is read as tensors only,
``.npz`` without pickles; see ``trust`` for what a config may name."""

TAGS = {"mini": Path(__file__).parents[1] / "mini"}
"""The models that come with this package."""

FOREIGN = "espnet_llada.espnet.inference:build_with_espnet"
"""Builds a model with an encoder of ESPnet's; imported only for those."""

_PACK = "meta.yaml"  # in a directory that ESPnet has packed


def load_model(
    train_config: str | Path,
    model_file: str | Path,
    options: LoadOptions | None = None,
) -> nn.Module:
    """Build a model, load its trained tensors and merge LoRA.

    Args:
        train_config: config.yaml of the training.
        model_file: checkpoint of the trained tensors.
        options: see ``LoadOptions``.

    Raises:
        UserError: a file is missing or does not fit; the message names it.
    """
    options = options or LoadOptions()
    if options.quantize_asr_model:
        from espnet_llada.networks.quantize import check_quantizable, quantized

        check_quantizable(options)
    if options.device != "cpu":
        from espnet_llada.networks.device import check_device

        check_device(options.device)
    config = read_train_config(train_config)
    state = read_state(model_file)  # cheap, so a wrong path shows before the LM loads
    config = _with_frozen(config, train_config, options.lm, options.whisper)
    if is_ours(config):
        with _undrawn():
            model = build_model(config)
    else:
        model = _foreign(config, train_config, options.trust_model)
    load_trained(model, current_names(state), str(model_file))
    model.decoder.merge_lora()
    try:
        model = model.to(options.device).eval()
    except RuntimeError as e:
        from espnet_llada.networks.device import device_problem

        raise UserError(device_problem(options.device, e)) from e
    return quantized(model) if options.quantize_asr_model else model


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """No layer draws initial values: frozen and trained tensors replace all of them."""
    init, names = torch.nn.init, ("kaiming_uniform_", "uniform_", "normal_")
    drawing = {name: getattr(init, name) for name in names}
    try:
        for name in names:
            setattr(init, name, lambda tensor, *args, **kwargs: tensor)
        yield
    finally:
        for name, function in drawing.items():
            setattr(init, name, function)


def _foreign(config: Mapping[str, Any], source: str | Path, trusted: bool) -> nn.Module:
    from espnet_llada.trust import check_parts, tensors_only

    if not trusted:
        check_parts(config, source)
    try:
        # ESPnet prints while it is imported; stdout is for transcripts.
        with tensors_only(trusted), contextlib.redirect_stdout(sys.stderr):
            return named(FOREIGN)(config)
    except UserError:
        raise
    except Exception as e:  # ESPnet's parts raise whatever they run into
        reason = " ".join(str(e).split())[:160]
        raise UserError(
            f"{source}: ESPnet cannot build this model ({type(e).__name__}: {reason}); "
            "use the config.yaml that its training wrote"
        ) from e


def _with_frozen(
    config: Mapping[str, Any],
    source: str | Path,
    lm: str | Path | None,
    whisper: str | Path | None,
) -> dict[str, Any]:
    """The config with the given weights; its local paths must exist."""
    if whisper and config.get("encoder") != ENCODER:
        raise UserError(f"whisper {whisper}: the encoder of {source} is no Whisper")
    config = dict(config)
    for section, key, given in (
        ("decoder_conf", "lm", lm),
        ("encoder_conf", "whisper", whisper),
    ):
        conf = dict(config.get(section) or {})
        if given:
            conf[key] = str(given)
        config[section] = conf
        path = local_path(str(conf.get(key, ".")))
        if (path.is_absolute() or path.parts[:1] == ("..",)) and not path.exists():
            raise UserError(
                f"{source}: its {key} '{path}' is not on this machine; say where it is "
                f"with {key} (--{key} on the command line)"
            )
    return config


def read_train_config(path: str | Path) -> dict[str, Any]:
    """Read the config.yaml of a training with one of our decoders.

    Paths to files that are packed with it are resolved.

    Raises:
        UserError: missing, not YAML, of another kind of model, or with a value that
            does not fit our parts.
    """
    config, path = read_yaml(path), Path(path)
    if any((d / _PACK).is_file() for d in path.absolute().parents):
        from espnet_llada.io.packed import own_paths

        config = own_paths(config, path)
    check_config(config, path)
    if not uses_our_decoder(config):
        raise UserError(
            f"{path}: not the config of a model with 'decoder: llada' or 'llama'"
        )
    return config


def find_model(name: str | Path, system: str = "llada") -> tuple[Path, Path]:
    """Config and checkpoint of a model by name.

    Args:
        name: a model directory, a zip or a tag. The directory is an ``exp/asr_…`` of
            the recipe, an unpacked zip, or one with a ``llada`` and a ``llama``
            directory of that kind; the zip is one that ``espnet2.bin.pack asr``
            (stage 14) made; the tag is one of the cache (``bin.publish`` writes
            there), ``mini`` (the models inside this package) or ``owner/name`` on the
            model hub. They are tried in this order; a directory without a model does
            not hide the tag of its name.
        system: ``llada`` or ``llama``, where there are both.

    Raises:
        UserError: nothing of that name, or no model in it.
    """
    places = []
    for place in places_of(str(name)):
        top = _unpacked(place) if place.is_file() else place
        for directory in (top, top / system):
            if files := _packed_files(directory) or _trained_files(directory):
                return files
        places.append(top)
    if not places:
        raise _unknown(str(name))
    where = ", ".join(map(str, places))
    raise UserError(f"{where}: no config.yaml in it; name a trained exp directory")


def places_of(name: str) -> Iterator[Path]:
    """Existing places of a model's name, in the order of ``find_model``."""
    places = [local_path(name), _published() / name]
    if name in TAGS:
        places.append(TAGS[name])
    existing = [place for place in places if place.exists()]
    if not existing and re.fullmatch(HUB_ID, name):
        existing = [from_hub(name, HUB_FILES)]
    yield from existing


def _unpacked(archive: Path) -> Path:
    from espnet_llada.io.packed import unpack

    return unpack(archive)


def _packed_files(directory: Path) -> tuple[Path, Path] | None:
    if not (directory / _PACK).is_file():
        return None
    from espnet_llada.io.packed import packed_files

    return packed_files(directory)


def _published() -> Path:
    return cache_dir() / "models"


def _unknown(name: str) -> UserError:
    if name in TAGS:
        return UserError(
            f"{name}: this installation of espnet_llada lacks {TAGS[name]}; install it "
            "with that directory, or name a trained exp directory"
        )
    tags = sorted({*TAGS, *(p.name for p in _published().glob("[!.]*"))})
    return UserError(
        f"{name}: no such model directory, zip or tag{nearest(name, tags)}; name a "
        f"trained exp directory, or one of the tags: {', '.join(tags)}"
    )


def _trained_files(directory: Path) -> tuple[Path, Path] | None:
    config = directory / "config.yaml"
    if not config.exists():
        return None
    for file in MODEL_FILES:
        if (directory / file).exists():
            return config, directory / file
    raise UserError(f"{directory}: no checkpoint in it; train first (stage 11)")


def publish(exp_dir: Path, system: str, tag: str) -> Path:
    """Copy a trained model into the cache as ``tag``; returns its directory.

    Only the trained tensors are copied (MBs).
    """
    from espnet_llada.io.model_dir import write_model

    config, model_file = find_model(exp_dir, system)
    content, state = read_train_config(config), read_state(model_file)
    directory = _published() / tag / system
    write_model(directory, content, state, config.parent)
    return directory
