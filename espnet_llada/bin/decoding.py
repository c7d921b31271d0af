"""What the decoding commands share: sampler options, audio that may fail, batches."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_llada.bin.options import str2bool
from espnet_llada.core.options import STRATEGIES, SamplerOptions
from espnet_llada.inference.decode_file import OPTIONS, PROFILES, make_options
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.types import (
    SAMPLE_RATE,
    Hypothesis,
    LoadOptions,
    UserError,
    os_reason,
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


_NAMED = 5  # words that a warning spells out


@dataclass(frozen=True)
class Utterance:
    """Something to transcribe; ``transcript`` is the first pass, if any."""

    utt_id: str
    path: str
    transcript: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an utterance.

    Attributes:
        utterance: the input.
        hypothesis: empty text (or the unchanged first pass) after a failure.
        decode_seconds: wall time, a batch's shared out by duration.
        audio_seconds: duration; 0 when the audio could not be read.
        error: one line, or None.
    """

    utterance: Utterance
    hypothesis: Hypothesis
    decode_seconds: float = 0.0
    audio_seconds: float = 0.0
    error: str | None = None


def decode_all(
    recognizer, utterances: Iterable[Utterance], batch_size: int
) -> Iterator[Outcome]:
    """Exactly one outcome for each utterance, in order, whatever happens to one.

    Args:
        recognizer: a ``Recognizer``.
        utterances: read lazily, so memory does not grow with the set.
        batch_size: utterances that run together.
    """
    batch: list[Utterance] = []
    for utterance in utterances:
        batch.append(utterance)
        if len(batch) == batch_size:
            yield from _decode_batch(recognizer, batch)
            batch = []
    if batch:
        yield from _decode_batch(recognizer, batch)
    if words := getattr(recognizer, "unwritable", None):
        some = ", ".join(word for word, _ in words.most_common(_NAMED))
        logging.warning(
            f"{words.total()} words of the first pass cannot be written by the LM and "
            f"stay as they are: {some}{', …' if len(words) > _NAMED else ''}"
        )


def _decode_batch(recognizer, batch: list[Utterance]) -> list[Outcome]:
    from espnet_llada.io.audio.reading import (
        load_audio,  # scipy and soundfile: not for --help
    )

    outcomes: dict[int, Outcome] = {}
    readable: dict[int, np.ndarray] = {}
    for i, utterance in enumerate(batch):
        try:
            readable[i] = load_audio(utterance.path)
        except Exception as e:
            outcomes[i] = _failure(utterance, e)
    for i in range(len(batch)):
        # asr.sh times from this line to "best hypo", and wants as many of each.
        logging.info(f"speech length: {len(readable.get(i, ()))}")
    if readable:
        waveforms = list(readable.values())
        done = _recognise(recognizer, [batch[i] for i in readable], waveforms)
        outcomes.update(zip(readable, done, strict=True))
    return [outcomes[i] for i in range(len(batch))]


def _recognise(
    recognizer, batch: Sequence[Utterance], waveforms: list[np.ndarray]
) -> list[Outcome]:
    try:
        return _timed(recognizer, batch, waveforms)
    except Exception as e:
        _check_device(e)
        if len(batch) == 1:
            return [_failure(batch[0], e)]
    # Find out which one it was; the others are not to suffer. Not in the handler, which
    # keeps the tensors of the failed pass.
    pairs = zip(batch, waveforms, strict=True)
    return [_recognise(recognizer, [u], [w])[0] for u, w in pairs]


def _check_device(error: Exception) -> None:
    """A GPU that reports such an error fails from then on, whatever it is given."""
    import torch

    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the GPU failed ({reason}); start again, which goes on from here"
        ) from error


def _timed(
    recognizer, batch: Sequence[Utterance], waveforms: list[np.ndarray]
) -> list[Outcome]:
    given = [u.transcript for u in batch]
    start = time.perf_counter()
    hypotheses = recognizer(
        waveforms,
        [u.utt_id for u in batch],
        None if None in given else given,
    )
    elapsed = time.perf_counter() - start
    total = sum(len(w) for w in waveforms)
    return [
        Outcome(u, h, elapsed * len(w) / total, len(w) / SAMPLE_RATE)
        for u, h, w in zip(batch, hypotheses, waveforms, strict=True)
    ]


def _failure(utterance: Utterance, error: Exception) -> Outcome:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError):
        reason = os_reason(error)
    elif not isinstance(error, UserError):
        logging.exception(f"{utterance.utt_id}: decoding failed")
        reason = f"{type(error).__name__}: {reason}"
    return Outcome(utterance, Hypothesis(utterance.transcript or ""), error=reason)


def read_first_pass(path: str | Path, utt_ids: Iterable[str]) -> dict[str, str]:
    """First-pass transcripts of the utterances.

    Args:
        path: a Kaldi ``text`` file, or a decode directory whose ``*/text`` are merged.
        utt_ids: every one of them needs a line; an empty transcript is allowed.

    Raises:
        UserError: no such file, or an utterance has no transcript, or two.
    """
    top = Path(path)
    files = sorted(top.glob("*/text")) if top.is_dir() else [top]
    if not files:
        raise UserError(f"{path}: no */text in it; name a decoded directory or a text")
    texts: dict[str, str] = {}
    for file in files:
        own = read_table(file)  # word for word, and space for space
        for utt_id in own.keys() & texts.keys():
            if own[utt_id] != texts[utt_id]:
                raise UserError(
                    f"{file}: another transcript of '{utt_id}' is in {path} too; name "
                    "the text of one set"
                )
        texts.update(own)
    utt_ids = list(utt_ids)
    missing = [u for u in utt_ids if u not in texts]
    if missing:
        raise UserError(
            f"{path}: no transcript for {len(missing)} utterances, the first is "
            f"'{missing[0]}'; run the first pass on the same set"
        )
    return texts
