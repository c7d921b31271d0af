"""A sweep over transcripts that are given, beside what is published."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llada.bin import bench, sweep
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

ROWS = """
baseline: first_pass
published: published.yaml
rows:
  first_pass: {label: another system, group: First pass, system: text}
  llama: {label: AR, system: llama, options: {canvas_length: 6}}
  random{percent}:
    label: "random masking of {percent} %"
    system: llada
    first_pass: first_pass
    options: {strategy: deliberation_random, steps: 2}
    each: {mask_ratio: [0.5, 1.0]}
"""
PUBLISHED = """
rows: {llama: {test_other: {wer: 5.63, sure: derived, source: its abstract}}}
best_of:
  best cascade:
    rows: [random50, random100]
    sets: {test_clean: {wer: 2.25, sure: stated, source: its abstract}}
"""
SETS = ("test_clean", "test_other")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    top, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in SETS:
        folder = top / name
        folder.mkdir()
        lines: dict[str, list[str]] = {"wav.scp": [], "text": []}
        for i in range(3):
            utt, samples = f"{name}{i}", rng.normal(0, 0.1, 8_000 + 3_000 * i)
            soundfile.write(folder / f"{utt}.wav", samples.astype(np.float32), 16_000)
            lines["wav.scp"].append(f"{utt} {folder / utt}.wav\n")
            lines["text"].append(f"{utt} THE QUICK BROWN FOX\n")
        for file, content in lines.items():
            (folder / file).write_text("".join(content))
    return top


def transcripts(name: str, words: str = "THE  QUICK DOG") -> str:
    """Out of order, and with a line that no set needs."""
    lines = [f"{name}{i} {words}" for i in (2, 0, 1, 7)]
    lines[1] = f"{name}0"  # nothing was heard
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "first.txt"
    path.write_text("".join(map(transcripts, SETS)))
    return path


@pytest.fixture
def rows_yaml(tmp_path) -> Path:
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS)
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    return path


@pytest.fixture
def command(rows_yaml, model_dir, data, tmp_path) -> list[str]:
    options = {"model": model_dir, "data": data, "output": tmp_path / "out"}
    words = [str(word) for k, v in options.items() for word in (f"--{k}", v)]
    return [str(rows_yaml), *words, "--sets", " ".join(SETS)]


def test_from_a_text_to_tables(command, text, tmp_path):
    out = tmp_path / "out"
    sweep.main([*command, "--first_pass", str(text)])
    copied = (out / "first_pass/test_clean/text").read_text()
    assert copied == (
        "test_clean0\ntest_clean1 THE  QUICK DOG\ntest_clean2 THE  QUICK DOG\n"
    )
    tables = (out / "RESULTS.md").read_text()
    line = re.search(r"\| another system .*", tables)[0]
    assert line.count("| -") == 2, "neither passes nor time"
    section = tables.partition("## Published and measured")[2].splitlines()
    published = [tuple(c.strip() for c in row.split("|")[1:]) for row in section[4:]]
    heads = ("system", "set", "published %", "WER raw % [95% CI]")
    assert published[0][:4] == heads and "WER norm" in published[0][4]
    assert published[2][:3] == ("AR", "test_other", "5.63")
    assert published[2][5:7] == ("no", "derived: its abstract")
    best = "best cascade; of 2 rows here: random masking of"
    assert published[3][0].startswith(best) and published[3][1:3] == (
        "test_clean",
        "2.25",
    )
    assert len(published) == 4
    page = (out / "report.html").read_text()
    assert 'id="published"' in page and "best cascade; of 2 rows" in page
    # Again: nothing is decoded or copied; another first pass: what depends on it is.
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/*/text")}
    sweep.main([*command, "--first_pass", str(text)])
    assert times == {p: p.stat().st_mtime_ns for p in times}
    text.write_text(text.read_text().replace("test_other2 THE", "test_other2 A"))
    sweep.main([*command, "--first_pass", str(text)])
    changed = {p.parent for p in times if times[p] != p.stat().st_mtime_ns}
    rows = ("first_pass", "random50", "random100")
    assert changed == {out / row / "test_other" for row in rows}


def test_a_directory_of_sets_and_only_some_rows(command, tmp_path):
    given, out = tmp_path / "given", tmp_path / "out"
    for name in SETS:
        (given / name).mkdir(parents=True)
        (given / name / "text").write_text(transcripts(name, "A DOG"))
    rows = ["--rows", "random* !random100", "--first_pass", str(given)]
    sweep.main([*command, *rows])
    assert {p.name for p in out.iterdir() if (p / "test_clean/text").is_file()} == {
        "first_pass",
        "random50",
    }
    assert "test_other1 A DOG\n" in (out / "first_pass/test_other/text").read_text()
    assert "AR" not in (out / "RESULTS.md").read_text()
    shutil.rmtree(given / "test_other")
    with pytest.raises(UserError, match=r"given/test_other/text: cannot read it"):
        sweep.main([*command, *rows])


def test_the_first_pass_may_be_a_row_that_was_decoded_before(command, tmp_path):
    out = tmp_path / "out"
    sweep.main([*command, "--rows", "llama"])
    sweep.main([*command, "--first_pass", str(out / "llama")])
    for name in SETS:
        texts = [out / row / name / "text" for row in ("llama", "first_pass")]
        one, other = ([w.split() for w in p.open()] for p in texts)
        assert one == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], r"rows\.yaml: row first_pass: .*add --first_pass"),
        (["--rows", "llama", "--first_pass", "{text}"], "no row of system: text"),
        (["--first_pass", "{text}.no"], r"first\.txt\.no: cannot read it"),
        (["--first_pass", "{short}"], "no transcript for 1 .*'test_other2'"),
        (["--first_pass", "{empty}"], "empty: the file is empty"),
        (["--rows", "random* !r*", "--first_pass", "{text}"], "leaves no row"),
        (["--rows", "!rand", "--first_pass", "{text}"], "--rows !rand: no such row"),
    ],
)
def test_what_lacks_is_said_before_anything_runs(
    command, text, tmp_path, change, message
):
    files = {name: tmp_path / name for name in ("short", "empty")}
    lines = text.read_text().splitlines(keepends=True)
    files["short"].write_text("".join(x for x in lines if "other2" not in x))
    files["empty"].write_text("")
    change = [word.format(text=text, **files) for word in change]
    with pytest.raises(UserError, match=message) as e:
        sweep.main([*command, *change])
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_system_is_refused(command, model_dir, text, tmp_path):
    """Of a directory with one model every system would find that."""
    words = [w.replace(str(model_dir), str(model_dir / "llada")) for w in command]
    given = ["--first_pass", str(text)]
    with pytest.raises(UserError, match=r"a llada where rows need a llama"):
        sweep.main([*words, *given])
    assert not (tmp_path / "out").exists()
    sweep.main([*words, *given, "--rows", "!llama !random100"])
    assert (tmp_path / "out/random50/test_other/text").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("system: text}", "system: text, options: {steps: 2}}", "takes no options"),
        ("system: text}", "system: text, options: {batch_size: 2}}", "takes no option"),
        ("system: text}", "system: text, first_pass: llama}", "takes no first_pass"),
        ("system: text}", "system: text, weights: int8}", "for our greedy decoding"),
        ("published: pub", "published: no", r"nolished\.yaml: cannot read"),
        ("  llama:", "  lama:", r"published\.yaml: rows: .* no row 'llama'.*'lama'"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line(rows_yaml, old, new, message):
    assert old in ROWS
    rows_yaml.write_text(ROWS.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as e:
        read_sweep(rows_yaml)
    assert "\n" not in str(e.value)


def test_nothing_is_compared_where_no_file_is_named(command, text, rows_yaml, tmp_path):
    rows_yaml.write_text(ROWS.replace("published: published.yaml\n", ""))
    given = ["--rows", "llama first_pass", "--first_pass", str(text)]
    sweep.main([*command, *given])
    for name in ("RESULTS.md", "report.html"):
        assert "ublished" not in (tmp_path / "out" / name).read_text()


def test_bench_leaves_it_out(rows_yaml, model_dir, data, tmp_path, caplog):
    rows_yaml.write_text("rows:\n  given: {label: given, system: text}\n")
    options = ["--model", str(model_dir), "--data", str(data / "test_clean")]
    with pytest.raises(UserError, match="row given: system text decodes nothing"):
        bench.main([str(rows_yaml), *options, "--output", str(tmp_path / "out")])
