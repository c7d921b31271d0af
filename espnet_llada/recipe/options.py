"""asr.sh's options, as far as this model has a use for them."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from espnet_llada.bin.options import FINITE, WHOLE, OfKind
from espnet_llada.types import SAMPLE_RATE, UserError, check_inside, nearest

_JOBS = min(32, os.cpu_count() or 1)


def _option(default: Any, text: str, only: tuple[str, ...] = ()) -> Any:
    """A field with its help; ``only`` lists the values that fit this model."""
    return field(default=default, metadata={"help": text, "only": only})


@dataclass(frozen=True)
class Options:
    """Every option takes one value, as with Kaldi's ``parse_options.sh``."""

    stage: int = _option(1, "first stage to run")
    stop_stage: int = _option(10000, "last stage to run")
    skip_stages: str = _option("", "stages to leave out, e.g. '3 4'")
    skip_data_prep: bool = _option(False, "leave out stages 1 to 5")
    skip_train: bool = _option(False, "leave out stages 4, 5, 10 and 11")
    skip_eval: bool = _option(False, "leave out stages 12 and 13")
    skip_packing: bool = _option(True, "leave out stage 14")
    eval_valid_set: bool = _option(False, "decode the validation set too")
    ngpu: int = _option(1, "GPUs for training; 0 trains on the CPU")
    nj: int = _option(_JOBS, "parallel jobs in stages 3 and 10")
    inference_nj: int = _option(_JOBS, "parallel jobs in stage 12")
    gpu_inference: bool = _option(False, "decode on the GPU")
    dumpdir: str = _option("dump", "where formatted data goes")
    expdir: str = _option("exp", "where models and results go")
    python: str = _option(sys.executable, "command that runs Python")
    allow_pipes: bool = _option(False, "run commands that tables name (sox … |)")
    local_data_opts: str = _option("", "options for local/data.sh")
    local_score_opts: str = _option("", "options for local/score.sh")
    audio_format: str = _option("flac", "of converted recordings", ("flac", "wav"))
    fs: str = _option("16k", "sampling rate", ("16k", str(SAMPLE_RATE)))
    min_wav_duration: float = _option(0.1, "shortest training utterance (s)")
    max_wav_duration: float = _option(20.0, "longest training utterance (s)")
    hugging_face_model_name_or_path: str = _option("", "LM whose tokenizer is used")
    asr_tag: str = _option("", "suffix of the model's directory")
    asr_exp: str = _option("", "the model's directory, instead of asr_tag")
    asr_stats_dir: str = _option("", "directory of the collected shapes")
    asr_config: str = _option("", "YAML of the training")
    asr_args: str = _option("", "training options, e.g. '--max_epoch 10'")
    pretrained_model: str = _option("", "checkpoint to start from (--init_param)")
    ignore_init_mismatch: bool = _option(False, "start from it though shapes differ")
    batch_size: int = _option(1, "utterances decoded together")
    inference_tag: str = _option("", "name of the results' directory")
    inference_config: str = _option("", "YAML of the decoding")
    inference_args: str = _option("", "decoding options, e.g. '--steps 8'")
    inference_asr_model: str = _option("valid.acc.ave.pth", "checkpoint to decode with")
    train_set: str = _option("", "name under data/ of the training set")
    valid_set: str = _option("", "the validation set")
    test_sets: str = _option("", "the test sets, separated by spaces")
    lang: str = _option("noinfo", "language, a part of directory names")
    asr_speech_fold_length: int = _option(800, "--fold_length of speech")
    asr_text_fold_length: int = _option(150, "--fold_length of text")
    # What asr.sh also has, at the one value that this model can work with.
    feats_type: str = _option("raw", "what is trained on", ("raw", "extracted", "text"))
    token_type: str = _option("hugging_face", "the LM's tokens", ("hugging_face",))
    feats_normalize: str = _option("none", "Whisper normalises", ("none",))
    use_lm: str = _option("false", "the LM is in the model", ("false",))
    use_ngram: str = _option("false", "no n-gram LM", ("false",))
    num_nodes: str = _option("1", "nodes for training", ("1",))
    skip_upload_hf: str = _option("true", "no stage 15", ("true",))


_FIELDS = {f.name: f for f in fields(Options)}

_COMMAND_LINES = (
    *("python", "local_data_opts", "local_score_opts", "asr_args", "inference_args"),
)

_ASR_SH_ONLY = frozenset(
    """
    use_lightning post_process_local_data_opts auxiliary_data_tags
    speed_perturb_factors multi_columns_input_wav_scp multi_columns_output_wav_scp
    nbpe bpemode oov blank sos_eos bpe_input_sentence_size bpe_nlsyms bpe_char_cover
    ngram_exp ngram_num lm_tag lm_exp lm_stats_dir lm_config lm_args use_word_lm
    num_splits_lm word_vocab_size use_prompt use_lang_prompt use_nlp_prompt asr_task
    num_splits_asr num_ref num_inf sot_asr hf_repo use_k2 use_streaming use_maskctc
    inference_lm inference_ngram download_model bpe_train_text lm_train_text
    lm_dev_text lm_test_text nlsyms_txt cleaner hyp_cleaner g2p score_opts
    lm_fold_length
    """.split()
)


def parse_options(argv: Sequence[str]) -> Options:
    """Read ``--name value`` pairs; ``--na-me`` is the same as ``--na_me``.

    Not argparse, since a value may begin with dashes: ``--asr_args "--max_epoch 1"``.

    Raises:
        UserError: an unknown option, a missing or a bad value.
    """
    values: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"'{word}': expected an option such as --stage")
        if "=" in word:
            raise UserError(f"{word}: write '{word.replace('=', ' ', 1)}'")
        name = word[2:].replace("-", "_")
        if name in _ASR_SH_ONLY:
            raise UserError(f"{word}: only asr.sh has it; run in an ESPnet checkout")
        if name not in _FIELDS:
            known = [f"--{known}" for known in _FIELDS]
            raise UserError(f"unknown option {word}{nearest(f'--{name}', known)}")
        if not rest:
            raise UserError(f"{word}: its value is missing")
        values[name] = _convert(word, _FIELDS[name], rest.pop(0))
    options = Options(**values)
    _check(options)
    return options


def _convert(word: str, option: Any, value: str) -> Any:
    if only := option.metadata["only"]:
        if value not in only:
            raise UserError(f"{word} {value}: this model takes {' or '.join(only)}")
        return value
    kind = type(option.default)
    if kind is bool:
        if value not in ("true", "false"):
            raise UserError(f"{word} {value}: expected true or false")
        return value == "true"
    if kind is str:
        return value
    try:
        return OfKind(WHOLE if kind is int else FINITE)(value)
    except ArgumentTypeError:
        raise UserError(f"{word} {value}: expected a number") from None


def _check(options: Options) -> None:
    for name in ("nj", "inference_nj", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected 1 or more")
    for name in _COMMAND_LINES:
        try:
            shlex.split(getattr(options, name))
        except ValueError as e:
            raise UserError(f"--{name} {getattr(options, name)}: {e}") from e
    for stage in options.skip_stages.split():
        if not stage.isdecimal() or len(stage) > 9:
            raise UserError(f"--skip_stages: '{stage}' is not a stage number")
    needed = [] if options.skip_train else ["train_set", "valid_set"]
    needed += ["valid_set"] if options.eval_valid_set else ["test_sets"]
    for name in needed:
        if not getattr(options, name):
            raise UserError(f"--{name} is required")
    names = [options.train_set, options.valid_set, *options.test_sets.split()]
    for name in filter(None, names):
        check_inside(name, "set")
        if names.count(name) > 1:
            raise UserError(f"set '{name}' is named twice; each set has one use")


def help_text() -> str:
    """Every option with its default."""
    lines = ["Usage: python -m espnet_llada.recipe [--option value ...]", ""]
    for option in _FIELDS.values():
        default = option.default
        if isinstance(default, bool):
            default = str(default).lower()
        only = "|".join(option.metadata["only"])
        lines.append(
            f"  --{option.name:<32}{option.metadata['help']} [{only or default}]"
        )
    lines += [
        "",
        "Stages: 1 data, 3 format, 4 filter, 5 token list, 10 statistics, 11 training,",
        "12 decoding, 13 scoring, 14 packing (with --skip_packing false); the numbers,",
        "options and files are those of asr.sh.",
    ]
    return "\n".join(lines) + "\n"
