"""Word and character error rates over Kaldi ``text`` files, by jiwer."""

from __future__ import annotations

import functools
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
    def corr(self) -> float:
        """Share of reference words that are right."""
        return self._percent(self.total.hits)

    @property
    def sub(self) -> float:
        """Substitutions per reference word."""
        return self._percent(self.total.substitutions)

    @property
    def dele(self) -> float:
        """Deletions per reference word."""
        return self._percent(self.total.deletions)

    @property
    def ins(self) -> float:
        """Insertions per reference word; it may exceed 100."""
        return self._percent(self.total.insertions)

    @property
    def wer(self) -> float:
        """Errors per reference word (per character, if those were scored)."""
        return self._percent(self.total.errors)

    @property
    def ser(self) -> float:
        """Share of utterances that have an error."""
        wrong = sum(c.errors > 0 for c in self.utterances.values())
        return 100.0 * wrong / max(len(self.utterances), 1)

    @property
    def rates(self) -> tuple[float, float, float, float, float, float]:
        """Corr, Sub, Del, Ins, Err, S.Err: the columns of sclite."""
        return self.corr, self.sub, self.dele, self.ins, self.wer, self.ser

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
    n = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
    for c in chunks:
        n[c.type] += max(
            c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx
        )
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


def speakers_beside(ref_text: Path, utts: Iterable[str]) -> dict[str, str]:
    """The ``utt2spk`` beside a reference; else each utterance is its own speaker."""
    path = ref_text.parent / "utt2spk"
    return read_speakers(path, utts) if path.exists() else {utt: utt for utt in utts}
