#!/usr/bin/env python3
"""Make the recipe's mini corpus, in LibriSpeech's layout, from Kaldi data directories.

    local/make_mini.py --speech speech --out mini

``speech`` holds ``real_read`` and ``real_prompts``, real recordings, and ``synth`` with
``train``, ``dev`` and ``test``, each with a ``meta.tsv`` (id, voice, book, speed,
seconds, text). Paths in the ``wav.scp`` are relative to it. The corpus that this makes
is shipped, so a user has no need of this script; it says how the clips were chosen:
the test sets are whole, ``dev`` is in two parts, of ``train`` there is a selection.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter, defaultdict
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import soundfile

from espnet_llada.io.kaldi.table import read_table

SECONDS = (2.0, 7.0)
"""Of train-mini and dev-mini: quick to train on, long enough for a few words."""

REAL_TERMS = {
    "lj": ("LJSpeech 1.1, read by Linda Johnson for LibriVox", "public domain"),
    "librivox": ("LibriVox, Sense and Sensibility", "public domain"),
}
PROMPTS_TERMS = ("Asterisk core sounds, Digium", "CC BY-SA 3.0")
SYNTH_TERMS = "speech Apache-2.0, text public domain"
LIBRISPEECH_TERMS = ("LibriSpeech test-clean", "CC BY 4.0")


logger = logging.getLogger("make_mini")


class Clip(NamedTuple):
    """One utterance on its way into the corpus."""

    subset: str
    speaker: str
    chapter: str
    number: str
    audio: Path
    text: str
    origin: str
    terms: str

    @property
    def name(self) -> str:
        return f"{self.speaker}-{self.chapter}-{self.number}"


def real_clips(speech: Path) -> list[Clip]:
    """All utterances of the real readings, under ids as near as can be."""
    directory = speech / "real_read"
    audio, clips = read_table(directory / "wav.scp"), []
    for utt, text in read_table(directory / "text").items():
        speaker, chapter, number = utt.split("-")
        origin, terms = REAL_TERMS.get(speaker, LIBRISPEECH_TERMS)
        place = ("test-clean-mini", speaker, chapter, number)
        clips.append(Clip(*place, speech / audio[utt], text, f"{origin}, {utt}", terms))
    return clips


def prompt_clips(speech: Path) -> list[Clip]:
    """All telephone prompts, under Asterisk's own names such as ``agent-alreadyon``."""
    directory = speech / "real_prompts"
    audio, clips = read_table(directory / "wav.scp"), []
    for utt, text in read_table(directory / "text").items():
        place = ("test-prompts-mini", "prompts", "asterisk", utt.partition("-")[2])
        origin, terms = PROMPTS_TERMS
        clips.append(Clip(*place, speech / audio[utt], text, f"{origin}, {utt}", terms))
    return clips


class Reading(NamedTuple):
    """A line of a ``meta.tsv``."""

    utt: str
    voice: str
    book: str
    speed: str
    seconds: str
    text: str


def readings(directory: Path) -> list[Reading]:
    """What the synthetic voices read."""
    lines = (directory / "meta.tsv").read_text(encoding="utf-8").splitlines()
    return [Reading(*line.split("\t")) for line in lines]


def selection(found: list[Reading], count: int, taken: set[str]) -> list[Reading]:
    """``count`` short ones spread evenly over the voices; texts not in ``taken``."""
    by_voice = defaultdict(list)
    for reading in found:
        fits = SECONDS[0] <= float(reading.seconds) <= SECONDS[1]
        if fits and reading.text not in taken:
            taken.add(reading.text)
            by_voice[reading.voice].append(reading)
    turns = zip_longest(*(by_voice[v] for v in sorted(by_voice)))
    return [reading for turn in turns for reading in turn if reading][:count]


def synthetic_clips(
    speech: Path, part: str, subset: str, chosen: list[Reading], numbers: Counter
) -> list[Clip]:
    """``chosen`` of ``synth/<part>``; ``numbers`` goes on from subset to subset."""
    audio = read_table(speech / "synth" / part / "wav.scp")
    clips = []
    for reading in sorted(chosen):
        speaker = reading.voice.replace("_", "")
        chapter = reading.book.split("-", 1)[1].replace("_", "")
        place = (subset, speaker, chapter, f"{numbers[speaker, chapter]:04d}")
        origin = f"Kokoro-82M voice {reading.voice} reading {reading.book}"
        origin = f"{origin}, {reading.utt}"
        path = speech / audio[reading.utt]
        clips.append(Clip(*place, path, reading.text, origin, SYNTH_TERMS))
        numbers[speaker, chapter] += 1
    return clips


def write(clips: list[Clip], out: Path) -> None:
    """16-bit FLAC at the source's 16 kHz, transcripts, and ``CLIPS.tsv``."""
    transcripts = defaultdict(list)
    rows = ["clip\tsubset\tseconds\torigin\tterms"]
    for clip in sorted(clips, key=lambda c: (c.subset, c.name)):
        folder = out / "LibriSpeech" / clip.subset / clip.speaker / clip.chapter
        folder.mkdir(parents=True, exist_ok=True)
        samples, rate = soundfile.read(clip.audio)
        if rate != 16_000 or samples.ndim != 1:
            raise SystemExit(f"error: {clip.audio}: not 16 kHz mono")
        soundfile.write(folder / f"{clip.name}.flac", samples, rate, subtype="PCM_16")
        listing = folder / f"{clip.speaker}-{clip.chapter}.trans.txt"
        transcripts[listing].append(f"{clip.name} {clip.text}\n")
        seconds = f"{len(samples) / rate:.2f}"
        row = (clip.name, clip.subset, seconds, clip.origin, clip.terms)
        rows.append("\t".join(row))
    for listing, lines in transcripts.items():
        listing.write_text("".join(lines), encoding="utf-8")
    table = out / "LibriSpeech" / "CLIPS.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    logger.info("%d clips in %s", len(clips), out)


def main() -> None:
    """Command line; see the module's text."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=300, help="utterances")
    parser.add_argument("--dev", type=int, default=40, help="utterances")
    args = parser.parse_args()
    speech, numbers = args.speech, Counter()
    clips = real_clips(speech) + prompt_clips(speech)
    taken = {clip.text for clip in clips}
    train, dev, test = (
        readings(speech / "synth" / n) for n in ("train", "dev", "test")
    )
    some = selection(dev, args.dev, taken)
    rest = [reading for reading in dev if reading not in some]
    for part, subset, chosen in (
        ("dev", "dev-mini", some),
        ("dev", "dev-synth-mini", rest),
        ("test", "test-synth-mini", test),
        ("train", "train-mini", selection(train, args.train, taken)),
    ):
        clips += synthetic_clips(speech, part, subset, chosen, numbers)
    write(clips, args.out)


if __name__ == "__main__":
    main()
