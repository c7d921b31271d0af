#!/usr/bin/env python3
"""Fit the probability that a change of a first pass mends it (rescoring's options).

Deliberates with the model over the reference itself, over Whisper-LLaMA's text and over
that of Whisper's own decoder; each change that deliberation or the scorer proposes is
one example: how many word errors fewer or more, and the scores of
``extensions/change_evidence.py``. Writes rescoring.yaml (options for decode.yaml),
changes.json and calibration.png into OUTPUT. Fit on development speech only.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.baseline.whisper_decoder import WhisperDecoder, plain_capitals
from espnet_llada.extensions import change_evidence, rescoring
from espnet_llada.extensions.change_evidence import FEATURES
from espnet_llada.io import weights
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.files import write_json, write_text
from espnet_llada.io.kaldi.table import read_text
from espnet_llada.scoring.confidence import bins, fitted, reliability
from espnet_llada.scoring.normalize import normalize_all
from espnet_llada.scoring.wer import score_pairs

FOLDS, BATCH = 5, 8
PENALTY = 0.01
"""Of the squared weights, of features with unit variance."""


def main() -> None:
    """Read the command line, do it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="Kaldi data directories")
    parser.add_argument("--model", default="mini", help="with a scorer")
    parser.add_argument("--whisper", default="whisper-tiny.en", help="of a first pass")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    refs, audio = read(args.data)
    args.output.mkdir(parents=True, exist_ok=True)
    cache = args.output / "first_passes.json"
    if not cache.exists():
        write_json(cache, first_passes(args, audio))
    texts = {"reference": refs, **json.loads(cache.read_text())}
    changes = collect(args.model, texts, audio, refs)
    write_json(args.output / "changes.json", changes)
    fit_all(changes, sum(len(t.split()) for t in refs.values()), args.output)


def read(folders: list[Path]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Transcripts and samples of all utterances."""
    refs, audio = {}, {}
    for folder in folders:
        texts = read_text(folder / "text")
        refs |= texts
        for utt, path in read_text(folder / "wav.scp").items():
            audio[utt] = load_audio(path)
    return refs, audio


def batches(audio: dict[str, np.ndarray]) -> Iterator[list[str]]:
    """Ids of utterances of like length."""
    utts = sorted(audio, key=lambda utt: len(audio[utt]))
    return (utts[i : i + BATCH] for i in range(0, len(utts), BATCH))


def first_passes(args, audio: dict[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """The texts of Whisper-LLaMA and of Whisper's own decoder."""
    llama = Speech2Text.from_pretrained(args.model, system="llama").recognizer
    whisper = WhisperDecoder(weights.resolve(args.whisper, "whisper").path)
    found: dict[str, dict[str, str]] = {"llama": {}, "whisper": {}}
    for utts in batches(audio):
        samples = [audio[utt] for utt in utts]
        for name, decode in (("llama", llama), ("whisper", whisper)):
            hypotheses = decode(samples, utts)
            texts = [plain_capitals(h.text) for h in hypotheses]
            found[name] |= dict(zip(utts, texts, strict=True))
    return found


def collect(model, texts, audio, refs) -> list[dict]:
    """Every proposed change, judged by the reference."""
    examples, now = [], {}
    deliberate = Deliberator.from_pretrained(model).recognizer
    tokenizer = deliberate.model.decoder.tokenizer
    mends = rescoring.Hook._mends

    def recorded(hook, changes, margin):
        features = change_evidence.features_of(hook.scorer, changes).tolist()
        for (row, old, new), values in zip(changes, features, strict=True):
            utt = now["utts"][row]
            pair = [tokenizer.decode(list(t)).upper() for t in (old, new)]
            gain = errors(pair[0], refs[utt]) - errors(pair[1], refs[utt])
            scores = dict(zip(FEATURES, values, strict=True))
            who = {"utt": utt, "first_pass": now["first"], "old": pair[0]}
            examples.append({**who, "new": pair[1], "mended": gain, **scores})
        return mends(hook, changes, margin)

    rescoring.Hook._mends = recorded
    for first, of_all in texts.items():
        for utts in batches(audio):
            now |= {"first": first, "utts": utts}
            given = [audio[utt] for utt in utts], utts, [of_all[utt] for utt in utts]
            deliberate(*given)
    return examples


def errors(text: str, reference: str) -> int:
    """Word errors, normalised."""
    pair = ({"u": side} for side in (reference, text))
    return score_pairs(*map(normalize_all, pair)).total.errors


def fit_all(changes: list[dict], words: int, output: Path) -> None:
    """Fit on all; report and draw what cross-validation by utterance gives."""
    # A change proposed twice (by the LLM, then by the scorer) is one example.
    once = {(c["first_pass"], c["utt"], c["old"], c["new"]): c for c in changes}
    told = [c for c in once.values() if c["mended"]]
    x = np.array([[c[name] for name in FEATURES] for c in told])
    y = np.array([c["mended"] > 0 for c in told])
    weight = np.array([float(abs(c["mended"])) for c in told])
    fold = np.array([zlib.crc32(c["utt"].encode()) % FOLDS for c in told])
    p = np.zeros(len(told))
    for k in range(FOLDS):
        bias, *slopes = fit(x[fold != k], y[fold != k], weight[fold != k])
        p[fold == k] = expit(x[fold == k] @ slopes + bias)
    names = "bias", *FEATURES
    lines = [f"{n}: {v:.3f}" for n, v in zip(names, fit(x, y, weight), strict=True)]
    write_text(output / "rescoring.yaml", "\n".join(lines) + "\n")
    before, after = (reliability(q, y).ece for q in (expit(x[:, 0]), p))
    say(f"{len(told)} changes that mend or break, {words} words", *lines)
    say(f"ECE of the scorer alone {before:.3f}, fitted {after:.3f}")
    curve = {
        name: tradeoff(p, weight, [c["first_pass"] == name for c in told], y)
        for name in ("reference", "llama", "whisper")
    }
    say("least probability: words broken of the reference, mended less broken of")
    for i, (least, (_, broken)) in enumerate(curve["reference"]):
        gains = [curve[n][i][1][0] - curve[n][i][1][1] for n in ("llama", "whisper")]
        share = f"{100 * broken / words:.2f} %"
        say(f"{least:.2f}  {share}  llama {gains[0]:+.0f}  whisper {gains[1]:+.0f}")
    draw(p, y, curve, words, output / "calibration.png")


def say(*lines: str) -> None:
    """Lines on standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> list[float]:
    """Bias and weights of a logistic regression, penalized at unit variance."""
    mean, spread = x.mean(axis=0), x.std(axis=0, ddof=1) + 1e-6
    how = {"penalty": PENALTY * len(x), "least": None}
    bias, *slopes = fitted((x - mean) / spread, y, weight, **how)
    slopes = np.array(slopes) / spread
    return [bias - float(slopes @ mean), *slopes.tolist()]


def tradeoff(p, weight, own, y) -> list[tuple[float, tuple[float, float]]]:
    """Least probability, words mended and words broken."""
    own, curve = np.array(own), []
    for least in np.arange(0.3, 0.96, 0.05):
        taken = own & (p >= float(least))
        sides = [float(weight[taken & (y == side)].sum()) for side in (True, False)]
        curve.append((float(least), (sides[0], sides[1])))
    return curve


def draw(p, y, curve, words: int, path: Path) -> None:
    """Reliability, and words mended against words broken of a right text."""
    from espnet_llada.report.sheet import INK, PALETTE, sheet_of

    with sheet_of("calibration") as sheet:
        left, right = sheet.subplots(1, 2)
        mean, share, _ = zip(*bins(p, y), strict=True)
        left.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1)
        left.plot(mean, share, marker="o", color=PALETTE[0])
        left.set(xlabel="probability that a change mends", ylabel="share that mends")
        broken = [100 * b / words for _, (_, b) in curve["reference"]]
        titles = {"llama": "over Whisper-LLaMA", "whisper": "over Whisper"}
        for i, (name, label) in enumerate(titles.items()):
            net = [100 * (m - b) / words for _, (m, b) in curve[name]]
            right.plot(broken, net, marker="os"[i], color=PALETTE[i], label=label)
        right.axvline(0.3, color=INK, linestyle=":", linewidth=1)
        right.set(xlabel="broken of a right text, % of words", ylabel="WER gained, %")
        right.legend(frameon=False)
        sheet.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
