"""What rows write besides their transcripts, and how the report reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from espnet_llada.inference.batches import Utterance
from espnet_llada.inference.words import EncodeOnce, Options, logits, words_line
from espnet_llada.io.files import write_text
from espnet_llada.sweep.canvases import canvases_of
from espnet_llada.sweep.confidences import confidences_of
from espnet_llada.sweep.jobs import _timed
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.sweep.systems import Encoded, Place
from espnet_llada.types import Hypothesis, LoadOptions, UserError, Word

ROW = "rows: {timed: {label: a row, system: llada, options: {word_times: true}}}"
WORDS = (
    Word("A", 0.0, 0.1, 0.91234567, (0.0, 2.0), (-0.1, -0.2, -0.3)),
    Word("X", 0.1, 0.2, 0.5, (0.0, 2.0), (-0.7, -2.0, -3.0)),
    Word("...", None, None, None, (0.0, 2.0)),
)


@pytest.fixture
def place(tmp_path) -> Place:
    """A set of two utterances in two shards, one decoded by each."""
    config = tmp_path / "model/llada/config.yaml"
    write(config, "decoder: llada\n")
    write(config.with_name("valid.acc.ave.pth"), "")
    write(tmp_path / "data/one/text", "u1 A B\nu2 A\n")
    place = Place(
        *(str(tmp_path / "model"), tmp_path / "data", tmp_path / "out"),
        LoadOptions(),
        shards=2,
    )
    for number, words in ((1, WORDS), (2, WORDS[:1])):
        path = place.shard("timed", "one", number) / "1best_recog/words"
        write(path, f"u{number} {words_line(Hypothesis('', words=words))}\n")
    return place


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def row(tmp_path: Path, yaml: str = ROW):
    (tmp_path / "rows.yaml").write_text(yaml)
    return read_sweep(tmp_path / "rows.yaml").rows[0]


def test_confidences_before_and_after_calibration(place, tmp_path):
    """The calibration is that of the model when the report is written."""
    timed = row(tmp_path)
    found = confidences_of(timed, place, ["one"])
    assert found.right == [True, False, True]
    assert found.before == [0.9123, 0.5, 0.9123] and found.after is None
    file = tmp_path / "model/llada/calibration.yaml"
    file.write_text("decode: {bias: 1.0, ctc: 2.0}\ndeliberate: {bias: 9.0}\n")
    after = confidences_of(timed, place, ["one"]).after
    options = Options(bias=1.0, ctc=2.0)
    assert after[1] == options.confidence([-0.7, -2.0, -3.0])
    assert after[0] == after[2] > after[1] and logits([-0.2])[0] > 0
    assert confidences_of(replace(timed, key="no"), place, ["one"]) is None


def test_bad_lines_are_named(place, tmp_path):
    path = place.shard("timed", "one", 2) / "1best_recog/words"
    for line in ("[[1, 2]]", "[", '{"a": 1}'):
        write(path, f"u2 {line}\n")
        with pytest.raises(UserError, match=r"words: u2: no list of words .*again$"):
            confidences_of(row(tmp_path), place, ["one"])


def test_a_row_has_no_calibration_of_its_own(tmp_path):
    yaml = ROW.replace("true", "{bias: 1.0}")
    with pytest.raises(UserError, match=r"word_times: .* write word_times: true"):
        row(tmp_path, yaml)


def test_saved_encoding_time_counts_in_rows_with_words_too(speech):
    """Else the RTF of such a row would depend on the rows above it."""
    memory = Encoded(None)

    class Recognizer:
        """Whatever it encodes has been encoded before, in 5 s."""

        encode = EncodeOnce(memory)

        def __call__(self, waveforms, utt_ids, transcripts=None):
            memory.spared += 5.0
            return [Hypothesis("A")]

    (outcome,) = _timed(Recognizer(), [Utterance("u", str(speech[0]))], 1)
    assert outcome.error is None and 5.0 < outcome.decode_seconds < 6.0


CANVAS = {"id": "u1", "canvas": 0, "text": "A B", "log_prob": -1.2}
CANVAS |= {"tokens": ["▁a", "▁b"], "confidence": [0.9, 0.4], "passes": 4, "risk": 0.4}


def test_canvases_of_an_utterance(place, tmp_path):
    lines = [
        {**CANVAS, "chosen": False},
        {**CANVAS, "canvas": 1, "text": "A C", "chosen": True},
        {**CANVAS, "id": "u2", "chosen": True},
        {**CANVAS, "id": "u2", "canvas": 1, "chosen": False},
    ]
    path, timed = place.output / "timed/one/canvases.jsonl", row(tmp_path)
    assert [*canvases_of(timed, place, ["one"])] == []

    def written(lines: list[dict]) -> list:
        write(path, "".join(f"{json.dumps(line)}\n" for line in lines))
        return [*canvases_of(timed, place, ["one"])]

    (shown,) = written(lines)
    assert (shown.label, shown.set, shown.utt_id) == ("a row", "one", "u1")
    assert shown.reference == "A B" and [c.chosen for c in shown.canvases] == [0, 1]
    assert written(lines[2:]) == [], "both are alike"
    result = {**CANVAS, "canvas": None, "text": "A D", "chosen": True}
    (shown,) = written([lines[0], {**lines[1], "chosen": False}, result])
    assert [c.canvas for c in shown.canvases] == [0, 1, None], "made of both"
    bad = {
        "no canvases": {**lines[0], "text": 3},
        "2 tokens with 1 confidences": {**lines[0], "confidence": [1.0]},
        "u1: two are chosen": {**lines[0], "chosen": True},
    }
    for message, line in bad.items():
        with pytest.raises(UserError, match=rf"canvases.jsonl: .*{message}.*again$"):
            written([line, *lines[1:]])
