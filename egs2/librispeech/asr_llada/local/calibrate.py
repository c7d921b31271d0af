#!/usr/bin/env python3
"""Calibrates word times and confidences of a model; says how good they are elsewhere.

    local/calibrate.py --model mini --system llada --flite FLITE_LIBRARIES \
        --dev mini/LibriSpeech/dev-mini mini/LibriSpeech/dev-synth-mini \
        --test mini/LibriSpeech/test-*-mini --output ../../../espnet_llada/mini/llada

Sets are directories as LibriSpeech's, with ``*.trans.txt``. Times are fitted on Flite's
voice rms reading dev's texts, and measured on its other voices, reading
those of the test sets; without --flite the times of before are kept. Confidences are
fitted on dev. Deliberation is over the transcripts of ``--first_pass_system``.

Errors of times are those of words that were recognised; the rest has no known time.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from synthesis.timed import VOICES, TimedFlite

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.alignment import align
from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.inference.loading import find_model
from espnet_llada.inference.words import Options, calibration, logits
from espnet_llada.io.files import write_checksum, write_text
from espnet_llada.io.schema import check_options
from espnet_llada.scoring.confidence import fitted, reliability, right_ones
from espnet_llada.types import CALIBRATION_FILE, Hypothesis, UserError

PLAIN = {"start": 0.0, "end": 0.0, "bias": 0.0, "lm": 0.0, "ctc": 0.0, "scorer": 0.0}
_ENDS = np.arange(-0.3, 0.31, 0.02)
"""Tried for ``end`` (s). The least that is as good to 2 ms is taken: what is too much
shows behind the last word before a pause alone, and read texts have few of these."""

Utterances = dict[Path, str]


def get_parser() -> OptionParser:
    """The options of the script."""
    parser = OptionParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="as of espnet-llada")
    parser.add_argument("--system", default="llada", choices=("llada", "llama"))
    parser.add_argument("--first_pass_system", default="llama")
    parser.add_argument("--dev", nargs="+", required=True, metavar="DIR")
    parser.add_argument("--test", nargs="+", required=True, metavar="DIR")
    parser.add_argument("--flite", metavar="DIR", help="of libflite.so.1")
    parser.add_argument(
        "--only", choices=("times", "confidences"), help="keep the other as it was"
    )
    parser.add_argument("--output", metavar="DIR", help="calibration.yaml goes there")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Fit, measure and write."""
    args = get_parser().parse_args(cmd)
    config = find_model(args.model, args.system)[0]
    dev, test = read_sets(args.dev), read_sets(args.test)
    decode = Speech2Text.from_pretrained(args.model, args.system, word_times=PLAIN)
    times = calibration(config, "decode")
    if args.flite and args.only != "confidences":
        times = _times(decode, Path(args.flite), [*dev.values()], [*test.values()])
    times = {name: times.get(name, 0.0) for name in ("start", "end")}
    found = {task: calibration(config, task) for task in ("decode", "deliberate")}
    if args.only != "times":
        found = {"decode": _calibrated("decode", decode, dev, test, None)}
        if args.system == "llada":
            found["deliberate"] = _deliberation(args, dev, test)
    content = {task: {**own, **times} for task, own in found.items() if own}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    sys.stdout.write(text)
    if args.output:
        path = Path(args.output) / CALIBRATION_FILE
        write_text(path, f"# Fitted by local/calibrate.py (LOG.md).\n{text}")
        write_checksum(path)


def read_sets(directories: Sequence[str]) -> Utterances:
    """{audio file: its transcript} of sets."""
    found: Utterances = {}
    for directory in directories:
        files = sorted(Path(directory).rglob("*.trans.txt"))
        if not files:
            raise UserError(
                f"{directory}: no *.trans.txt in it; name a set's directory"
            )
        for file in files:
            for line in file.read_text(encoding="utf-8").splitlines():
                utt_id, _, text = line.partition(" ")
                found[file.parent / f"{utt_id}.flac"] = text
    return found


def _deliberation(
    args: Namespace, dev: Utterances, test: Utterances
) -> dict[str, float]:
    first = Speech2Text.from_pretrained(args.model, args.first_pass_system)
    texts = {path: first(path, path.stem)[0][0] for path in (*dev, *test)}
    run = Deliberator.from_pretrained(args.model, args.system, word_times=PLAIN)
    return _calibrated("deliberate", run, dev, test, texts)


def _calibrated(
    task: str, run: Any, dev: Utterances, test: Utterances, first: Utterances | None
) -> dict[str, float]:
    """The weights of a task's confidences; writes what they are worth."""
    given = {path: (path, first[path]) if first else (path,) for path in (*dev, *test)}
    found = {path: run(*given[path], path.stem)[0][3] for path in given}
    tokenizer = run.recognizer.model.decoder.tokenizer
    words = [_words(found[path], text) for path, text in dev.items()]
    evidence, _, right = map(sum, zip(*words, strict=True), ([], [], []))
    bias, *weights = fitted([logits(values) for values in evidence], right)
    names = ("lm", "ctc", "scorer")
    made = {"bias": bias, **dict(zip(names, weights, strict=False))}
    made = {name: round(value, 3) for name, value in made.items()}
    options = Options(**check_options(made, Options))
    for name, texts in (("dev", dev), ("test", test)):
        for unit, of in (("words", _words), ("tokens", _tokens(tokenizer))):
            rows = [of(found[path], text) for path, text in texts.items()]
            evidence, before, right = map(sum, zip(*rows, strict=True), ([], [], []))
            after = [options.confidence(values) for values in evidence]
            old, new = reliability(before, right), reliability(after, right)
            sys.stdout.write(
                f"{task:10} {name:4} {unit:6} n {new.count} wrong {new.wrong}  "
                f"ECE {old.ece:.4f} -> {new.ece:.4f}  "
                f"NCE {old.nce:.3f} -> {new.nce:.3f}\n"
            )
    return made


def _words(h: Hypothesis, reference: str) -> tuple[list, list, list]:
    """Evidence, uncalibrated confidence and truth of the words that have any."""
    right = right_ones(reference.split(), [word.text for word in h.words])
    rows = [row for row in zip(h.words, right, strict=True) if row[0].evidence]
    words = [word for word, _ in rows]
    return (
        [word.evidence for word in words],
        [word.confidence for word in words],
        [true for _, true in rows],
    )


def _tokens(tokenizer: Any):
    def of(h: Hypothesis, reference: str) -> tuple[list, list, list]:
        ids = map(str, tokenizer.encode(reference))
        right = right_ones([*ids], [*map(str, h.token_ids)])
        return [*h.evidence], [*h.confidence], right

    return of


def _times(
    run: Speech2Text, folder: Path, dev: Sequence[str], test: Sequence[str]
) -> dict[str, float]:
    """What is added to CTC times; writes the errors with it."""
    plain = np.array([*_timed(run, folder, VOICES[:1], dev)])
    start = round(float(np.median(plain[:, 2] - plain[:, 0])), 3)

    def errors(table: np.ndarray, end: float) -> tuple[np.ndarray, np.ndarray]:
        ends = np.minimum(table[:, 1] + end, table[:, 4] + start)
        return table[:, 0] + start - table[:, 2], ends - table[:, 3]

    losses = np.array([np.abs(errors(plain, end)[1]).mean() for end in _ENDS])
    made = {
        "start": start,
        "end": round(float(_ENDS[losses < min(losses) + 2e-3][0]), 3),
    }
    recognizer = run.recognizer
    timer = recognizer._words
    timer.options = replace(timer.options, **made)
    for voice in VOICES:
        own = dev if voice == VOICES[0] else test
        table = np.array([*_timed(run, folder, [voice], own)])
        off = table[:, 0] - table[:, 2], table[:, 1] - table[:, 3]
        parts = [
            f"{name} mean {np.abs(e).mean():.3f} median {np.median(np.abs(e)):.3f} "
            f"bias {e.mean():+.3f}"
            for name, e in zip(("start", "end"), off, strict=True)
        ]
        sys.stdout.write(f"times {voice:5} n {len(table)}  {'  '.join(parts)} s\n")
    timer.options = Options()
    return made


def _timed(
    run: Speech2Text, folder: Path, voices: Sequence[str], texts: Sequence[str]
) -> Iterator[tuple[float, ...]]:
    """Found start and end, true start and end, and the next word's found start."""
    for voice in voices:
        flite = TimedFlite(folder, voice)
        for text in texts:
            samples, truth = flite.speak(text.lower())
            words = [w for w in run(samples)[0][3].words if w.start is not None]
            own = [word.text.upper() for word in truth]
            pairs = align(own, [word.text for word in words])
            said, heard = iter(truth), iter(range(len(words)))
            for before, after in pairs:
                true = next(said) if before is not None else None
                place = next(heard) if after is not None else None
                if before != after:
                    continue
                word, behind = words[place], words[place + 1 : place + 2]
                following = behind[0].start if behind else len(samples) / 16_000
                yield word.start, word.end, true.start, true.end, following


if __name__ == "__main__":
    run_main(main)
