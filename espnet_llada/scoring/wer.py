"""Word and character error rates over Kaldi ``text`` files, by jiwer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jiwer

from espnet_llada.io.kaldi.table import read_text
from espnet_llada.types import UserError

_PROCESS = {"word": jiwer.process_words, "char": jiwer.process_characters}
_SHOWN = 3  # ids that an error names


@dataclass(frozen=True)
class Counts:
    """Aligned words (or characters) of one utterance, or of many."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class Score:
    """The result of scoring; every rate is in percent.

    A rate over a reference without words counts the errors as if it had one word, as
    jiwer does: 0 when the hypothesis is empty too.

    Attributes:
        utterances: utterance id -> its counts, in the order of the reference.
    """

    utterances: dict[str, Counts]

    @functools.cached_property
    def total(self) -> Counts:
        """The counts summed over all utterances."""
        return sum(self.utterances.values(), Counts())

    @property
    def wer(self) -> float:
        """Errors per reference word (character, if those were scored)."""
        return self._percent(self.total.errors)

    @property
    def rates(self) -> tuple[float, ...]:
        """Corr, Sub, Del, Ins, Err, S.Err: the columns of sclite."""
        t, utts = self.total, self.utterances.values()
        counts = t.hits, t.substitutions, t.deletions, t.insertions, t.errors
        wrong = sum(c.errors > 0 for c in utts)
        return (*map(self._percent, counts), 100.0 * wrong / max(len(utts), 1))

    def subset(self, utts: Iterable[str]) -> Score:
        """The score of some of the utterances."""
        return Score({u: self.utterances[u] for u in utts})

    def _percent(self, count: int) -> float:
        return 100.0 * count / max(self.total.words, 1)


def score_pairs(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    unit: str = "word",
    names: tuple[str, str] = ("reference", "hypothesis"),
) -> Score:
    """Align each hypothesis with the reference of the same utterance id.

    Case counts ("The" is not "the"); runs of white space count as one space.

    Args:
        refs: utterance id -> reference transcript; it may be empty.
        hyps: utterance id -> hypothesis, for the same ids in any order.
        unit: ``word``, or ``char`` (the space between words is a character too).
        names: what an error calls the two sides: their files, if they have any.

    Raises:
        UserError: no utterance at all; an id that one side lacks; unknown unit.
    """
    if unit not in _PROCESS:
        raise UserError(f"unit {unit!r}: choose one of {', '.join(_PROCESS)}")
    check_ids(refs, hyps, names)
    out = _PROCESS[unit](
        [" ".join(text.split()) for text in refs.values()],
        [" ".join(hyps[utt].split()) for utt in refs],
    )
    counts = map(_count, out.alignments)
    return Score(dict(zip(refs, counts, strict=True)))


def check_ids(
    refs: Mapping[str, object], hyps: Mapping[str, object], names: tuple[str, str]
) -> None:
    """Refuse two sides that do not hold the same utterance ids.

    Raises:
        UserError: it names both sides and the first few ids.
    """
    if not refs:
        raise UserError(f"{names[0]}: no utterance in it; name a text file with some")
    lacking = [utt for utt in refs if utt not in hyps]
    if lacking:
        raise UserError(
            f"{names[1]}: lacks {_some(lacking, len(refs))} of {names[0]}; decode them "
            "too (a line with the id alone is an empty transcript)"
        )
    extra = [utt for utt in hyps if utt not in refs]
    if extra:
        raise UserError(
            f"{names[1]}: holds {_some(extra, len(hyps))} that {names[0]} lacks; "
            "take them out, or name the reference of the same set"
        )


def _some(utts: list[str], among: int) -> str:
    shown = ", ".join(utts[:_SHOWN]) + (", ..." if len(utts) > _SHOWN else "")
    return f"{len(utts)} of {among} utterances ({shown})"


def _count(chunks: list[jiwer.AlignmentChunk]) -> Counts:
    n: Counter[str] = Counter()
    for c in chunks:
        spans = c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx
        n[c.type] += max(spans)
    return Counts(n["equal"], n["substitute"], n["delete"], n["insert"])


def read_speakers(path: str | Path, utts: Iterable[str]) -> dict[str, str]:
    """Read ``utt2spk`` for some utterances.

    Raises:
        UserError: as ``read_text``, or an utterance has no speaker.
    """
    speakers = read_text(path)
    for utt in utts:
        if not speakers.get(utt):
            raise UserError(f"{path}: no speaker for utterance {utt}; add its line")
    return speakers


def speakers_of(ref_text: Path, utts: Iterable[str]) -> dict[str, str]:
    """By the reference directory's ``utt2spk``; without one each is its own speaker."""
    path = ref_text.parent / "utt2spk"
    return read_speakers(path, utts) if path.exists() else {utt: utt for utt in utts}
