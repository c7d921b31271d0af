"""Published error rates: the file, and what is shown beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from espnet_llada.scoring.published import (
    HEADER,
    compare_published,
    read_published,
)
from espnet_llada.scoring.significance import Estimate, Interval
from espnet_llada.scoring.summary import Rates, Row
from espnet_llada.scoring.wer import Counts
from espnet_llada.types import UserError

KEYS = ["llama", "a", "b"]
LABELS = {"llama": "Whisper-LLaMA", "a": "10 %", "b": "30 %"}
CONTENT = """
rows:
  llama:
    test_other: {wer: 5.63, sure: derived, source: abstract}
best_of:
  best cascade:
    rows: [a, b]
    sets:
      test_clean: {wer: 2.25, sure: stated, source: abstract}
      test_other: {wer: 4.94, sure: second_hand, source: a digest}
"""


def file(tmp_path: Path, content: str = CONTENT) -> Path:
    path = tmp_path / "published.yaml"
    path.write_text(content)
    return path


def row(system: str, name: str, value: float) -> Row:
    """Raw WER 1 higher; intervals 0.2 to each side."""

    def rates(v: float) -> Rates:
        interval = Interval(v, v - 0.2, v + 0.2)
        return Rates(Counts(), Estimate(interval, "speakers", 20))

    return Row(system, name, 9, rates(value + 1), rates(value), None, None)


def test_beside_ours_raw_first(tmp_path):
    published = read_published(file(tmp_path), KEYS)
    rows = [row("Whisper-LLaMA", "test_other", 5.50)]
    rows += [row("10 %", "test_clean", 2.5), row("10 %", "test_other", 4.8)]
    rows += [row("30 %", "test_clean", 2.4), row("30 %", "test_other", 5.2)]
    rows += [row("30 %", "dev_clean", 0.1), row("30 %", "all sets", 0.1)]
    found = compare_published(published, rows, LABELS)
    assert [one.agrees for one in found] == [True, False, True]
    lines = [dict(zip(HEADER, one.cells, strict=True)) for one in found]
    assert lines[0] == {
        "system": "Whisper-LLaMA",
        "set": "test_other",
        "published %": "5.63",
        "WER raw % [95% CI]": "6.50 [6.30, 6.70]",
        "WER norm % [95% CI]": "5.50 [5.30, 5.70]",
        "published in the interval": "yes",
        "how sure": "derived: abstract",
    }
    # One system for both sets, though another is better on one of them.
    assert {line["system"] for line in lines[1:]} == {
        "best cascade; of 2 rows here: 10 %"
    }
    assert lines[2]["how sure"] == "second hand: a digest"


def test_the_ends_belong_to_the_interval_as_they_are_printed(tmp_path):
    published = read_published(file(tmp_path), KEYS)
    measured = row("Whisper-LLaMA", "test_other", 5.8301)
    (one,) = compare_published(published, [measured], LABELS)
    assert str(measured.normalised.wer.rate).endswith("[5.63, 6.03]") and one.agrees
    (one,) = compare_published(published, [replace(measured, set="test_other")], LABELS)
    assert one.agrees
    measured = row("Whisper-LLaMA", "test_other", 5.84)
    assert not compare_published(published, [measured], LABELS)[0].agrees


def test_rows_and_sets_that_were_not_measured(tmp_path):
    published = read_published(file(tmp_path), KEYS)
    rows = [row("30 %", "test_other", 5.2)]
    assert compare_published(published, [], LABELS) == []
    assert compare_published(published, rows, {"llama": "Whisper-LLaMA"}) == []
    (one,) = compare_published(published, rows, {"b": "30 %"})
    assert one.label == "best cascade; of 1 rows here: 30 %"
    assert compare_published(published, [row("30 %", "dev", 5.2)], LABELS) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  llama:", "  lama:", "rows: the sweep has no row 'lama'.*'llama'"),
        ("[a, b]", "[a, bb]", "best_of: best cascade: the sweep has no row 'bb'"),
        ("[a, b]", "[a]", r"best_of: best cascade: rows: \['a'\] does not fit"),
        ("test_clean:", "dev_clean:", "nothing is published of a set 'dev_clean'"),
        (
            "sure: derived",
            "sure: yes",
            "row llama: test_other: sure: True does not fit",
        ),
        ("sure: derived", "sure: certain", "'certain' does not fit; allowed: .*stated"),
        ("wer: 5.63", "wer: low", "wer: 'low' does not fit"),
        ("wer: 5.63", "wer: -1", "wer: -1 does not fit"),
        (", source: abstract}", "}", "no source in it"),
        (", source: abstract}", ", from: x}", "unknown key 'from'"),
        ("best_of:", "best:", "unknown key 'best'.*'best_of'"),
        ("rows:\n  llama", "rows:\n llama: [\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, old, new, message):
    assert old in CONTENT
    path = file(tmp_path, CONTENT.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as e:
        read_published(path, KEYS)
    assert "published.yaml" in str(e.value) and "\n" not in str(e.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.yaml: cannot read"):
        read_published(tmp_path / "no.yaml", KEYS)
