"""Turn published checkpoints into directories that --model and train YAMLs name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from espnet_llada.bin.options import OptionParser, run_main, str2bool
from espnet_llada.types import UserError, check_directory, local_path

_EXAMPLE = """\
examples:
  espnet-llada convert --release checkpoint_best.pth --output exp/released \\
      --whisper openai/whisper-large-v3 --lm GSAI-ML/LLaDA-8B-Instruct
  espnet-llada transcribe speech.flac --model exp/released
  espnet-llada convert --lm LLaDA-8B-Base --output llada_in_llama_layout
  espnet-llada convert --whisper large-v3.pt --output whisper_encoder

With --release: the paper's checkpoint and the weights it was trained on become a
model directory. --lm or --whisper alone: that LM in Hugging Face's Llama layout, or
that Whisper's encoder in Hugging Face's. With --merge_lora true OUTPUT/lm is a LLaDA
as the hub has it (without its code files), for engines that know no LoRA.
OUTPUT/convert.json names every source and every file written with its sha256; a second
run on the same sources writes nothing.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada convert``."""
    parser = OptionParser("espnet-llada convert", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--release", metavar="PTH", help="the release's checkpoint")
    parser.add_argument(
        "--whisper", help="openai-whisper .pt, Hugging Face directory, name or hub id"
    )
    parser.add_argument(
        "--lm", help="LLaDA or Llama directory with safetensors, name or hub id"
    )
    parser.add_argument("--output", required=True, help="directory to make")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the frozen weights; with --release float32 when loaded, unless given; "
        "else as they are",
    )
    group = parser.add_argument_group("with --release")
    group.add_argument(
        "--qformer_heads", type=int, default=12, help="attention heads (default: 12)"
    )
    group.add_argument(
        "--merge_lora",
        type=str2bool,
        nargs="?",
        const=True,
        default=False,
        metavar="true|false",
        help="true: the LM with LoRA merged into OUTPUT/lm, in its own layout and "
        "dtype (LLaDA-8B: 16 GB in bfloat16, which rounds the updates; 32 GB with "
        "--dtype float32); otherwise it is merged at each start (false)",
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Convert, and tell on stdout what was written."""
    args = get_parser().parse_args(cmd)
    _check(args)
    output, unused = local_path(args.output), []
    if output.is_symlink():  # a rename would not follow it
        output = Path(os.path.realpath(output))
    check_directory(output)
    if args.release:
        from espnet_llada.release.importing import ReleaseOptions, import_release

        options = ReleaseOptions(
            heads=args.qformer_heads,
            dtype=args.dtype,
            merge_lora=args.merge_lora,
        )
        sources = (args.release, args.whisper, args.lm)
        written, unused = import_release(*sources, output, options)
    else:
        written = _convert_layout(args, output)
    out = [f"unused tensor: {name}\n" for name in unused]
    state = "written" if written else "up to date, nothing written"
    sys.stdout.writelines([*out, f"{output}: {state}\n"])


def _check(args: argparse.Namespace) -> None:
    if args.release:
        if not (args.whisper and args.lm):
            raise UserError(
                f"{args.release}: name the --whisper and the --lm it was trained on"
            )
    elif args.merge_lora or args.qformer_heads != 12:
        raise UserError("--merge_lora and --qformer_heads need --release; add it")
    elif bool(args.whisper) == bool(args.lm):
        raise UserError("name what to convert: --release, or one of --lm and --whisper")


def _convert_layout(args: argparse.Namespace, output: Path) -> bool:
    import torch

    from espnet_llada.io import weights
    from espnet_llada.io.weights.conversion import convert_once, describe
    from espnet_llada.networks.llama_export import export_llama
    from espnet_llada.networks.whisper_export import export_encoder

    kind, export = ("lm", export_llama) if args.lm else ("whisper", export_encoder)
    source = weights.resolve(args.lm or args.whisper, kind)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    recipe = {"sources": {kind: describe(source)}, "dtype": args.dtype}
    return convert_once(output, recipe, lambda made: export(source.path, made, dtype))


if __name__ == "__main__":
    run_main(main)
