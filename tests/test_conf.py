"""Every YAML in conf/ loads, every key is read, and its launch command is true."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml

from espnet_llada.bin import asr_inference
from espnet_llada.bin.decoding import sampler_options
from espnet_llada.core.options import STRATEGIES
from espnet_llada.release.options import ReleaseSamplerOptions
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
TRAIN = sorted(CONF.glob("train_*.yaml"))
SWEEP = sorted(CONF.glob("sweep_*.yaml"))
BENCH = sorted(CONF.glob("bench_*.yaml"))
DECODE = sorted({*CONF.glob("*.yaml")} - {*TRAIN, *SWEEP, *BENCH})
ids = {"ids": lambda p: p.stem}


LONGER = CONF / "train_asr_whisper_llada_mini_soup.yaml"
"""LLaDA goes on alone in it: it has no twin, but that of the training before."""


def baseline(path: Path) -> Path:
    """The YAML of the autoregressive twin."""
    path = path.with_name(path.name.replace("_soup", "_last"))
    twins = [path.with_name(path.name.replace("llada", n)) for n in ("llama", "llama3")]
    return next(p for p in twins if p.exists())


@pytest.mark.parametrize("path", TRAIN, **ids)
def test_train_yaml(path, tmp_path):
    pytest.importorskip("espnet2")
    from espnet_llada.build import check_config
    from espnet_llada.espnet.task import ASRTask

    cmd = ["--config", str(path), "--output_dir", str(tmp_path), "--token_list", "x"]
    args = ASRTask.get_parser().parse_args(cmd)  # refuses unknown top-level keys
    assert args.decoder in ("llada", "llama")
    check_config(vars(args), path)
    if args.decoder == "llada":
        causal = yaml.safe_load(baseline(path).read_text())
        ours = yaml.safe_load(path.read_text())
        for section in ("encoder", "encoder_conf", "postencoder", "postencoder_conf"):
            assert ours[section] == causal[section], "the baseline shares its parts"


@pytest.mark.parametrize("path", DECODE, **ids)
def test_decode_yaml(path):
    args = asr_inference.get_parser().parse_args(["--config", str(path)])
    options = sampler_options(args)
    given = yaml.safe_load(path.read_text())
    for key, value in given.items():
        assert getattr(args, key) == value
    assert options.deliberates == path.stem.startswith("deliberate")


@pytest.mark.parametrize("path", BENCH, **ids)
def test_bench_yaml(path):
    rows = read_sweep(path).rows
    assert not any(row.first_pass for row in rows)
    published = [r.key for r in rows if isinstance(r.options, ReleaseSamplerOptions)]
    assert published == ["release"]


@pytest.mark.parametrize("path", SWEEP, **ids)
def test_sweep_yaml(path):
    sweep = read_sweep(path)
    assert {row.system for row in sweep.rows} == {"whisper", "llama", "llada"}
    assert {row.options.strategy for row in sweep.rows} == {*STRATEGIES}
    assert sweep.baseline and sweep.headline and sweep.examples


def test_the_decoder_yaml_differ_where_the_systems_do():
    pairs = [p for p in TRAIN if "llada" in p.name and p != LONGER]
    assert pairs
    for path in pairs:
        a = yaml.safe_load(path.read_text())
        b = yaml.safe_load(baseline(path).read_text())
        assert {k for k in a if a[k] != b.get(k)} <= {"decoder", "decoder_conf"}


def test_what_lladas_longer_training_has_of_its_own():
    before = LONGER.with_name(LONGER.name.replace("_soup", "_last"))
    a, b = (yaml.safe_load(path.read_text()) for path in (LONGER, before))
    length = {"scheduler_conf", "max_epoch"}
    assert {k for k in a if a[k] != b.get(k)} == {
        "decoder_conf",
        "freeze_param",
        *length,
    }
    differs = {k for k, v in a["decoder_conf"].items() if v != b["decoder_conf"].get(k)}
    assert differs == {"ctc", "text_qformer"}, "the weights of what is frozen"


@pytest.mark.parametrize("path", TRAIN + DECODE + SWEEP, **ids)
def test_the_header_is_a_launch_command_that_names_the_file(path):
    header = "".join(
        line for line in path.read_text().splitlines(True) if line.startswith("#")
    )
    assert f"conf/{path.name}" in header
    for named in re.findall(r"conf/\S+\.yaml", header):
        assert (CONF.parent / named).exists(), named


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step: 3\n", "unknown key 'step'.*'steps'"),
        ("steps: many\n", "steps: 'many' does not fit; allowed: a whole number"),
        ("strategy: beam\n", "strategy: .*'beam'.*diffusion"),
        ("steps: [\n", "not valid YAML"),
        ("- steps\n", "key: value"),
    ],
)
def test_a_bad_yaml_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as e:
        asr_inference.get_parser().parse_args(["--config", str(path)])
    assert "bad.yaml" in str(e.value) and "\n" not in str(e.value)


def test_the_command_line_wins_over_the_yaml():
    cmd = ["--config", str(CONF / "decode_diffusion.yaml"), "--steps", "5"]
    args: argparse.Namespace = asr_inference.get_parser().parse_args(cmd)
    assert args.steps == 5 and args.canvas_length == 64
