"""Word confidences of rows with ``word_times: true``: read, and calibrated.

In ``logdir/output.N/1best_recog/words`` each utterance has a line of ``words_line``,
with confidences by the LM's probabilities. The calibration is applied when they are
read, so that a new one needs no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from espnet_llada.inference.options import task_of
from espnet_llada.inference.words import Options, calibration
from espnet_llada.io.kaldi.table import read_text
from espnet_llada.report.calibration import Confidences
from espnet_llada.scoring.confidence import right_ones
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.sweep.systems import Place, Systems
from espnet_llada.types import UserError

_Words = list[tuple[str, float | None, list[float]]]


def confidences_of(
    row: SweepRow, place: Place, sets: Sequence[str]
) -> Confidences | None:
    """Of all words of a row that have any; None where no word has.

    Raises:
        UserError: a file does not fit; it is named.
    """
    right: list[bool] = []
    before: list[float] = []
    evidence: list[list[float]] = []
    for words, reference in _decoded(row, place, sets):
        found = right_ones(reference.split(), [text for text, _, _ in words])
        for (_, confidence, values), true in zip(words, found, strict=True):
            if confidence is not None:
                right.append(true)
                before.append(confidence)
                evidence.append(values)
    if not right:
        return None
    config = Systems(place).files(row.system)["asr_train_config"]
    options = Options(**calibration(config, task_of(row.options.strategy)))
    after = None
    if options.calibrated and min(map(len, evidence)) > 1:  # there is a CTC
        after = [options.confidence(values) for values in evidence]
    return Confidences(row.label, right, before, after)


def _decoded(
    row: SweepRow, place: Place, sets: Sequence[str]
) -> Iterator[tuple[_Words, str]]:
    """The words of each utterance, and its reference."""
    for name in sets:
        references = read_text(place.data / name / "text")
        for number in range(1, place.shards + 1):
            path = place.shard(row.key, name, number) / "1best_recog/words"
            for utt, line in read_text(path).items() if path.is_file() else ():
                yield _words(path, utt, line), references[utt]


def _words(path: Path, utt: str, line: str) -> _Words:
    try:
        return msgspec.json.decode(line, type=_Words)
    except msgspec.MsgspecError as e:
        raise UserError(
            f"{path}: {utt}: no list of words ({e}); decode it again"
        ) from e
