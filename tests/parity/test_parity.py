"""Token parity with the released implementation, and batch invariance.

Why padding cannot leak, part by part: the Whisper encoder runs rows of equal padded
length together and the padding follows from the row's own length; the Q-Former reads
window after window and hides the frames a row does not have; the LM hides invalid
positions behind an attention mask and numbers positions by counting the valid ones;
the sampler looks at valid positions only and draws from a generator of the row's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from filecmp import cmpfiles
from pathlib import Path

import numpy as np
import pytest
import yaml
from check_parity import check

from espnet_llada.inference.loading import load_model
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.release.importing import ReleaseOptions, import_release

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference"
SHARED = HERE.parents[2] / "shared/parity"


def run(directory: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, HERE / "check_parity.py", directory],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )


def test_every_fifth_case_is_identical():
    report = check(REFERENCE, every=5)
    assert report.holds, report.lines()
    assert report.lines()[-1].startswith("parity: 28/28 cases identical, embeds d=")


@pytest.mark.slow
@pytest.mark.parametrize("directory", [REFERENCE, SHARED], ids=["shipped", "shared"])
def test_every_case_is_identical(directory):
    if directory == SHARED and not differ(SHARED, REFERENCE):
        pytest.skip("no ../shared/parity, or it is what is shipped")
    done = run(directory)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert last.startswith("parity: 136/136 cases identical, embeds d=")


def differ(directory: Path, other: Path) -> bool:
    """Whether a directory is there and has not got the files of another one."""
    files = [p.relative_to(other) for p in other.rglob("*") if p.is_file()]
    names = [str(file) for file in files if file.name != "README.md"]
    same, _, _ = cmpfiles(directory, other, names, shallow=False)
    return directory.exists() and len(same) < len(names)


@pytest.mark.slow
def test_the_check_can_fail(tmp_path):
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    outputs = json.loads((copy / "reference_outputs.json").read_text())
    outputs["cases"] = outputs["cases"][:3]
    outputs["cases"][1]["ids"][4] += 1
    outputs["cases"][2]["forwards"] += 1
    outputs["loss_cases"][1]["loss"] *= 1.01
    (copy / "reference_outputs.json").write_text(json.dumps(outputs))
    done = run(copy)
    assert done.returncode == 1
    assert "parity: 1/3 cases identical" in done.stdout
    assert "case 1 (decoding, audio a): token 4 of 32" in done.stdout
    assert "loss d=9.9e-03" in done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The parity model with audio vectors as a row's own duration has them."""
    out = tmp_path_factory.mktemp("parity") / "model"
    whisper, llada = str(REFERENCE / "whisper"), str(REFERENCE / "llada")
    options = ReleaseOptions(heads=4)
    import_release(REFERENCE / "checkpoint_best.pth", whisper, llada, out, options)
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["encoder_conf"] |= {"keep_padding": False, "pad_seconds": 0.0}
    config["postencoder_conf"]["drop_last_window"] = False
    (out / "own_duration.yaml").write_text(yaml.safe_dump(config))
    return load_model(out / "own_duration.yaml", out / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 6, "canvas_length": 24},
        {"strategy": "deliberation_low_confidence", "steps": 6},
        {"strategy": "deliberation_random", "steps": 6},
    ],
    ids=lambda o: o.get("strategy", "diffusion"),
)
def test_batch_invariance_of_64_utterances(model, options):
    rng = np.random.default_rng(0)
    ids = [f"utt{i}" for i in range(64)]
    speech = [
        rng.normal(0, 0.1, int(s * 16_000)).astype(np.float32)
        for s in rng.uniform(0.3, 4.0, 64)
    ]
    words = "THE PROGRAM IS FREE SOFTWARE AND COMES WITH NO WARRANTY".split()
    texts = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in ids]
    options = make_options(options)
    recognise = Transcriber(model, options, output_case="keep")

    def decode(order: list[int], batch: int) -> dict[str, str]:
        found = {}
        for start in range(0, 64, batch):
            rows = order[start : start + batch]
            given = [texts[i] for i in rows] if options.deliberates else None
            names = [ids[i] for i in rows]
            hypotheses = recognise([speech[i] for i in rows], names, given)
            found |= {n: h.text for n, h in zip(names, hypotheses, strict=True)}
        return found

    expected = decode(list(range(64)), 1)
    assert len(set(expected.values())) > 20  # not one text for all
    shuffled = rng.permutation(64).tolist()
    for order, batch in ((list(range(64)), 8), (list(range(64)), 32), (shuffled, 32)):
        assert decode(order, batch) == expected
