r"""Decoding of a Kaldi-style set: our twin of espnet2.bin.asr_inference.

python -m espnet_llada.bin.asr_inference --config conf/decode_diffusion.yaml \
        --data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound \
        --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.acc.ave.pth --output_dir exp/asr_x/decode
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from espnet_llada.bin.decoding import (
    Outcome,
    Utterance,
    add_sampler_options,
    decode_all,
    read_first_pass,
    read_scp,
    sampler_options,
    str2bool,
)
from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.types import UserError

FILES = ("text", "token", "token_int", "score", "passes", "seconds")


def get_parser(strategy: str = "diffusion") -> argparse.ArgumentParser:
    """The options; ``strategy`` is the default one."""
    parser = OptionParser(
        description="Decode a set, or deliberate over a first pass of it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", help="YAML whose keys set the options below")
    parser.add_argument("--output_dir", help="1best_recog/ is written here")
    parser.add_argument(
        "--data_path_and_name_and_type",
        action="append",
        help="PATH,speech,sound: a wav.scp (kaldi_ark works too)",
    )
    parser.add_argument("--key_file", help="ids to decode, in this order; default all")
    parser.add_argument("--asr_train_config", help="config.yaml of the training")
    parser.add_argument("--asr_model_file", help="checkpoint of the trained tensors")
    parser.add_argument(
        "--first_pass", help="text file or decode directory to deliberate over"
    )
    parser.add_argument("--use_audio", type=str2bool, default=True, help="hear it")
    parser.add_argument("--output_case", default="upper", help="upper, lower or keep")
    parser.add_argument("--batch_size", type=int, default=1, help="utterances at once")
    parser.add_argument("--ngpu", type=int, default=0, help="0 decodes on the CPU")
    parser.add_argument("--log_level", default="INFO", help="of the log on stderr")
    add_sampler_options(parser, strategy)
    return parser


def main(cmd: list[str] | None = None, strategy: str = "diffusion") -> None:
    """Decode; one line for each utterance in each file, in key order.

    Raises:
        UserError: an option, a file or the model does not fit. What goes wrong with
            one utterance is logged, counted and listed in ``failed`` instead.
    """
    args = get_parser(strategy).parse_args(cmd)
    logging.basicConfig(
        level=args.log_level.upper(),
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    for name in ("output_dir", "data_path_and_name_and_type"):
        _require(args, name)
    options = sampler_options(args)
    utterances = _utterances(args, options.deliberates)
    for name in ("asr_train_config", "asr_model_file"):
        _require(args, name)
    recognizer = _recognizer(args, options)
    outcomes = decode_all(recognizer, utterances, max(1, args.batch_size))
    _write(Path(args.output_dir), outcomes, len(utterances))


def _require(args: argparse.Namespace, name: str) -> None:
    if not getattr(args, name):
        raise UserError(f"--{name} is required; see --help")


def _utterances(args: argparse.Namespace, deliberates: bool) -> list[Utterance]:
    path, _, kind = args.data_path_and_name_and_type[0].rpartition(",speech,")
    if not path or kind not in ("sound", "kaldi_ark"):
        raise UserError(
            f"--data_path_and_name_and_type {args.data_path_and_name_and_type[0]}: "
            "expected PATH,speech,sound"
        )
    table = read_scp(path)
    keys = list(read_scp(args.key_file)) if args.key_file else list(table)
    unknown = [k for k in keys if k not in table]
    if unknown:
        raise UserError(f"{args.key_file}: '{unknown[0]}' is not in {path}")
    if not deliberates:
        return [Utterance(k, table[k]) for k in keys]
    _require(args, "first_pass")
    texts = read_first_pass(args.first_pass, keys)
    return [Utterance(k, table[k], texts[k]) for k in keys]


def _recognizer(args: argparse.Namespace, options):
    from espnet_llada.espnet.inference import build_with_espnet
    from espnet_llada.loading import load_model
    from espnet_llada.recognizer import Recognizer

    device = "cuda" if args.ngpu > 0 else "cpu"
    model = load_model(
        args.asr_train_config, args.asr_model_file, device, build_with_espnet
    )
    return Recognizer(model, options, args.use_audio, args.output_case)


def _write(output_dir: Path, outcomes: Iterable[Outcome], total: int) -> None:
    directory = output_dir / "1best_recog"
    failures = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(open(directory / name, "w", encoding="utf-8"))
                for name in FILES
            }
            for outcome in outcomes:
                _write_line(files, outcome)
                if outcome.error:
                    failures.append(f"{outcome.utterance.utt_id} {outcome.error}")
        (output_dir / "failed").write_text(
            "".join(f"{line}\n" for line in failures), encoding="utf-8"
        )
    except OSError as e:
        raise UserError(
            f"{e.filename or output_dir}: cannot write ({e.strerror}); choose another "
            "--output_dir or make room"
        ) from e
    for line in failures:
        logging.error(f"failed: {line}")
    logging.info(f"decoded {total} utterances, {len(failures)} failed")
    if failures and len(failures) == total:
        raise UserError(f"all {total} utterances failed; the first: {failures[0]}")


def _write_line(files: dict[str, TextIO], outcome: Outcome) -> None:
    utt_id, hypothesis = outcome.utterance.utt_id, outcome.hypothesis
    logging.info(f"best hypo: {hypothesis.text}")
    values = {
        "text": hypothesis.text,
        "token": " ".join(hypothesis.tokens),
        "token_int": " ".join(map(str, hypothesis.token_ids)),
        "score": f"{hypothesis.score:.6f}",
        "passes": str(hypothesis.passes),
        "seconds": f"{outcome.decode_seconds:.6f} {outcome.audio_seconds:.6f}",
    }
    for name, value in values.items():
        files[name].write(f"{utt_id} {value}\n")
        files[name].flush()


if __name__ == "__main__":
    run_main(main)
