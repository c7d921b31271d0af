r"""Decoding of a Kaldi-style set: our counterpart of espnet2.bin.asr_inference.

python -m espnet_llada.bin.asr_inference --config conf/decode_diffusion.yaml \
        --data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound \
        --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.acc.ave.pth --output_dir exp/asr_x/decode
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_llada.bin.decoding import (
    add_decoding_options,
    add_load_options,
    add_pipe_option,
    given_options,
    load_options,
)
from espnet_llada.bin.options import OfKind, OptionParser, run_main, str2bool
from espnet_llada.inference.batches import Utterance, decode_all, with_first_pass
from espnet_llada.inference.decode_dir import DecodeDir, identity_of
from espnet_llada.inference.espnet_options import ESPNET
from espnet_llada.inference.more_files import more_files, write_more
from espnet_llada.inference.options import DecodingOptions, job_options, task_of
from espnet_llada.io.files import read_yaml
from espnet_llada.io.kaldi.table import read_recordings, read_table
from espnet_llada.io.schema import Count, Natural
from espnet_llada.types import UserError

_LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")  # ESPnet's

# Paths and the like; every other option is a part of the job's identity.
_PLACES = frozenset(
    """
    config output_dir data_path_and_name_and_type key_file asr_train_config
    asr_model_file model_tag first_pass log_level resume lm whisper allow_pipes
    trust_model
    """.split()
)


def get_parser(strategy: str = "diffusion") -> argparse.ArgumentParser:
    """The options; ``strategy`` is the default one."""
    parser = OptionParser(
        description="Decode a set, or deliberate over a first pass of it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", help="YAML whose keys set the options below")
    parser.add_argument(
        "--output_dir", help="1best_recog/ is written here, with --nbest others too"
    )
    parser.add_argument(
        "--data_path_and_name_and_type",
        action="append",
        help="PATH,speech,sound: a wav.scp (kaldi_ark works too)",
    )
    parser.add_argument("--key_file", help="ids to decode, in this order; default all")
    parser.add_argument("--asr_train_config", help="config.yaml of the training")
    parser.add_argument("--asr_model_file", help="checkpoint of the trained tensors")
    parser.add_argument(
        "--model_tag", help="instead of these two: directory, packed zip, tag or hub id"
    )
    add_load_options(parser)
    add_pipe_option(parser)
    parser.add_argument(
        "--first_pass", help="text, decode directory, JSON, CTM, … to deliberate over"
    )
    parser.add_argument(
        "--use_audio", type=str2bool, default=True, help="false: from the text alone"
    )
    parser.add_argument(
        "--output_case",
        default="auto",
        help="upper, lower, keep; auto: upper, or as the first pass has it",
    )
    parser.add_argument(
        "--batch_size", type=OfKind(Count), default=1, help="utterances at once"
    )
    parser.add_argument(
        "--ngpu", type=OfKind(Natural), default=0, help="0 decodes on the CPU"
    )
    parser.add_argument(
        "--resume",
        type=str2bool,
        default=True,
        help="keep what an earlier job with the same options and files has decoded",
    )
    parser.add_argument(
        "--log_level",
        type=str.upper,
        choices=_LOG_LEVELS,
        default="INFO",
        help="of the log on stderr",
    )
    add_decoding_options(parser)
    return parser


def main(cmd: list[str] | None = None, strategy: str = "diffusion") -> None:
    """Decode; one line for each utterance in each file, in key order.

    Raises:
        UserError: an option, a file or the model is wrong. Failures of single
            utterances are logged, counted and listed in ``failed`` instead.
    """
    words = sys.argv[1:] if cmd is None else list(cmd)
    if strategy == "diffusion" and (config := train_config(words)):
        from espnet_llada.build import uses_our_decoder

        if not uses_our_decoder(config):
            from espnet_llada.espnet.inference import decode_by_espnet

            decode_by_espnet(words)
            return
    args = get_parser(strategy).parse_args(words)
    logging.basicConfig(
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    for name in ("output_dir", "data_path_and_name_and_type"):
        _require(args, name)
    model, given = _model_files(args), given_options(args)
    task = task_of(given.get("strategy", strategy))
    options = job_options(model[0], task, given, args.use_audio)
    utterances = _utterances(args, options)
    batch_size, place = args.batch_size, Path(args.output_dir)
    identity = _identity(args, options, utterances, model)
    job = identity, utterances, batch_size, args.resume, more_files(options)
    with DecodeDir(place, *job) as directory:
        todo = directory.todo
        recognizer = _recognizer(args, options, model) if todo else None
        directory.begin()
        for outcome in decode_all(recognizer, todo, batch_size):
            directory.write(outcome)
        failures = directory.finish()
        write_more(directory, options)
    _report(failures, len(todo), len(utterances))


def train_config(
    words: list[str], option: str = "--asr_train_config"
) -> dict[str, Any]:
    """The config of the training whose model a command line decodes.

    Args:
        words: the command line.
        option: the one that names the config; also looked for in ``--config``.

    Returns:
        ``{}`` if it cannot be read, or no training has written it; our parser
        explains that.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", dest="train_config")
    parser.add_argument("--config", nargs="?")
    given = parser.parse_known_args(words)[0]
    try:
        options = read_yaml(given.config) if given.config else {}
        path = given.train_config or options.get(option.lstrip("-"))
        config = read_yaml(path) if path else {}
    except UserError:
        return {}
    return config if "token_list" in config else {}


def _require(args: argparse.Namespace, name: str) -> None:
    if not getattr(args, name):
        raise UserError(f"--{name} is required; see --help")


def _utterances(args: argparse.Namespace, options: DecodingOptions) -> list[Utterance]:
    given = args.data_path_and_name_and_type
    path, _, kind = given[0].rpartition(",speech,")
    if len(given) > 1 or not path or kind not in ("sound", "kaldi_ark"):
        raise UserError(
            f"--data_path_and_name_and_type {' '.join(given)}: expected one "
            "PATH,speech,sound"
        )
    table = read_recordings(path, args.allow_pipes)
    keys = list(read_table(args.key_file)) if args.key_file else list(table)
    unknown = [k for k in keys if k not in table]
    if unknown:
        raise UserError(f"{args.key_file}: '{unknown[0]}' is not in {path}")
    utterances = [Utterance(k, table[k]) for k in keys]
    if not options.deliberates:
        return utterances
    _require(args, "first_pass")
    return with_first_pass(utterances, args.first_pass, options.wants_nbest)


def _model_files(args: argparse.Namespace) -> tuple[str | Path, str | Path]:
    """Config and checkpoint."""
    if args.model_tag:
        from espnet_llada.inference.loading import find_model

        return find_model(args.model_tag)
    for name in ("asr_train_config", "asr_model_file"):
        _require(args, name)
    return args.asr_train_config, args.asr_model_file


def _identity(
    args: argparse.Namespace,
    options: DecodingOptions,
    utterances: list[Utterance],
    model: tuple[str | Path, str | Path],
) -> dict[str, Any]:
    places = _PLACES | ESPNET.keys()  # what those change is in the options
    others = {k: v for k, v in vars(args).items() if k not in places}
    files = dict(zip(("asr_train_config", "asr_model_file"), model, strict=True))
    return identity_of({**others, **asdict(options)}, utterances, files)


def _recognizer(
    args: argparse.Namespace,
    options: DecodingOptions,
    model: tuple[str | Path, str | Path],
):
    from espnet_llada.inference.loading import load_model
    from espnet_llada.inference.recognizer import Transcriber

    device = "cuda" if args.ngpu > 0 else "cpu"
    loaded = load_model(*model, load_options(args, device))
    return Transcriber(loaded, options, args.use_audio, args.output_case)


def _report(failures: list[str], decoded: int, total: int) -> None:
    for line in failures:
        logging.error(f"failed: {line}")
    logging.info(f"decoded {decoded} utterances of {total}, {len(failures)} failed")
    if failures and len(failures) == total:
        raise UserError(f"all {total} utterances failed; the first: {failures[0]}")


if __name__ == "__main__":
    run_main(main)
