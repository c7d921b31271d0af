"""The bench of random weights, on tiny shapes: the whole way, and what it refuses."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import yaml

from espnet_llada.bench import fixed, measure, meter, systems, training
from espnet_llada.bench.meter import model_bytes
from espnet_llada.bench.random_model import empty_model, random_model
from espnet_llada.bin import bench, sweep
from espnet_llada.build import compile_layers
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

ROWS = """
baseline: llama
train_configs: {llada: llada.yaml, llama: llama.yaml}
rows:
  release:
    label: as released
    system: llada
    options: {profile: release, steps: 4, canvas_length: 8}
  llama:
    label: AR
    system: llama
    options: &sized {canvas_length: 64, canvas_size: {tokens_per_second: 6}}
  static: {label: AR static, system: llama, options: *sized, runtime: static}
  compile: {label: AR compiled, system: llama, options: *sized, runtime: compile}
  steps{}: {label: "{} passes", system: llada, options: *sized, each: {steps: [1, 3]}}
  fixed:
    label: three passes, compiled
    system: llada
    options: &same {canvas_length: 64, canvas_size: {tokens_per_second: 6}, steps: 3}
    runtime: compile
  cached: {label: prefix cached, system: llada, options: *same, cached_prefix: true}
  cached_fixed:
    label: prefix cached, compiled
    system: llada
    options: *same
    cached_prefix: true
    runtime: compile
"""
INT8 = "  int8: {label: int8, system: llada, options: {steps: 2}, weights: int8}\n"
GRAPH = "  graph: {label: graph, system: llama, runtime: graph}\n"


@pytest.fixture()
def rows(configs, tmp_path, monkeypatch):
    for name, config in configs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS)
    # Dynamo traces as it does for the real backend, which takes long to generate code.
    monkeypatch.setattr(fixed.fixed, "__defaults__", ("eager",))
    # Of no use here, and slow in a process that holds much else.
    monkeypatch.setattr(meter, "_return_free_memory", lambda: None)
    return path


def command(rows, tmp_path, *more):
    out = tmp_path / "out"
    cmd = [str(rows), "--model", "random", "--data", "noise", "--output", str(out)]
    return [*cmd, "--durations", "2", "--repeats", "2", *more], out


def test_the_whole_way(rows, tmp_path, capsys):
    cmd, out = command(rows, tmp_path, "--batches", "1 3")
    bench.main(cmd)
    content = json.loads((out / "bench.json").read_text())
    assert content["machine"]["dtype"] == "bfloat16"
    found = {(r["system"], r["seconds"], r["batch"]): r for r in content["records"]}
    assert len(found) == 1 + 2 * 8
    for (system, seconds, _), record in found.items():
        assert len(record["total"]) == 2 and not record["failed"]
        assert record["model"] > 0
        ran = system in ("static", "compile", "fixed", "cached_fixed")
        assert any(record["flops"]["LLM"]) != ran, "counted in the plain rows only"
        assert all(s > 0 for s in record["stages"]["LLM"])
        if system in ("llama", "static", "compile"):
            tokens = int(6 * seconds)
            assert record["passes"] == record["tokens"] == [tokens] * 2
        elif system != "release":
            assert record["passes"] == [{"steps1": 1}.get(system, 3)] * 2
            assert record["tokens"] == [6 * seconds + 2] * 2
    assert found["release", 2.0, 1]["passes"] == [4] * 2
    padded, own = (
        found[key, 2.0, 1]["flops"]["encoder"][0] for key in ("release", "steps1")
    )
    assert padded > 5 * own, "the release alone pads"
    work = [found[key, 2.0, 1]["flops"]["LLM"][0] for key in ("cached", "steps3")]
    assert work[0] < 0.6 * work[1], "the prefix once, not in each pass"
    text = (out / "BENCH.md").read_text()
    assert text in capsys.readouterr().out and "Left out" not in text
    assert "GFLOP/s in bfloat16" in text


def test_a_cell_that_cannot_run_is_left_out(rows, tmp_path, monkeypatch, caplog):
    def failing(self, memory, run):
        if memory.rows > 1:
            raise RuntimeError("no compiler\nmore of it")
        return run()

    monkeypatch.setattr(fixed.FixedPasses, "forward", failing)
    cmd, out = command(rows, tmp_path, "--batches", "1 2", "--rows", "llama fixed")
    bench.main(cmd)
    text = (out / "BENCH.md").read_text()
    line = "- three passes, compiled, 2 s, batch 2: RuntimeError: no compiler"
    assert line in text.splitlines()
    assert "| three passes, compiled |" in text, "batch 1 is there"
    assert "more of it" not in caplog.text


def test_what_is_measured_so_far_is_on_disk(rows, tmp_path, monkeypatch):
    seen = []
    attempt = measure._attempt

    def killed(record, run, speech, warm_up):
        path = tmp_path / "out/bench.json"
        if path.exists():
            seen.extend(json.loads(path.read_text())["records"])
            raise KeyboardInterrupt
        attempt(record, run, speech, warm_up)

    monkeypatch.setattr(measure, "_attempt", killed)
    monkeypatch.setattr(bench, "_WRITTEN_EVERY", 0.0)
    cmd, out = command(rows, tmp_path, "--batches", "1", "--rows", "llama steps1")
    with pytest.raises(KeyboardInterrupt):
        bench.main(cmd)
    assert len(seen) == 1 and len(seen[0]["total"]) == 1
    assert "| tokens a pass |" in (out / "BENCH.md").read_text()


def test_one_speech_is_finished_before_the_next(rows, tmp_path, monkeypatch):
    attempt = measure._attempt

    def killed(record, run, speech, warm_up):
        if record.cell.seconds == 2.0:
            raise KeyboardInterrupt
        attempt(record, run, speech, warm_up)

    monkeypatch.setattr(measure, "_attempt", killed)
    monkeypatch.setattr(bench, "_WRITTEN_EVERY", 0.0)
    cmd, out = command(rows, tmp_path, "--batches", "1", "--rows", "llama steps1")
    with pytest.raises(KeyboardInterrupt):
        bench.main([*cmd, "--durations", "1 2"])
    found = json.loads((out / "bench.json").read_text())["records"]
    assert [(r["seconds"], len(r["total"])) for r in found] == [(1.0, 2), (1.0, 2)]


def test_a_training_step_each_way(rows, configs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "BACKEND", "eager")
    monkeypatch.setattr(
        training, "kernels_of", lambda step: (step(), (1234, 0.0567))[1]
    )
    cmd, out = command(rows, tmp_path, "--training")
    bench.main(cmd)
    content = json.loads((out / "training.json").read_text())
    release, ours, compiled = content["steps"]
    assert [step["way"] for step in content["steps"]] == [*training.WAYS]
    assert len(ours["times"]) == len(compiled["times"]) == 2
    assert ours["seconds"] == 2.0 and ours["positions"] == compiled["positions"]
    # 100 and 1500 frames in windows of 17, 4 vectors each, behind the prompt.
    assert release["positions"] - ours["positions"] == 4 * (89 - 6)
    text = (out / "TRAINING.md").read_text()
    assert text in capsys.readouterr().out and text.count("| 1234 | 56.7 |") == 3


def test_without_a_compiler_two_ways_are_left(rows, tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no compiler here\nat all")

    monkeypatch.setattr(training, "BACKEND", broken)
    cmd, out = command(rows, tmp_path, "--training")
    bench.main(cmd)
    table = (out / "TRAINING.md").read_text()
    assert "| ours |" in table and "| compiled |" not in table
    assert "left out: compiled, 2 s:" in caplog.text


@pytest.mark.parametrize(
    "way", ["release", pytest.param("compiled", marks=pytest.mark.slow)]
)
def test_all_ways_are_one_loss_where_nothing_is_padded(configs, way):
    config = configs["llada"]
    config["encoder_conf"] |= {"dtype": "float32"}
    config["decoder_conf"] |= {"dtype": "float32"}
    model = random_model(config, "cpu", training=True)
    batch = training.batch_of(model, 30.0)

    def made(way):
        model.zero_grad()
        value, positions = training.loss_of(model, batch, way)
        value.backward()
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        return value, positions, trained

    ours, here, mine = made("ours")
    if way == "compiled":
        compile_layers(model.encoder, model.postencoder, model.decoder, "aot_eager")
    theirs, there, other = made(way)
    assert here == there
    assert any("lora_A" in name for name in mine)
    torch.testing.assert_close(ours, theirs)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-3)


def test_a_random_model_has_the_shapes_and_dtypes_of_a_trained_one(configs):
    for config in configs.values():
        model = random_model(config, "cpu")
        lm = model.decoder.lm
        assert lm.head.dtype == model.encoder.dtype == torch.bfloat16
        assert model.postencoder.queries.dtype == torch.float32
        assert not any("lora_" in name for name, _ in model.named_parameters())
        assert torch.isfinite(lm.body.rotary_emb.inv_freq).all()
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert lm.body.config.tie_word_embeddings == (lm.head is lm.embedding.weight)
        again = random_model(config, "cpu")
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("twin", "heads"), [("llada", 32), ("llama3", 8)])
def test_the_paper_s_sizes(repo, twin, heads):
    config = yaml.safe_load(
        (repo / f"conf/train_asr_whisper_{twin}_8b.yaml").read_text()
    )
    model = empty_model(config)
    assert {p.device.type for p in model.decoder.lm.parameters()} == {"meta"}
    assert round(model_bytes(model.encoder) / 2e9, 2) == 0.64
    assert 16.0 < model_bytes(model.decoder.lm) / 1e9 < 16.1
    assert model.decoder.lm.body.config.num_key_value_heads == heads
    assert (model.encoder.config.n_mels, model.encoder.keep_padding) == (128, False)
    assert model.encoder.padded_samples(118_400) == 128_000, "8 s for 7.4 s"
    assert model.postencoder.window == 17 and len(model.postencoder.layers) == 2


def test_the_rows_of_the_full_size_bench(repo):
    rows = read_sweep(repo / "conf/bench_8b.yaml")
    assert all(path.is_file() for path in rows.train_configs.values())
    cells = measure.cells_of(rows.rows, [7.4, 30.0], [1, 16])
    lengths = {
        (c.row.key, c.seconds): c.row.options.sampler.canvas_length for c in cells
    }
    for key in ("llama", "llama_static", "llama_graph", "llama_compile"):
        assert (lengths[key, 7.4], lengths[key, 30.0]) == (44, 180)
    assert rows.baseline == "llama_compile"


def test_eos_never_comes(configs):
    speech = [np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)]
    for system, config in configs.items():
        model = random_model(config, "cpu")
        options = make_options({"steps": 7, "canvas_length": 50})
        (hypothesis,) = Transcriber(model, options)(speech, ["a"])
        assert hypothesis.passes == {"llada": 7, "llama": 50}[system]
        assert len(hypothesis.token_ids) == 50


def test_rows_that_cannot_be_measured_here(rows, tmp_path, monkeypatch, caplog):
    rows.write_text(ROWS + INT8 + GRAPH)
    monkeypatch.setattr(systems.importlib.util, "find_spec", lambda name: None)
    cmd, _ = command(rows, tmp_path)
    message = "row int8: weights int8 needs the package torchao; install it"
    with pytest.raises(UserError, match=message):
        bench.main([*cmd, "--rows", "llama int8"])
    with pytest.raises(UserError, match="row graph: runtime graph needs --device cuda"):
        bench.main([*cmd, "--rows", "graph"])
    called = []
    monkeypatch.setattr(
        "espnet_llada.bench.measure.cells_of", lambda r, *_: called.extend(r) or []
    )
    with caplog.at_level(logging.WARNING):
        bench.main(cmd)
    assert message in caplog.text and "row graph" in caplog.text
    assert "int8" not in [row.key for row in called] and len(called) == 9


def test_int8_weights_take_half_the_memory(configs):
    pytest.importorskip("torchao")
    full, small = (random_model(configs["llada"], "cpu") for _ in range(2))
    systems.in_int8(small)
    layers = sum(p.numel() for p in full.decoder.lm.body.layers.parameters())
    saved = model_bytes(full) - model_bytes(small)
    assert 0.6 * layers < saved < layers, "a byte a weight, less the scales"
    speech = [np.zeros(8_000, np.float32)]
    (hypothesis,) = Transcriber(small, make_options({"steps": 2}))(speech, ["a"])
    assert hypothesis.passes == 2


def test_what_does_not_fit_is_refused(rows, configs, tmp_path):
    cmd, _ = command(rows, tmp_path)
    rows.write_text(ROWS.replace("train_configs", "# "))
    with pytest.raises(UserError, match=r"rows.yaml: no train_configs.*add them"):
        bench.main(cmd)
    rows.write_text(ROWS.replace("llama.yaml", "none.yaml"))
    with pytest.raises(UserError, match=r"none.yaml: cannot read it"):
        bench.main(cmd)
    rows.write_text(ROWS.replace("runtime: static", "runtime: fast"))
    with pytest.raises(UserError, match="row static: runtime: 'fast' does not fit"):
        bench.main(cmd)
    rows.write_text(ROWS.replace("steps: 4,", "steps: 4, x: 1,"))
    with pytest.raises(UserError, match="row release: options: unknown key 'x'"):
        bench.main(cmd)
    last = "options: *same, cached_prefix: true"
    rows.write_text(ROWS.replace(last, "options: {beam_size: 2}"))
    with pytest.raises(UserError, match=r"row cached: beam_size 2 needs system"):
        bench.main(cmd)
    rows.write_text(ROWS.replace("cached_prefix: true", "cached_prefix: 2"))
    with pytest.raises(UserError, match="cached_prefix: 2 does not fit; allowed: true"):
        bench.main(cmd)
    causal = "system: llama, options: *sized, runtime: static"
    rows.write_text(ROWS.replace(causal, f"{causal}, cached_prefix: true"))
    with pytest.raises(
        UserError, match="row static: cached_prefix needs system: llada"
    ):
        bench.main(cmd)
    rows.write_text(ROWS)
    with pytest.raises(UserError, match="row static: runtime, weights,"):
        sweep.main([str(rows), "--data", "d", "--sets", "s", "--output", "o"])
    configs["llada"]["decoder_conf"]["ctc"] = {"weight": 0.3}
    with pytest.raises(UserError, match="not for decoder_conf ctc"):
        random_model(configs["llada"], "cpu")
