"""The options that the decoding commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, get_args, get_origin

from espnet_llada.bin.options import OfKind, OptionParser, str2bool
from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.inference.espnet_options import ESPNET, TEXT
from espnet_llada.inference.options import (
    GROUPS,
    OPTIONS,
    PROFILES,
    SearchOptions,
    full_name,
    nested,
    options_class,
)
from espnet_llada.io.schema import OptionField, option_fields
from espnet_llada.types import LoadOptions, UserError


def add_decoding_options(
    parser: OptionParser, strategies: Sequence[str] = STRATEGIES
) -> None:
    """Add the core's options, and those of extensions as ``parser.groups``.

    Options that are not given are not in the namespace, so that the model's defaults
    apply (see ``inference.options``).

    Args:
        parser: to add to.
        strategies: the choices; ``deliberation_`` may be left out.
    """
    group = parser.add_argument_group(
        "decoding",
        "(the model's decode.yaml may have other defaults; extensions: --help all)",
    )
    for option in (*option_fields(SamplerOptions), *option_fields(SearchOptions)):
        if option.name == "strategy":
            _add_strategy(group, option, strategies)
        else:
            _add(group, option)
    group.add_argument(
        "--profile",
        choices=PROFILES,
        default=argparse.SUPPRESS,
        help="release: the published sampler (default: default)",
    )
    parser.groups = {name: partial(_add_group, parser, name) for name in GROUPS}
    for name, option in ESPNET.items():  # of ESPnet's YAMLs; --help shows what is ours
        how = {"type": _text if option.kind == TEXT else OfKind(option.kind)}
        if option.kind == list[str]:
            how = {"nargs": "*"}
        hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        parser.add_argument(f"--{name}", **how, **hidden)


def _text(text: str) -> str:
    return text


_text.kind = TEXT  # in a YAML also null


def _add_group(parser: OptionParser, name: str) -> None:
    """Add ``--NAME true|false`` of an extension, and its ``--NAME.option``s."""
    options = options_class(name)
    about = sys.modules[options.__module__].__doc__.partition("\n")[0]
    group = parser.add_argument_group(name, about)
    group.add_argument(
        f"--{name}",
        type=str2bool,
        default=argparse.SUPPRESS,
        metavar="true|false",
        help="on or off, instead of what decode.yaml has",
    )
    for option in option_fields(options):
        _add(group, option, f"{name}.")


def _add_strategy(group: Any, option: OptionField, strategies: Sequence[str]) -> None:
    if option.default not in strategies:  # all deliberate
        option = replace(option, default="low_confidence")
    short = [name.removeprefix("deliberation_") for name in strategies]
    names = short if len({*short}) == len(short) else strategies
    name = partial(full_name, known=strategies)
    choices = f"{{{','.join(names)}}}"
    _add(group, option, type=name, choices=strategies, metavar=choices)


def _add(group: Any, option: OptionField, prefix: str = "", **more: Any) -> None:
    kind = option.kind
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    how = {"type": OfKind(kind), "metavar": "N" if base is int else "X"}
    if base is bool:
        how = {"type": str2bool, "metavar": "true|false"}
    if option.choices:
        how = {"choices": option.choices}
    group.add_argument(
        f"--{prefix}{option.name}",
        default=argparse.SUPPRESS,
        help=f"{option.text} (default: {_written(option.default)})",
        **{**how, **more},
    )


def _written(default: Any) -> str:
    """A default as it is typed."""
    return f"{default:g}" if isinstance(default, float) else str(default).lower()


def add_origin_options(parser: argparse.ArgumentParser) -> None:
    """Add options for models trained elsewhere, or by others."""
    parser.add_argument("--lm", help="the frozen LM, instead of the config's")
    parser.add_argument("--whisper", help="the frozen Whisper, likewise")
    parser.add_argument(
        "--trust_model",
        type=str2bool,
        default=False,
        metavar="true|false",
        help="true: its config may run code (default: false)",
    )


def add_pipe_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow_pipes``, for commands that read recordings or features.

    Only on the command line: a YAML may have come with a model.
    """
    parser.add_argument(
        "--allow_pipes",
        type=str2bool,
        default=False,
        help="true: run commands (`sox … |`) that tables name in place of files",
    )
    from_yaml = parser.set_defaults

    def set_defaults(**values: Any) -> None:
        if values.get("allow_pipes"):
            raise UserError("allow_pipes in a YAML: give --allow_pipes true instead")
        from_yaml(**values)

    parser.set_defaults = set_defaults


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``LoadOptions``, except the device."""
    add_origin_options(parser)
    parser.add_argument(
        "--quantize_asr_model",
        type=str2bool,
        default=False,
        metavar="true|false",
        help="true: linear layers in int8, for a CPU (default: false)",
    )


def load_options(args: argparse.Namespace, device: str) -> LoadOptions:
    """The parsed options of ``add_load_options``."""
    return LoadOptions(
        device, args.lm, args.whisper, args.quantize_asr_model, args.trust_model
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed options of ``add_decoding_options``, extensions by group."""
    given = vars(args)
    names = [name for name in given if name.partition(".")[0] in GROUPS]
    names = *OPTIONS, *names, *ESPNET
    return nested({name: given[name] for name in names if name in given})
