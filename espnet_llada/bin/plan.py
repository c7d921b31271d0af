"""Estimate what a training or a sweep needs, without weights: memory, FLOPs, hours."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from msgspec import Meta

from espnet_llada.bin.options import OfKind, OptionParser, run_main
from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import checked
from espnet_llada.plan.architectures import GPUS, LIBRISPEECH, MEASURED, USABLE
from espnet_llada.types import UserError, nearest

_NUMBER = Annotated[int, Meta(ge=1, le=100_000)]
_UTTERANCES = Annotated[int, Meta(ge=1, le=10**9)]
_HOURS = Annotated[float, Meta(ge=0.001, le=1e9)]
_SECONDS = Annotated[float, Meta(ge=0.01, le=3600.0)]
_SHARE = Annotated[float, Meta(ge=0.001, le=1.0)]
_RATE = Annotated[float, Meta(ge=0.01, le=100.0)]
_PRICE = Annotated[float, Meta(ge=0.0, le=1e6)]
_TESTS = "test_clean test_other"
_EXAMPLE = f"""\
examples:
  espnet-llada plan conf/train_asr_whisper_llada_8b.yaml
  espnet-llada plan conf/train_asr_whisper_llada_8b.yaml --gpu a100-80g --num_gpus 16
  espnet-llada plan conf/train_asr_whisper_llada_8b.yaml --json > plan.json
  espnet-llada plan conf/sweep_paper.yaml --gpu h100 --num_gpus 8
  espnet-llada plan conf/sweep_paper.yaml --hours 20 --utterances 9000

Memory is that of a batch of the longest utterances, FLOPs and hours those of average
ones. Validation and reading data come on top of a training, loading the weights and
scoring on top of a sweep, whose hours go by times that were measured on an H200
({MEASURED}).
"""

_CONFIG = (
    "train YAML of a window_qformer and an LM with LoRA (there is no plan of the "
    "mini's, which train all of a small LM), or sweep YAML with train_configs"
)
_TRAINING: dict[str, tuple[Any, Any, str]] = {
    "hours_of_audio": (_HOURS, 960.0, "of the training set"),
    "seconds": (_SECONDS, 12.3, "of an average utterance"),
    "tokens": (_NUMBER, 45, "of its transcript"),
    "max_tokens": (_NUMBER, 130, "of the longest transcript"),
    "mfu": (_SHARE, 0.35, "share of the GPU's peak that training reaches"),
}
_SWEEP: dict[str, tuple[Any, Any, str]] = {
    "sets": (str, None, f"of {', '.join(LIBRISPEECH)} (default: {_TESTS})"),
    "hours": (_HOURS, None, "instead of sets: of all utterances"),
    "utterances": (_UTTERANCES, None, "instead of sets: how many"),
    "tokens_per_second": (
        _RATE,
        4.6,
        "of a transcript: 2.7 words, each 1.7 of Llama 3's tokens in capitals",
    ),
    "price": (_PRICE, None, "of a GPU for an hour; adds what each row costs"),
}


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada plan``."""
    parser = OptionParser("espnet-llada plan", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("yaml", metavar="CONFIG", help=_CONFIG)
    parser.add_argument(
        "--gpu", default="h100", help=f"{', '.join(GPUS)} (default: h100)"
    )
    longest = "of the longest utterance (default: 24.5; of a sweep 30)"
    for name, kind, default, text in (
        ("num_gpus", _NUMBER, 8, "that work together (default: 8)"),
        ("max_seconds", _SECONDS, None, longest),
    ):
        parser.add_argument(f"--{name}", type=OfKind(kind), default=default, help=text)
    parser.add_argument("--json", action="store_true", help="write JSON")
    for title, options in (("a train YAML", _TRAINING), ("a sweep YAML", _SWEEP)):
        group = parser.add_argument_group(title)
        for name, (kind, default, text) in options.items():
            text = text if default is None else f"{text} (default: {default})"
            kind = kind if kind is str else OfKind(kind)
            group.add_argument(f"--{name}", type=kind, help=text)
        if options is _TRAINING:
            cached = "frames from `espnet-llada features`"
            group.add_argument("--cached", action="store_true", help=cached)
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Write the plan to stdout.

    Raises:
        UserError: options, or a config of unknown parts.
    """
    args = get_parser().parse_args(cmd)
    if args.gpu not in GPUS:
        raise UserError(f"--gpu {args.gpu}: known are {', '.join(GPUS)}")
    config = read_yaml(args.yaml)
    if "rows" in config:
        _complete(args, _SWEEP, [*_TRAINING, "cached"], "train")
        from espnet_llada.plan.sweep import Job, lines, plan_sweep

        job = Job(
            _sets(args),
            args.tokens_per_second,
            args.max_seconds or 30.0,
            args.gpu,
            args.num_gpus,
            args.price,
        )
        plan = plan_sweep(args.yaml, job)
    else:
        _complete(args, _TRAINING, _SWEEP, "sweep")
        plan, lines = make_plan(args, config), _lines
    if args.json:
        sys.stdout.write(json.dumps(plan, indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines(plan))


def _complete(
    args: argparse.Namespace, own: Mapping[str, Any], others: Any, kind: str
) -> None:
    """Fill in the defaults, and refuse what is for the other kind of YAML."""
    for name in others:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name}: is for a {kind} YAML, which {args.yaml} is not")
    for name, (_, default, _) in own.items():
        if getattr(args, name) is None:
            setattr(args, name, default)


def make_plan(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a training: counts, bytes, FLOPs, hours."""
    from espnet_llada.plan import estimate, meta_model

    training = checked(config, estimate.Training, args.yaml)
    data = args.hours_of_audio, args.seconds
    try:
        network = meta_model.build(config)
        timing = estimate.schedule(training, args.num_gpus, *data)
    except UserError as e:
        raise UserError(f"{args.yaml}: {e}") from e
    gpu = GPUS[args.gpu]
    rows = int(timing["rows"])
    average = meta_model.Load(rows, args.seconds, args.tokens)
    longest = meta_model.Load(
        rows,
        max(args.seconds, args.max_seconds or 24.5),
        max(args.tokens, args.max_tokens),
    )
    counts = estimate.parameters(network)
    trained = sum(part["trained"] for part in counts.values())
    work = estimate.flops(network, average, args.cached)
    memory = estimate.memory(network, longest, training, args.num_gpus)
    total, total_work = sum(memory.values()), sum(work.values())
    return {
        "config": args.yaml,
        "gpu": {"name": args.gpu, "number": args.num_gpus, "bytes": gpu.memory * 1e9},
        "parameters": counts,
        "memory": memory,
        "memory_total": total,
        "fits": total <= USABLE * gpu.memory * 1e9,
        "lm_positions": network.positions(average),
        "flops": work,
        "flops_total": total_work,
        "schedule": timing,
        "mfu": args.mfu,
        "hours": estimate.hours_of(total_work, timing["iterations"], gpu, args.mfu),
        "checkpoint_bytes": {
            "N epoch.pth": trained * estimate.FP32,
            "checkpoint.pth": trained * estimate.FP32 * 3,
        },
    }


def _sets(args: argparse.Namespace) -> list[tuple[int, float]]:
    """Utterances and hours of each."""
    own = args.utterances, args.hours
    if own == (None, None):
        names = (_TESTS if args.sets is None else args.sets).split()
        for name in names or [""]:
            if name not in LIBRISPEECH:
                raise UserError(
                    f"--sets '{name}': not known{nearest(name, LIBRISPEECH)}; say "
                    "--hours and --utterances instead"
                )
        return [LIBRISPEECH[name] for name in names]
    if None in own or args.sets is not None:
        raise UserError("--hours and --utterances: give both, and no --sets")
    return [own]


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    gpu, timing = plan["gpu"], plan["schedule"]
    yield f"{plan['config']} on {gpu['number']} x {gpu['name']}"
    yield ""
    yield f"{'parameters':28}{'trained':>14}{'frozen':>16}"
    total = {"trained": 0, "frozen": 0}
    for name, part in plan["parameters"].items():
        yield f"  {name:26}{part['trained']:>14,}{part['frozen']:>16,}"
        total = {kind: total[kind] + part[kind] for kind in total}
    yield f"  {'total':26}{total['trained']:>14,}{total['frozen']:>16,}"
    yield ""
    yield f"memory of each GPU, longest utterances{'GB':>20}"
    for name, size in plan["memory"].items():
        yield f"  {name:42}{size / 1e9:>14.2f}"
    yield f"  {'total':42}{plan['memory_total'] / 1e9:>14.2f}"
    verdict = "fits" if plan["fits"] else "does not fit"
    yield f"  {verdict} into {gpu['name']} ({gpu['bytes'] / 1e9:g} GB)"
    yield ""
    title = f"one iteration, {timing['rows']} utterances on each GPU"
    yield f"{title:44}{'TFLOP':>14}"
    for name, count in plan["flops"].items():
        yield f"  {name:42}{count / 1e12:>14.2f}"
    yield f"  {'total':42}{plan['flops_total'] / 1e12:>14.2f}"
    yield f"  {'LM positions of a row':42}{plan['lm_positions']:>14}"
    yield ""
    yield (
        f"training: {timing['iterations']:,} iterations of {timing['batch_size']} "
        f"utterances, {timing['passes']:.1f} passes over the data"
    )
    yield f"  about {plan['hours']:.1f} hours at {plan['mfu']:.0%} of the GPU's peak"
    sizes = ", ".join(
        f"{name} {size / 1e6:.0f} MB" for name, size in plan["checkpoint_bytes"].items()
    )
    yield f"  checkpoints: {sizes}"


if __name__ == "__main__":
    run_main(main)
