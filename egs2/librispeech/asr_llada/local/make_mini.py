#!/usr/bin/env python3
"""Make the recipe's mini corpus, in LibriSpeech's layout, from Kaldi data directories.

    local/make_mini.py --real speech/real_read --synth speech/synth --out mini

``--real`` holds the test utterances; ``--synth`` holds ``train`` and ``dev``, each
with a ``meta.tsv`` (id, voice, book, speed, seconds, text). Paths in their ``wav.scp``
are relative to the directory that holds ``--real``. The corpus that this makes is
shipped, so a user has no need of this script; it says how the clips were chosen.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import soundfile

SECONDS = (2.0, 7.0)
"""Short enough for a quick demo, long enough for a few words."""

REAL_TERMS = {
    "lj": ("LJSpeech 1.1, read by Linda Johnson for LibriVox", "public domain"),
    "librivox": ("LibriVox, Sense and Sensibility", "public domain"),
}
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


def read_table(path: Path) -> dict[str, str]:
    """Lines ``key value`` of a Kaldi file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def real_clips(directory: Path) -> list[Clip]:
    """All utterances of the real recordings, under ids as near as can be."""
    audio, clips = read_table(directory / "wav.scp"), []
    for utt, text in read_table(directory / "text").items():
        speaker, chapter, number = utt.split("-")
        origin, terms = REAL_TERMS.get(speaker, LIBRISPEECH_TERMS)
        place = ("test-clean-mini", speaker, chapter, number)
        path = directory.parent / audio[utt]
        clips.append(Clip(*place, path, text, f"{origin}, {utt}", terms))
    return clips


def synthetic_clips(
    directory: Path, subset: str, count: int, taken: set[str]
) -> list[Clip]:
    """``count`` utterances spread evenly over the voices; texts not in ``taken``."""
    audio = read_table(directory / "wav.scp")
    by_voice = defaultdict(list)
    for line in (directory / "meta.tsv").read_text(encoding="utf-8").splitlines():
        utt, voice, book, _, seconds, text = line.split("\t")
        if SECONDS[0] <= float(seconds) <= SECONDS[1] and text not in taken:
            taken.add(text)
            by_voice[voice].append((utt, voice, book, text))
    turns = zip_longest(*(by_voice[v] for v in sorted(by_voice)))
    chosen = [row for turn in turns for row in turn if row][:count]
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    clips = []
    for utt, voice, book, text in sorted(chosen):
        speaker = voice.replace("_", "")
        chapter = book.split("-", 1)[1].replace("_", "")
        place = (subset, speaker, chapter, f"{numbers[speaker, chapter]:04d}")
        path = directory.parents[1] / audio[utt]
        origin = f"Kokoro-82M voice {voice} reading {book}, {utt}"
        clips.append(Clip(*place, path, text, origin, SYNTH_TERMS))
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
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--synth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=300, help="utterances")
    parser.add_argument("--dev", type=int, default=40, help="utterances")
    args = parser.parse_args()
    clips = real_clips(args.real)
    taken = {clip.text for clip in clips}
    clips += synthetic_clips(args.synth / "dev", "dev-mini", args.dev, taken)
    clips += synthetic_clips(args.synth / "train", "train-mini", args.train, taken)
    write(clips, args.out)


if __name__ == "__main__":
    main()
