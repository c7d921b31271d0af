"""One table over several systems: error rates, forward passes, real-time factor."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_llada.io.kaldi.table import read_text
from espnet_llada.scoring.normalize import normalize_all
from espnet_llada.scoring.repairs import Repairs, repairs
from espnet_llada.scoring.significance import Change, Estimate, compare, estimate
from espnet_llada.scoring.wer import (
    Counts,
    Score,
    check_ids,
    score_pairs,
    speakers_of,
)
from espnet_llada.types import UserError

_LARGEST = 1e15  # no sum of such numbers is too large for a float
POOLED = "all sets"


@dataclass(frozen=True)
class Rates:
    """Word errors of a system's text, raw or normalised.

    Attributes:
        counts: its words, aligned with the reference's.
        wer: word error rate.
        change: of that from the baseline; None without one.
    """

    counts: Counts
    wer: Estimate
    change: Change | None = None


@dataclass(frozen=True)
class Row:
    """One system on one set, or on all sets together.

    Attributes:
        raw: of the text as it is.
        normalised: of both sides after Whisper's normaliser.
        passes: mean LLM forward passes per utterance; None when not recorded.
        rtf: decode seconds over audio seconds; None when not recorded.
        baseline: label of the system that the changes are against, if any.
        repairs: words of its first pass mended and broken, normalised; None without.
    """

    system: str
    set: str
    utterances: int
    raw: Rates
    normalised: Rates
    passes: float | None
    rtf: float | None
    baseline: str | None = None
    repairs: Repairs | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, without nesting: ``wer``, ``wer_normalised``, …."""
        values = dataclasses.asdict(self)
        raw, normalised = values.pop("raw"), values.pop("normalised")
        return {**values, **raw, **{f"{k}_normalised": normalised[k] for k in raw}}


@dataclass(frozen=True)
class _Decoded:
    """One system's results on one set, each by utterance.

    ``texts``: reference and result, normalised.
    """

    raw: dict[str, Counts]
    normalised: dict[str, Counts]
    texts: dict[str, tuple[str, str]]
    speakers: dict[str, str]
    passes: dict[str, list[float]] | None
    seconds: dict[str, list[float]] | None


def summary_rows(
    systems: list[tuple[str, Path]],
    ref_dir: str | Path,
    baseline: str | None = None,
    sets: Sequence[str] | None = None,
    first_passes: Mapping[str, str] | None = None,
) -> list[Row]:
    """Score every ``<set>/text`` of each system's decode directory.

    A set may also have ``passes`` (``utt n``) and ``seconds`` (``utt decode_seconds
    audio_seconds``). ESPnet's stage 12 merges only the files it knows, so they are
    else taken from ``<set>/logdir/output.*/1best_recog``. Where all systems have the
    same two sets or more, a row over these together (``POOLED``) follows.

    Args:
        systems: label and decode directory of each system, in the order wanted.
        ref_dir: holds ``<set>/text`` and, for the intervals, ``<set>/utt2spk``.
        baseline: label of the system that the others are compared with, on the sets
            that it was decoded on too.
        sets: these only; all that there are by default.
        first_passes: label of what deliberates -> label of its first pass.

    Returns:
        A row for each system and set, sets sorted by name, pooled rows last.

    Raises:
        UserError: a label twice or unknown, a directory without sets, ids that do not
            match, or a bad number; it names the file.
    """
    labels = [label for label, _ in systems]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"label {label!r} is given twice; name each system once")
    if baseline is not None and baseline not in labels:
        raise UserError(f"baseline {baseline!r}: no such label ({', '.join(labels)})")
    decoded = {
        label: {
            name: _decoded(Path(decode_dir) / name, Path(ref_dir) / name)
            for name in sets or _sets(Path(decode_dir))
        }
        for label, decode_dir in systems
    }
    common = set.intersection(*(set(sets) for sets in decoded.values()))
    if len(common) > 1:
        for sets in decoded.values():
            sets[POOLED] = _pool({name: sets[name] for name in sorted(common)})
    names = sorted(set().union(*decoded.values()), key=lambda n: (n == POOLED, n))
    others = {label: baseline for label in labels if label != baseline}
    return [
        _row(label, name, decoded, others.get(label), (first_passes or {}).get(label))
        for name in names
        for label in labels
        if name in decoded[label]
    ]


def _sets(decode_dir: Path) -> list[str]:
    """Sets with a ``text``; asr.sh puts the validation set at ``org/<set>``."""
    texts = [*decode_dir.glob("*/text"), *decode_dir.glob("org/*/text")]
    if not texts:
        raise UserError(f"{decode_dir}: no <set>/text in it; name a decode directory")
    return sorted(text.parent.relative_to(decode_dir).as_posix() for text in texts)


def _decoded(set_dir: Path, ref_dir: Path) -> _Decoded:
    paths = ref_dir / "text", set_dir / "text"
    refs, hyps = (read_text(path) for path in paths)
    names = str(paths[0]), str(paths[1])
    seconds = _read_numbers(set_dir, "seconds", refs, (float, float))
    if seconds and not _sums(seconds)[1]:
        raise UserError(f"{set_dir}: 'seconds' has no audio; decode the set again")
    texts = normalize_all(refs), normalize_all(hyps)
    return _Decoded(
        score_pairs(refs, hyps, names=names).utterances,
        score_pairs(*texts).utterances,
        {utt: (texts[0][utt], texts[1][utt]) for utt in refs},
        speakers_of(paths[0], refs),
        _read_numbers(set_dir, "passes", refs, (int,)),
        seconds,
    )


def _pool(sets: dict[str, _Decoded]) -> _Decoded:
    """Several sets as one; an utterance of two sets counts twice."""

    def merged(field: str) -> dict[str, Any] | None:
        tables = {name: getattr(decoded, field) for name, decoded in sets.items()}
        if None in tables.values():
            return None
        return {f"{name}/{u}": v for name, t in tables.items() for u, v in t.items()}

    return _Decoded(*(merged(field.name) for field in dataclasses.fields(_Decoded)))


def _row(
    label: str,
    name: str,
    decoded: dict[str, dict[str, _Decoded]],
    baseline: str | None,
    first_pass: str | None,
) -> Row:
    it = decoded[label][name]
    base, first = (
        decoded[other].get(name) if other else None for other in (baseline, first_pass)
    )

    def rates(kind: str) -> Rates:
        score = Score(getattr(it, kind))
        before = base and Score(getattr(base, kind))
        change = before and compare(score, before, it.speakers)
        return Rates(score.total, estimate(score, it.speakers), change)

    return Row(
        label,
        name,
        len(it.raw),
        rates("raw"),
        rates("normalised"),
        passes=it.passes and _sums(it.passes)[0] / len(it.raw),
        rtf=it.seconds and operator.truediv(*_sums(it.seconds)),
        baseline=baseline if base else None,
        repairs=first and _repairs(first, it),
    )


def _repairs(first: _Decoded, result: _Decoded) -> Repairs:
    each = ((*result.texts[utt], text) for utt, (_, text) in first.texts.items())
    return sum((repairs(ref, old, new) for ref, new, old in each), Repairs())


def _sums(values: dict[str, list[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*values.values(), strict=True)]


def _read_numbers(
    set_dir: Path, name: str, refs: dict[str, str], kinds: tuple[Callable, ...]
) -> dict[str, list[float]] | None:
    """The numbers of each utterance; None without such a file."""
    paths = [set_dir / name]
    if not paths[0].exists():
        paths = sorted(set_dir.glob(f"logdir/output.*/1best_recog/{name}"))
    if not paths:
        return None
    values: dict[str, list[float]] = {}
    for path in paths:
        for utt, line in read_text(path).items():
            if utt in values:
                raise UserError(f"{path}: utterance {utt} again; remove stale output.*")
            values[utt] = _numbers(path, utt, line.split(), kinds)
    check_ids(refs, values, (f"reference of {set_dir}", str(paths[0])))
    return values


def _numbers(
    path: Path, utt: str, cells: list[str], kinds: tuple[Callable, ...]
) -> list[float]:
    try:
        numbers = [kind(cell) for kind, cell in zip(kinds, cells, strict=True)]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= n < _LARGEST for n in numbers):
        raise UserError(
            f"{path}: utterance {utt}: expected {len(kinds)} number(s) >= 0, found "
            f"{' '.join(cells)[:40]!r}; decode the set again"
        )
    return numbers
