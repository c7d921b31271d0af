"""The bench over tiny random models: what it writes, what it counts, what it undoes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_llada.bench.material import material_of, repeats_of
from espnet_llada.bench.measure import Cell, Record, runs_of
from espnet_llada.bench.meter import STAGES, Meter, PeakMemory
from espnet_llada.bench.tables import markdown, ratio
from espnet_llada.bench.ways import Way, plain, released
from espnet_llada.bin import bench
from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.inference.options import DecodingOptions, make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.weights.assets import MINI
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.types import UserError

PEER = "faster_whisper"
ROWS = """
baseline: llama
rows:
  release:
    label: as released
    system: llada
    options: {profile: release, steps: 4, canvas_length: 8}
  llama: {label: '_AR $\\foo$', system: llama, options: {canvas_length: 6}}
  steps4: {label: four passes, system: llada, options: {steps: 4, canvas_length: 8}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(2):
        samples = rng.normal(0, 0.1, 6_400 + 800 * i).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", samples, 16_000)
    (folder / "wav.scp").write_text("".join(f"{i} {folder}/{i}.wav\n" for i in (0, 1)))
    (folder / "text").write_text("0 RED\n1 BLUE SKY\n")
    return folder


@pytest.fixture(scope="module")
def llada(model_dir):
    return load_model(*find_model(model_dir))


def test_what_it_writes(model_dir, data, tmp_path, capsys, monkeypatch):
    # Of no use here, and slow in a process that holds much else.
    monkeypatch.setattr("espnet_llada.bench.meter._return_free_memory", lambda: None)
    rows, out = tmp_path / "rows.yaml", tmp_path / "out"
    rows.write_text(ROWS)
    options = {"model": model_dir, "data": data, "output": out, "repeats": 2}
    options |= {"durations": "0.5 1", "batches": "1 3"}
    bench.main(
        [str(rows), *(str(w) for k, v in options.items() for w in (f"--{k}", v))]
    )
    content = json.loads((out / "bench.json").read_text())
    found = {(r["system"], r["seconds"], r["batch"]): r for r in content["records"]}
    assert len(found) == 2 * (1 + 2 + 2), "the release takes one utterance at a time"
    for record in found.values():
        assert len(record["total"]) == 2
        sums = np.sum([record["stages"][s] for s in STAGES], axis=0)
        assert (sums > 0).all() and (sums < record["total"]).all()
        assert min(record["flops"]["LLM"]) > 0
    assert found["steps4", 1.0, 1]["passes"] == [4.0] * 2
    padded, own = (
        found[key, 1.0, 1]["flops"]["encoder"][0] for key in ("release", "steps4")
    )
    assert padded > 3 * own
    said = found["steps4", 1.0, 1]["texts"]
    assert {name: texts[0] for name, texts in said.items()} == {"0+1": "RED BLUE SKY"}
    text = (out / "BENCH.md").read_text()
    assert "| four passes | 3 | 6 | " in text, "0, 1 and 0+1, all their words"
    assert text in capsys.readouterr().out and r"| _AR $\foo$ |" in text
    for name in ("stages", "batches"):
        assert (out / f"bench_{name}.png").stat().st_size > 1000


def test_each_repetition_decodes_speech_of_its_own(data):
    whole = [soundfile.read(data / f"{i}.wav", dtype="float32")[0] for i in (0, 1)]
    batches = material_of([data], 0.5, 2, 2)  # 4 of 2 recordings: again from the first
    assert [[p.name for p in batch] for batch in batches] == [["0", "1"]] * 2
    for piece, own in zip(batches[1], whole, strict=True):
        np.testing.assert_allclose(piece.samples[: len(own)], own, atol=1e-4)
        assert len(piece.samples) == 8000 and not piece.samples[len(own) :].any()
    ((joined,), _) = material_of([data], 1.0, 1, 2)
    assert (joined.name, joined.text) == ("0+1", "RED BLUE SKY")
    (noise,) = material_of([Path("noise")], 0.25, 2, 2)
    assert [len(piece.samples) for piece in noise] == [4000, 4000]
    with pytest.raises(UserError, match=r"no recordings of 0\.15 to"):
        material_of([data], 0.2, 1, 1)


def test_small_batches_are_repeated_more_often():
    assert [repeats_of(batch, 5, 48) for batch in (1, 4, 16)] == [48, 12, 5]


def test_a_peer_beside_ours():
    rows = [
        SweepRow(key, f"the {key}", "", system, DecodingOptions())
        for key, system in (("llama", "llama"), ("llada", "llada"), ("fw", PEER))
    ]
    texts = [{"a": ("RED SKY", text)} for text in ("RED SKY", "RED", "RED TOO")]
    records = [
        Record(Cell(row, 2.0, 1), [seconds] * 2, [0.2] * 2, said, passes=[1.0] * 2)
        for row, seconds, said in zip(rows, (0.1, 0.2, 0.1), texts, strict=True)
    ]
    for record in records:
        record.tokens = [2.0, 2.0]
    machine = {"gflops": 100.0, "gigabytes_per_second": 10.0, "dtype": "float32"}
    machine |= {"processor": "a CPU", "threads": 2, "versions": {}}
    lines = markdown(records, machine, "llama").splitlines()
    slower = "**0.50** [0.50, 0.50]"
    assert f"| the llada | 1 | the llama | {slower} |" in lines
    assert f"| the llada | 1 | the fw | {slower} |" in lines
    assert "| the fw | 1 | 100 (200), 50.00 |" in lines
    assert runs_of([r.cell for r in records], [Path("x")], 2, 5) == 3 * 5 + 5 + 5 + 1


def recognizer_of(way: Way, **options) -> Transcriber:
    return Transcriber(way.model, make_options(options), stages=way.stages)


def test_the_meter_leaves_the_model_as_it_was(llada):
    way = plain(llada)
    recognizer = recognizer_of(way, steps=3, canvas_length=5)
    speech = [np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)]
    expected = recognizer(speech, ["a"])
    with Meter(way, count_flops=True) as meter:
        assert recognizer(speech, ["a"]) == expected
    assert meter.calls == dict.fromkeys(STAGES, 1) | {"LLM": 3, "head": 3}
    spent = dict(meter.seconds)
    assert recognizer(speech, ["a"]) == expected and meter.seconds == spent


def test_a_stage_that_fails_ends(llada):
    way = plain(llada)
    with Meter(way) as meter:
        with pytest.raises(UserError, match="holds no samples"):
            llada.encoder(torch.zeros(1, 8), torch.tensor([0]))
        recognizer_of(way, steps=1)([np.ones(8000, np.float32)], ["a"])
    assert meter.calls["encoder"] == 2


def test_a_scorer_is_part_of_the_prefix():
    model = load_model(*find_model(MINI, "llada")).requires_grad_(False)
    way = plain(model)
    recognizer = recognizer_of(way, steps=2, joint={})
    speech = [np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)]
    expected = recognizer(speech, ["a"])
    with Meter(way, count_flops=True) as meter:
        assert recognizer(speech, ["a"]) == expected
    assert meter.calls["prefix"] > 1 and meter.flops["prefix"] > 0


def test_the_releases_way_gives_the_same_tokens_for_more_work(llada):
    options = {"profile": "release", "steps": 4, "canvas_length": 8}
    # 30 s, so that there is nothing to pad.
    speech = [np.random.default_rng(1).normal(0, 0.1, 480_000).astype(np.float32)]
    way = plain(llada)
    with Meter(way, count_flops=True) as own:
        expected = recognizer_of(way, **options)(speech, ["a"])
    way = released(llada)
    with Meter(way, count_flops=True) as wasteful:
        assert recognizer_of(way, **options)(speech, ["a"]) == expected
    assert wasteful.flops["head"] > 3 * own.flops["head"]
    assert way.model.encoder is not llada.encoder


def test_a_ratio_is_of_pairs():
    found = ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_work_that_no_repetition_has_had_yet_is_left_out():
    row = SweepRow("draft", "own draft", "", "llada", DecodingOptions())
    times = {stage: [0.1] for stage in STAGES} | {"LLM": [0.0]}
    work = ({stage: [number] for stage in STAGES} for number in (10**9, 10**6))
    work = dict(zip(("flops", "weights"), work, strict=True))
    cell = Cell(row, 2.0, 1)
    record = Record(cell, [1.0], stages=times, passes=[0.0], tokens=[5.0], **work)
    machine = {"gflops": 100.0, "gigabytes_per_second": 10.0, "dtype": "float32"}
    machine |= {"processor": "a CPU", "threads": 2, "versions": {}}
    text = markdown([record], machine, None)
    assert "| encoder | 1.00 | 1 | 10.0 | 100.0 | 10 % |" in text
    assert "| LLM | 1.00" not in text


def test_peak_memory_sees_what_was_there_for_a_moment():
    with PeakMemory() as memory:
        torch.ones(2**24).sum()  # 64 MiB
    assert 50 < memory.mebibytes < 200


def test_what_does_not_fit_is_refused(data, tmp_path):
    rows = tmp_path / "rows.yaml"
    more = "  d: {label: d, system: llada, first_pass: llama, "
    rows.write_text(ROWS + more + "options: {strategy: deliberation_random}}\n")
    command = [str(rows), "--data", str(data), "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="row d: bench measures no first pass; drop it"):
        bench.main(command)
    with pytest.raises(
        UserError, match=r"--durations: 0 does not fit; allowed: a number >= 0\.01"
    ):
        bench.main([*command, "--durations", "0"])
    with pytest.raises(UserError, match="no such row"):
        bench.main([*command, "--rows", "x"])
