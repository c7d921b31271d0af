"""The options that the decoding commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from espnet_llada.bin.options import str2bool
from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.inference.decode_file import OPTIONS, PROFILES, make_options
from espnet_llada.types import (
    LoadOptions,
    UserError,
)

_HELP = {
    "strategy": "how the canvas is filled; deliberation_ may be left out",
    "steps": "budget of LLM forward passes for each utterance",
    "canvas_length": "response positions of a decoding canvas, in tokens",
    "measuring_passes": "passes that measure a transcript, each a part of it; "
    "0: the adapter does",
    "refine": "rounds in which the adapter corrects its own draft first",
    "slots_below": "above 0: text grows and shrinks where reading along doubts it",
    "verify": "keep a text of before unless reading along finds the new one likelier",
    "second_opinion": "take over from the adapter's own text what is likelier",
    "tokens_per_second": "above 0: canvas by duration, up to canvas_length",
    "positions_per_vector": "above 0: canvas by what was heard, up to canvas_length",
    "num_blocks": "sub-blocks, for the semi-autoregressive strategies",
    "mask_ratio": "share of the transcript that deliberation masks, 0 to 1",
    "mask_below": "above 0: instead, mask every token that is less probable",
    "temperature": "0 takes the most probable token, above 0 tokens are drawn",
    "remasking": "what a pass commits: the surest positions, or random ones",
    "tail": "positions by which deliberation may lengthen a transcript",
    "seed": "of random masks and draws, for each utterance id",
    "profile": "release: as the paper's published implementation, defects included",
    "threshold": "above 0: a pass also commits all tokens at least so probable",
    "beam_size": "of an autoregressive LM; 1 is greedy",
    "reader_weight": "above 0: LM and reading along decide a token together",
    "block_cache": "compute in a sub-block's later passes its positions alone",
    "longest_piece": "seconds; what is longer is cut where it is quiet",
}


def add_sampler_options(
    parser: argparse.ArgumentParser,
    strategy: str,
    strategies: Sequence[str] = STRATEGIES,
    given_only: bool = False,
) -> None:
    """One option for each of ``OPTIONS``.

    Args:
        parser: the options are added here.
        strategy: the default one.
        strategies: those to choose from; ``deliberation_`` may be left out.
        given_only: an option that is not given is not in the namespace, so that the
            model may decide (see ``inference.decode_file.model_options``).
    """

    def full_name(value: str) -> str:
        full = f"deliberation_{value}"
        return full if value not in strategies and full in strategies else value

    choices = {
        "strategy": strategies,
        "remasking": ("confidence", "random"),
        "profile": PROFILES,
    }
    note = (
        "defaults, where the model's decode.yaml does not say other ones, in brackets"
    )
    group = parser.add_argument_group("decoding", note if given_only else None)
    for name, default in OPTIONS.items():
        is_strategy, kind = name == "strategy", type(default)
        default = strategy if is_strategy else default
        group.add_argument(
            f"--{name}",
            type=full_name if is_strategy else str2bool if kind is bool else kind,
            default=argparse.SUPPRESS if given_only else default,
            choices=choices.get(name),
            help=f"{_HELP[name]} (default: {default})",
        )


def add_origin_options(parser: argparse.ArgumentParser) -> None:
    """For a model that was trained elsewhere, or by others."""
    parser.add_argument("--lm", help="the frozen LM, if not where the config says")
    parser.add_argument("--whisper", help="the frozen Whisper, likewise")
    parser.add_argument(
        "--trust_model",
        type=str2bool,
        default=False,
        help="true: its config may name parts that run code (default: false)",
    )


def add_pipe_option(parser: argparse.ArgumentParser) -> None:
    """``--allow_pipes``, for whoever reads recordings or features.

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
    """Those of ``LoadOptions`` but the device, which each command names its own way."""
    add_origin_options(parser)
    parser.add_argument(
        "--quantize_asr_model",
        type=str2bool,
        default=False,
        help="true: linear layers in int8, faster on a CPU (default: false)",
    )


def load_options(args: argparse.Namespace, device: str) -> LoadOptions:
    """What ``add_load_options`` has parsed."""
    return LoadOptions(
        device, args.lm, args.whisper, args.quantize_asr_model, args.trust_model
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``add_sampler_options`` has parsed."""
    given = vars(args)
    return {name: given[name] for name in OPTIONS if name in given}


def sampler_options(args: argparse.Namespace) -> SamplerOptions:
    """The same as options.

    Raises:
        UserError: a value outside its range.
    """
    return make_options(given_options(args))
