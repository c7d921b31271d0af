"""A sweep over tiny random models: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llada.bin import sweep
from espnet_llada.sweep.report import _entry
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

ROWS = """
baseline: llama
headline: [llama, steps4]
examples: [mask50, steps4]
rows:
  llama: {label: AR, system: llama, options: {canvas_length: 6}}
  steps{}:
    label: "steps: {}"
    group: Diffusion
    system: llada
    options: {canvas_length: 10, batch_size: 2}
    each: {steps: [1, 4]}
  mask{percent}:
    label: "{percent} % masked"
    group: Low confidence
    system: llada
    first_pass: llama
    options: {strategy: deliberation_low_confidence, steps: 3}
    each: {mask_ratio: [0.5, 1.0]}
"""
ENTRIES = ["llama", "steps1", "steps4", "mask50", "mask100"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    top, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("one", "two"):
        folder = top / name
        folder.mkdir()
        scp, text = "", ""
        for i in range(3):
            samples = rng.normal(0, 0.1, 8_000 + 3_000 * i).astype(np.float32)
            soundfile.write(folder / f"{name}{i}.wav", samples, 16_000)
            scp += f"{name}{i} {folder / name}{i}.wav\n"
            text += f"{name}{i} THE QUICK BROWN FOX\n"
        (folder / "wav.scp").write_text(scp)
        (folder / "text").write_text(text)
    return top


@pytest.fixture(scope="module")
def rows_yaml(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("conf") / "rows.yaml"
    path.write_text(ROWS)
    return path


def command(rows_yaml: Path, model_dir: Path, data: Path, out: Path) -> list[str]:
    options = {"model": model_dir, "data": data, "sets": "one two", "output": out}
    words = [str(word) for k, v in options.items() for word in (f"--{k}", v)]
    return [str(rows_yaml), *words]


@pytest.fixture(scope="module")
def done(rows_yaml, model_dir, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exp") / "mini"
    sweep.main(command(rows_yaml, model_dir, data, out))
    return out


def test_segments_and_commands_are_refused(rows_yaml, model_dir, data, tmp_path):
    """Before anything is decoded."""
    ran, copy, out = tmp_path / "ran", tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    cmd = command(rows_yaml, model_dir, copy, out)
    (copy / "two/segments").write_text("u1 two0 0.0 0.3\n")
    with pytest.raises(UserError, match="two/segments: not supported here"):
        sweep.main(cmd)
    (copy / "two/segments").unlink()
    (copy / "two/utt2spk").write_text("two0 s\n")
    with pytest.raises(UserError, match="utt2spk: no speaker for utterance two1"):
        sweep.main(cmd)
    (copy / "two/utt2spk").unlink()
    scp = (copy / "two/wav.scp").read_text().replace("two1 ", f"two1 touch {ran}; cat ")
    (copy / "two/wav.scp").write_text("\ufeff" + scp.replace("two1.wav", "two1.wav |"))
    with pytest.raises(UserError, match=r"two/wav\.scp: 'two1' is a pipe"):
        sweep.main(cmd)
    assert not ran.exists() and not out.exists()
    rows = ["--rows", "llama", "--allow_pipes", "true"]
    rows_yaml = tmp_path / "one.yaml"
    rows_yaml.write_text("rows:\n  llama: {label: AR, system: llama}\n")
    sweep.main(command(rows_yaml, model_dir, copy, out) + rows)
    assert ran.exists()
    assert (out / "llama/two/logdir/output.1/failed").read_text() == ""


def texts(out: Path) -> dict[str, bytes]:
    return {
        f"{r}/{s}": (out / r / s / "text").read_bytes()
        for r in ENTRIES
        for s in ("one", "two")
    }


def test_what_it_writes(done):
    numbers = json.loads((done / "results.json").read_text())
    assert len(numbers) == len(ENTRIES) * 3
    spent = {r["system"]: r["passes"] for r in numbers if r["set"] == "all sets"}
    assert spent["steps: 1"] == 1.0 and 1.0 < spent["steps: 4"] <= 4.0
    assert all(r["rtf"] > 0 for r in numbers)
    tables = (done / "RESULTS.md").read_text()
    assert "| **Diffusion** |" in tables and "## Each set" in tables
    page = (done / "report.html").read_text()
    assert page.count('class="passes"') >= 2 and "50 % masked" in page
    assert (done / "figures/wer_mask_ratio.png").is_file()


def test_what_is_decoded_is_kept_and_the_rest_is_not(
    done, rows_yaml, model_dir, data, tmp_path
):
    before, seconds = (
        texts(done),
        done / "steps4/two/logdir/output.1/1best_recog/seconds",
    )
    kept = {p: p.stat().st_mtime_ns for p in done.glob("*/*/text")}
    lines = seconds.read_text().splitlines(keepends=True)
    seconds.write_text("".join(lines[:2]) + lines[2][:3])  # as a kill leaves it
    sweep.main(command(rows_yaml, model_dir, data, done))
    assert texts(done) == before
    now = {p: p.stat().st_mtime_ns for p in kept}
    assert [p for p in kept if now[p] != kept[p]] == [done / "steps4/two/text"]
    assert seconds.read_text().startswith("".join(lines[:2]))


def test_some_rows_and_their_first_pass(rows_yaml):
    some = read_sweep(rows_yaml).only(["mask50"])
    assert [row.key for row in some.rows] == ["llama", "mask50"]
    assert (some.headline, some.examples) == (("llama",), ("mask50",))
    with pytest.raises(UserError, match=r"--rows mask5: .*'mask50'"):
        read_sweep(rows_yaml).only(["mask5"])


EXTENDED = """
rows:
  draft{percent}:
    system: llada
    config: draft.yaml
    options: {joint: false, rescoring: true}
    each: {mask_ctc.mask_ratio: [0.1, 0.3]}
  joint{}:
    system: llada
    config: draft.yaml
    each: {joint.weight: [0, 2]}
"""


def test_rows_over_options_of_extensions(tmp_path):
    """A config's group, changed by options and by what each row has of its own."""
    config = "{mask_ctc: {mask_threshold: 0.5}, joint: {weight: 0.5}}"
    (tmp_path / "draft.yaml").write_text(config)
    (tmp_path / "rows.yaml").write_text(EXTENDED)
    rows = read_sweep(tmp_path / "rows.yaml").rows
    drafts = [row.options.extensions for row in rows[:2]]
    assert [{*given} for given in drafts] == [{"mask_ctc", "rescoring"}] * 2
    assert [given["mask_ctc"].mask_ratio for given in drafts] == [0.1, 0.3]
    assert {given["mask_ctc"].mask_threshold for given in drafts} == {0.5}
    assert [row.options.extensions["joint"].weight for row in rows[2:]] == [0, 2]
    # A curve is over an extension's option as over the paper's of that name.
    axes = [(entry.axis, entry.value) for entry in map(_entry, rows)]
    assert axes[:2] == [("mask_ratio", 0.1), ("mask_ratio", 0.3)]
    assert axes[2:] == [("weight", 0.0), ("weight", 2.0)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline:", "base:", "unknown key 'base'.*'baseline'"),
        ("baseline: llama", "baseline: lama", "no row 'lama'.*'llama'"),
        ("group: Diffusion", "grup: x", r"row steps\{\}: unknown key 'grup'.*'group'"),
        ("{steps: [1, 4]}", "{step: [1, 4]}", "unknown key 'step'.*'steps'"),
        ("{steps: [1, 4]}", "{steps: [0]}", r"steps: 0\): steps: 0 does not fit"),
        ("{steps: [1, 4]}", "{steps: x}", r"each\[...\]: .*'x'.* allowed: a list"),
        ("label: AR, system: llama", "label: AR, system: gpt", "system: 'gpt'"),
        ("first_pass: llama", "first_pass: mask50", "no row 'mask50' above"),
        ("first_pass: llama", "runtime: plain", r"needs first_pass"),
        ("system: llama,", "system: llama, config: no.yaml,", "no.yaml: cannot read"),
        (
            "system: llama, options: {",
            "system: llada, options: {beam_size: 2, ",
            "beam",
        ),
        ("llama: {label: AR", "'': {label: AR", "the key .* names no directory"),
        ('"steps: {}"', "same", "label 'same' is given twice"),
        ("batch_size: 2", "refine: 2", "options: .*'refine' .*draft_refinement.rounds"),
        ("batch_size: 2", "joint: {wieght: 2}", "joint: unknown key 'wieght'"),
        ("batch_size: 2", "joint: 2", "joint: 2 does not fit; allowed: 'option"),
        (
            "{mask_ratio: [",
            "{joint.weigth: [",
            r"joint: unknown key 'weigth' .*'weight'",
        ),
        (
            "{mask_ratio: [",
            "{mask_below: [",
            "'mask_below' .*confidence.mask_threshold",
        ),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line(tmp_path, old, new, message):
    path = tmp_path / "bad.yaml"
    assert old in ROWS
    path.write_text(ROWS.replace(old, new, 1).replace("group: Low", "group: Low"))
    with pytest.raises(UserError, match=message) as e:
        read_sweep(path)
    assert "bad.yaml" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.slow
def test_kill_9_and_two_processes(done, rows_yaml, model_dir, data, tmp_path):
    out, repo = tmp_path / "out", Path(__file__).resolve().parents[2]
    cmd = [sys.executable, "-m", "espnet_llada.bin.sweep"]
    cmd += [*command(rows_yaml, model_dir, data, out), "--nj", "2"]
    env = {**os.environ, "PYTHONPATH": str(repo)}
    process = subprocess.Popen(cmd, env=env, start_new_session=True)
    while process.poll() is None and not list(out.glob("*/*/text")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = subprocess.run(cmd, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert texts(out) == texts(done)
