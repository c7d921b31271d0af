"""Passes against the samplers, FLOPs against torch, times against a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_llada.bench.random_model import random_model
from espnet_llada.bin import plan as command
from espnet_llada.build import build_model
from espnet_llada.core.canvas import blank_canvas, transcript_canvas
from espnet_llada.core.sampler import sample
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.networks.features import N_FFT
from espnet_llada.plan import architectures, decoding, meta_model
from espnet_llada.plan.meta_model import Load
from espnet_llada.release.sampler import sample as release_sample
from espnet_llada.sweep.rows import BenchSetup, Decoding, SweepRow, read_sweep
from espnet_llada.types import SpecialTokens, UserError

REPO = Path(__file__).resolve().parents[2]
PAPER = REPO / "conf/sweep_paper.yaml"
ROWS, SECONDS, TOKENS = 2, 4.0, 13
RELEASE = {"profile": "release"}
DIFFUSION = [
    {"steps": 5, "canvas_length": 12},
    {"steps": 32, "canvas_length": 12},
    {"strategy": "semi_ar", "num_blocks": 3, "steps": 7, "canvas_length": 13},
    {"strategy": "semi_ar", "num_blocks": 9, "steps": 4, "canvas_length": 13},
    {**RELEASE, "steps": 5, "canvas_length": 12},
    {
        **RELEASE,
        "strategy": "semi_ar",
        "num_blocks": 4,
        "steps": 8,
        "canvas_length": 12,
    },
]
DELIBERATION = [
    {**profile, "strategy": f"deliberation_{strategy}", "steps": steps, **more}
    for profile in ({}, RELEASE)
    for steps in (3, 32)
    for strategy, more in (
        ("random", {"mask_ratio": 0.5}),
        ("random", {"mask_ratio": 0.01}),
        ("low_confidence", {"mask_ratio": 0.3}),
        ("low_confidence", {"mask_ratio": 0.01}),
        ("semi_ar", {"num_blocks": 1}),
        ("semi_ar", {"num_blocks": 4}),
    )
]
DELIBERATION += [
    {
        "strategy": "deliberation_low_confidence",
        "steps": 9,
        "tail": 3,
        "mask_ratio": 0.3,
        "confidence": {"passes": 2},
    }
]
STEPS = {"steps": 6, "canvas_length": 14}
CACHED = [
    {**STEPS, "block_cache": True},
    {**STEPS, "strategy": "semi_ar", "num_blocks": 3, "block_cache": True},
    {**DELIBERATION[2], "steps": 9, "block_cache": True},
    {**DELIBERATION[-1], "block_cache": True},
    {**STEPS, "canvas_size": {"tokens_per_second": 3}},
]


def row_of(system: str, values: dict, runtime: str = "plain") -> SweepRow:
    use_audio = values.get("use_audio", True)
    options = {k: v for k, v in values.items() if k != "use_audio"}
    given = "k", "label", "", system, make_options(options), Decoding(use_audio)
    return SweepRow(*given, bench=BenchSetup(runtime))


@pytest.fixture(scope="module")
def config(tiny_config) -> dict:
    decoder = {**tiny_config["decoder_conf"], "lora": None}
    qformer = {"hidden": 96, "heads": 4, "ffn": 192, "layers": 2, "dropout": 0.0}
    return {**tiny_config, "decoder_conf": decoder, "postencoder_conf": qformer}


@pytest.mark.parametrize("values", DIFFUSION + DELIBERATION[:-1], ids=str)
def test_passes_are_those_of_the_sampler(config, values):
    """Also what each of them asks for."""
    row, special = row_of("llada", values), SpecialTokens(mask=3, eos=2)
    options, seen = row.options.sampler, []

    def logits_fn(tokens, wanted):
        seen.append(int(wanted.sum()))
        logits = torch.randn(seen[-1], 50)
        logits[:, [special.mask, special.eos]] = -torch.inf  # EOS comes last
        return logits

    canvas = blank_canvas([options.canvas_length], special)
    if options.deliberates:
        canvas = transcript_canvas([list(range(5, 5 + TOKENS))], special, options.tail)
    fill = release_sample if row.options.profile == "release" else sample
    result = fill(logits_fn, canvas, options, special, [1])
    load = Load(1, SECONDS, TOKENS)
    found = decoding.passes(row, meta_model.build(config), load)
    assert [one.scored for one in found] == seen
    assert len(found) == int(result.passes[0])


@pytest.mark.parametrize(
    ("system", "values", "extension"),
    [
        *(("llada", values, {}) for values in [DIFFUSION[0], *DELIBERATION[:6]]),
        *(("llada", values, {}) for values in [*CACHED, *DELIBERATION[-2:]]),
        ("llada", {**DELIBERATION[2], "use_audio": False}, {}),
        *(
            ("llada", values, {"cached_prefix": True})
            for values in [STEPS, *CACHED[1:4]]
        ),
        ("llada", STEPS, {"ctc": {"weight": 0.3, "head": "lm"}}),
        ("llama", {"canvas_length": 9}, {}),
        ("llama", {"canvas_length": 9, "beam_size": 2}, {}),
    ],
    ids=str,
)
def test_the_formulas_give_what_torch_counts(
    config, system, values, extension, monkeypatch
):
    """Of a whole batch, waveforms to tokens, by the model that ``bench`` measures."""
    conf = {**config["decoder_conf"], **extension}
    config = {**config, "decoder": system, "decoder_conf": conf}
    row, network = row_of(system, values), meta_model.build(config)
    if "ctc" in extension:
        model = build_model(config).eval()
        length = len(model.decoder.prompt_ids)
        for module in (meta_model, decoding):
            monkeypatch.setattr(module, "PROMPT_TOKENS", length)
    else:
        model = random_model(config, "cpu")
    recognizer = Transcriber(model, row.options, row.decoding.use_audio).recognizer
    rng = np.random.default_rng(0)
    speech = [
        rng.normal(0, 0.1, int(SECONDS * 16_000)).astype(np.float32)
        for _ in range(ROWS)
    ]
    ids, texts = ["a", "b"], [list(range(5, 5 + TOKENS))] * ROWS
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if row.options.deliberates:
            audio = speech if row.decoding.use_audio else None
            result = recognizer.deliberate(audio, ids, texts)
        else:
            result = recognizer.decode(speech, ids)
    load = Load(ROWS, SECONDS, TOKENS)
    planned = ROWS * sum(decoding.flops(row, network, load).values())
    assert planned == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert result.passes.tolist() == [len(decoding.passes(row, network, load))] * ROWS


def test_whispers_own_decoder(config):
    whisper = pytest.importorskip("whisper")
    encoder = {"encoder_conf": {"whisper": "whisper-tiny"}}
    network = meta_model.build({**config, **encoder})
    sizes = network.encoder.config
    width = sizes.d_model, sizes.heads, sizes.layers
    dims = whisper.ModelDimensions(sizes.n_mels, 1500, *width, 51866, 448, *width)
    torch.manual_seed(0)
    model, mel = whisper.model.Whisper(dims), torch.randn(ROWS, sizes.n_mels, 3000)
    torch.nn.init.normal_(model.decoder.positional_embedding)
    asked = whisper.DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=TOKENS + 1
    )
    off = whisper.model.disable_sdpa()
    with torch.no_grad(), off, FlopCounterMode(display=False) as counter:
        found = whisper.decode(model, mel, asked)
    assert {len(result.tokens) for result in found} == {TOKENS + 1}, "no end"
    load = Load(ROWS, SECONDS, TOKENS)
    planned = sum(decoding.flops(row_of("whisper", {}), network, load).values())
    planned -= 2 * 3000 * sizes.n_mels * (N_FFT // 2 + 1)  # the spectrogram is given
    assert ROWS * planned == pytest.approx(counter.get_total_flops(), rel=1e-3)


SIZED = {"canvas_length": 512, "canvas_size": {"tokens_per_second": 6}}
GREEDY = {"canvas_length": 512}
AS_RELEASED = {**RELEASE, "steps": 128, "canvas_length": 128}
MEASURED = [
    ("LLaDA as released, 128 passes", "llada", AS_RELEASED, "plain", 1, 2913),
    ("Whisper-LLaMA, growing KV cache", "llama", GREEDY, "plain", 1, 940),
    ("Whisper-LLaMA, static KV cache", "llama", GREEDY, "static", 1, 976),
    ("the same, CUDA graph", "llama", GREEDY, "graph", 1, 343),
    ("the same, compiled", "llama", GREEDY, "compile", 1, 275),
    ("LLaDA, 1 pass", "llada", {**SIZED, "steps": 1}, "plain", 1, 34.9),
    ("4 passes", "llada", {**SIZED, "steps": 4}, "plain", 1, 97.2),
    ("6 passes", "llada", {**SIZED, "steps": 6}, "plain", 1, 133),
    ("16 passes", "llada", {**SIZED, "steps": 16}, "plain", 1, 335),
    ("6 passes, compiled", "llada", {**SIZED, "steps": 6}, "compile", 1, 59.6),
    ("6 passes, compiled", "llada", {**SIZED, "steps": 6}, "compile", 1, 55.6),
    # RTFx, of batches.
    ("Whisper-LLaMA, compiled", "llama", GREEDY, "compile", 16, 344),
    ("Whisper-LLaMA, compiled", "llama", GREEDY, "compile", 64, 779),
    ("4 passes", "llada", {**SIZED, "steps": 4}, "plain", 16, 339),
    ("4 passes", "llada", {**SIZED, "steps": 4}, "plain", 64, 352),
    ("6 passes", "llada", {**SIZED, "steps": 6}, "plain", 16, 227),
    ("6 passes", "llada", {**SIZED, "steps": 6}, "plain", 64, 242),
    ("6 passes, compiled", "llada", {**SIZED, "steps": 6}, "compile", 16, 286),
    ("6 passes, compiled", "llada", {**SIZED, "steps": 6}, "compile", 64, 285),
]
"""PERFORMANCE.md's rows of 7.4 s on an H200: ms at batch 1, RTFx in batches."""


@pytest.fixture(scope="module")
def full_size() -> dict[tuple[str, bool], meta_model.Network]:
    """By system, and whether audio is padded, as it is in the release's row alone."""
    found = {}
    for system, twin in (("llada", "llada"), ("llama", "llama3")):
        text = (REPO / f"conf/train_asr_whisper_{twin}_8b.yaml").read_text()
        for padded in (False, True):
            config = yaml.safe_load(text)
            if not padded:
                own = {"pad_seconds": 0.0, "keep_padding": False}
                config["encoder_conf"] |= own
            found[system, padded] = meta_model.build(config)
    return found


def test_times_are_near_those_of_a_gpu(full_size):
    """The table of PERFORMANCE.md, and what the command says of it."""
    errors, lines = [], []
    for label, system, values, runtime, batch, measured in MEASURED:
        network = full_size[system, "profile" in values]
        given = row_of(system, values, runtime), network, Load(batch, 7.4, 43)
        seconds = decoding.seconds(*given, architectures.GPUS["h200"])
        planned = 1e3 * seconds if batch == 1 else 7.4 * batch / seconds
        ratio = planned / measured if batch == 1 else measured / planned
        errors.append(round(100 * (ratio - 1)))
        unit = "ms" if batch == 1 else "RTFx"
        planned = f"{planned:.1f}" if planned < 100 else f"{planned:.0f}"
        line = f"| {label} | {batch} | {measured:g} {unit} | {planned} {unit} |"
        lines.append(f"{line} {errors[-1]:+d} % |")
    text = (REPO / "egs2/librispeech/asr_llada/PERFORMANCE.md").read_text()
    missing = [line for line in lines if line not in text]
    assert not missing, "\n".join(lines)
    said = f"{min(errors)} to {max(errors):+d} % off in {len(MEASURED)} rows"
    assert architectures.MEASURED.startswith(said)


def test_the_release_takes_one_row_after_the_other(full_size):
    row, network = row_of("llada", AS_RELEASED), full_size["llada", True]
    gpu = architectures.GPUS["h200"]
    one, four = (decoding.seconds(row, network, Load(n, 7.4, 43), gpu) for n in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.02)
    kept = [decoding.memory(row, network, Load(n, 7.4, 43)) for n in (1, 4)]
    assert kept[0]["weights"] == kept[1]["weights"]
    assert sum(kept[1].values()) - sum(kept[0].values()) < 0.2e9


def test_memory_is_near_that_of_a_gpu(full_size):
    for system, values, weights, more in (
        ("llada", {**SIZED, "steps": 6}, 16594, 59),
        ("llama", GREEDY, 16622, 27),
    ):
        given = row_of(system, values), full_size[system, False], Load(1, 7.4, 43)
        found = {name: size / 2**20 for name, size in decoding.memory(*given).items()}
        assert found["weights"] == pytest.approx(weights, rel=1e-3)
        rest = found["cache"] + found["activations or logits"]
        assert rest == pytest.approx(more, abs=5)


def planned(capsys, *options: str, path: Path = PAPER) -> dict:
    command.main([str(path), "--json", *options])
    return json.loads(capsys.readouterr().out)


def test_the_sweep_of_the_paper(capsys):
    plan = planned(capsys, "--price", "2", "--num_gpus", "4")
    rows = {row["key"]: row for row in plan["rows"] if not row["left_out"]}
    decoded = [row for row in read_sweep(PAPER).rows if row.system != "text"]
    assert list(rows) == [row.key for row in decoded]
    assert plan["utterances"] == 2620 + 2939
    assert plan["seconds"] == pytest.approx(10.74 * 3600 / 5559)
    assert (plan["tokens"], rows["llama"]["passes"]) == (32, 33)
    passes = {
        "release_diffusion_steps64": 64,
        "release_semi_ar_blocks4": 128,
        "release_low_confidence_mask30": 10,  # one measures, 9 of 32 tokens are masked
        "low_confidence_mask30": 11,  # and the tail
        "random_mask30": 10,
    }
    assert {key: rows[key]["passes"] for key in passes} == passes
    # By hand: 128 passes over 24 + 352 + 128 positions, 2 x 6.98e9 FLOPs each.
    lm = rows["release_diffusion_steps128"]["flops"]["decoder.lm"]
    assert lm == pytest.approx(128 * 504 * 2 * 6.98e9, rel=0.05)
    assert all(row["fits"] and row["memory_total"] < 30e9 for row in rows.values())
    total = sum(row["gpu_hours"] for row in rows.values())
    assert plan["gpu_hours"] == pytest.approx(total)
    assert plan["hours"] == pytest.approx(total / 4) and plan["cost"] == 2 * total
    command.main([str(PAPER), "--gpu", "a10"])
    table = capsys.readouterr().out
    assert "5,559 utterances, 10.74 hours" in table and architectures.MEASURED in table
    assert "a10 (24 GB): too large: fast_block_cache\n" in table and "cost" not in table
    widths = {len(line) for line in table.splitlines() if line.startswith("  release_")}
    assert len(widths) == 1


def test_options_change_what_they_should(capsys):
    base = planned(capsys)
    assert planned(capsys, "--gpu", "h200")["gpu_hours"] <= base["gpu_hours"]
    other = planned(capsys, "--sets", "test_other")
    assert other["gpu_hours"] == pytest.approx(base["gpu_hours"] * 0.53, rel=0.05)
    own = planned(capsys, "--hours", "5.34", "--utterances", "2939")
    assert own["rows"] == other["rows"]
    more = planned(capsys, "--tokens_per_second", "9.2")
    assert more["tokens"] == 2 * base["tokens"]
    assert base["cost"] is None and "mfu" not in base


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sets", "test_othr"], "--sets 'test_othr': not known.*test_other"),
        (["--hours", "2"], "--hours and --utterances: give both"),
        (["--hours", "9", "--utterances", "9"], "3600 s for each.*count the pieces"),
        (["--mfu", "0.3"], "--mfu: is for a train YAML, which .*sweep_paper.yaml is"),
        (["--price", "-1"], "--price: -1 does not fit"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        command.main([str(PAPER), *options])


def test_a_sweep_that_cannot_be_planned_is_named(tmp_path, capsys):
    path = tmp_path / "sweep.yaml"
    rows = {
        "joint": {"system": "llada", "options": {"joint": {}}},
        "steps": {"system": "llada"},
    }
    path.write_text(yaml.safe_dump({"rows": rows}))
    with pytest.raises(UserError, match=r"sweep.yaml: no train_configs, so no sizes"):
        command.main([str(path)])
    train = {"llama": str(REPO / "conf/train_asr_whisper_llama3_8b.yaml")}
    path.write_text(yaml.safe_dump({"rows": rows, "train_configs": train}))
    with pytest.raises(UserError, match="row steps: no llada in train_configs"):
        command.main([str(path)])
    train["llada"] = train["llama"].replace("llama3", "llada")
    path.write_text(yaml.safe_dump({"rows": rows, "train_configs": train}))
    command.main([str(path)])
    assert "joint  left out: plan does not know joint" in capsys.readouterr().out
    with pytest.raises(UserError, match="--sets: is for a sweep YAML"):
        command.main([train["llada"], "--sets", "test_other"])
    plan = planned(capsys, path=path)
    assert plan["rows"][0]["left_out"] and plan["gpu_hours"] > 0


def test_given_transcripts_cost_nothing():
    row = replace(row_of("whisper", {}), system="text")
    assert decoding.refusal(row) == "nothing to decode: its transcripts are given"
