"""Every YAML in conf/ is loaded as its users load it, and begins with how to do so."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml

from espnet_llada.bin import asr_deliberate, asr_inference, bench, cli, sweep
from espnet_llada.bin.decoding import given_options
from espnet_llada.core.options import STRATEGIES
from espnet_llada.inference.options import GROUPS, make_options, merged, nested
from espnet_llada.io.weights.assets import MINI
from espnet_llada.scoring.published import read_published
from espnet_llada.sweep.rows import SweepRow, read_sweep
from espnet_llada.types import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
RECIPE = CONF.parent / "egs2/librispeech/asr_llada"
KINDS = ("train", "decode", "deliberate", "sweep", "bench")
TRAIN, DECODE, DELIBERATE, SWEEP, BENCH = (
    sorted(CONF.glob(f"{kind}_*.yaml")) for kind in KINDS
)
ALL = [*TRAIN, *DECODE, *DELIBERATE, *SWEEP, *BENCH]
ids = {"ids": lambda p: p.stem}


PUBLISHED = CONF / "published.yaml"
LONGER = CONF / "train_asr_whisper_llada_mini_soup.yaml"
"""LLaDA goes on alone in it: it has no twin, but that of the training before."""


def baseline(path: Path) -> Path:
    """The YAML of the autoregressive twin."""
    path = path.with_name(path.name.replace("_soup", "_last").replace("_8b_ctc", "_8b"))
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


def test_no_yaml_is_of_another_kind():
    found = [p for p in CONF.rglob("*") if p.suffix in (".yaml", ".yml")]
    assert sorted(found) == sorted([*ALL, PUBLISHED])
    assert (RECIPE / "conf").resolve() == CONF


@pytest.mark.parametrize("path", DECODE + DELIBERATE, **ids)
def test_decode_yaml(path):
    """By the recipe's stage 12, and by ``espnet-llada``."""
    deliberates = path in DELIBERATE
    command = ["deliberate", "--first_pass", "x"] if deliberates else ["transcribe"]
    reader = asr_deliberate if deliberates else asr_inference
    args = reader.get_parser().parse_args(["--config", str(path)])
    own = cli.get_parser().parse_args([*command, "a.flac", "--config", str(path)])
    assert make_options(given_options(args)).deliberates == deliberates
    for found in (nested(vars(args)), nested(vars(own))):
        for name, value in yaml.safe_load(path.read_text()).items():
            assert found[name] == value


def test_there_is_one_of_each_kind_of_decoding():
    given = [yaml.safe_load(path.read_text()) for path in DECODE + DELIBERATE]
    kinds = [
        (
            "mask_ctc" if "mask_ctc" in g else g.get("strategy", "llama"),
            "beam_size" in g,
            g.get("use_audio", True),
        )
        for g in given
    ]
    plain_text = ("deliberation_low_confidence", False, False)
    ours = [(strategy, False, True) for strategy in (*STRATEGIES, "mask_ctc")]
    left_to_right = [("llama", beam, True) for beam in (False, True)]
    assert sorted(kinds) == sorted([*ours, *left_to_right, plain_text])


def profile(row: SweepRow) -> str:
    return getattr(row.options.sampler, "profile", "default")


@pytest.mark.parametrize("path", BENCH, **ids)
def test_bench_yaml(path):
    read = sweep.read_rows(bench.get_parser().parse_args(launch(path)[2:]))
    assert not any(row.first_pass for row in read.rows)
    released = [row.key for row in read.rows if profile(row) == "release"]
    assert released == ["release"]
    assert {*read.train_configs.values()} <= {*TRAIN}


@pytest.mark.parametrize("path", SWEEP, **ids)
def test_sweep_yaml(path):
    read = sweep.read_rows(sweep.get_parser().parse_args(launch(path)[2:]))
    given = {"text"} if path.stem == "sweep_paper" else set()
    assert {row.system for row in read.rows} == {"whisper", "llama", "llada", *given}
    assert {*STRATEGIES} <= {row.options.strategy for row in read.rows}
    assert not any(row.only_for_bench for row in read.rows)
    assert read.baseline and read.headline and read.examples


@pytest.mark.parametrize(
    ("system", "section", "key"),
    [
        ("llama", "decode", "llama"),
        ("llada", "decode", "decoding"),
        ("llada", "deliberate", "deliberation"),
        ("llada", "diffusion", "diffusion_joint90"),
        ("llada", "semi_ar", "semi_ar_blocks4"),
        ("llada", "deliberation_random", "random_mask30"),
        ("llada", "deliberation_semi_ar", "semi_deliberation_blocks4"),
    ],
)
def test_the_defaults_of_the_mini_models_are_rows(system, section, key):
    """Their decode.yaml says nothing else than the row, but for long recordings."""
    (row,) = (r for r in read_sweep(CONF / "sweep_mini.yaml").rows if r.key == key)
    shipped = yaml.safe_load((MINI / system / "decode.yaml").read_text())[section]
    assert shipped.pop("long_form")
    own = vars(row.options.sampler) | row.options.extensions
    own = {k: vars(v) if k in GROUPS else v for k, v in own.items()}
    assert row.system == system and row.options.extensions.keys() <= shipped.keys()
    assert make_options(merged(own, shipped)) == row.options


def test_the_papers_rows_are_there_in_both_profiles():
    rows = read_sweep(CONF / "sweep_paper.yaml").rows
    found: dict[str, list] = {"default": [], "release": []}
    for row in rows:
        options = row.options
        if row.system == "llada" and not row.key.startswith("fast_"):
            name = options.strategy if row.decoding.use_audio else "plain_text"
            value = None if row.value is None else (row.axis, row.value)
            found[profile(row)].append((name, value))
            assert options.deliberates or options.sampler.canvas_length == 128
            assert options.sampler.steps == (row.value if row.axis == "steps" else 128)
            assert row.first_pass == ("first_pass" if options.deliberates else None)
    shares = [("mask_ratio", share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    values = {
        "diffusion": [("steps", n) for n in (128, 64, 32, 16, 8)],
        "semi_ar": [("num_blocks", n) for n in (2, 4, 8)],
        "deliberation_random": shares,
        "deliberation_low_confidence": shares,
        "deliberation_semi_ar": [("num_blocks", n) for n in (1, 2, 4, 8)],
        "plain_text": [None],
    }
    wanted = [(name, v) for name, several in values.items() for v in several]
    assert found == {"default": wanted, "release": wanted}


def test_the_fast_rows():
    rows = read_sweep(CONF / "sweep_paper.yaml").rows
    fast = [row for row in rows if row.key.startswith("fast_")]
    assert [row.key for row in rows][-len(fast) :] == [row.key for row in fast]
    assert {profile(row) for row in fast} == {"default"}
    assert all(row.options.sampler.threshold == 0.9 for row in fast)
    assert max(row.options.sampler.steps for row in fast) == 16
    assert any("block_cache" in row.options.extensions for row in fast)
    assert any(row.options.deliberates for row in fast)


def test_what_is_published_is_of_the_papers_rows():
    """Each key is a row; that nothing else is in it is all that is known."""
    sweep = read_sweep(CONF / "sweep_paper.yaml")
    keys, published = [row.key for row in sweep.rows], sweep.published
    assert published == read_published(PUBLISHED, keys)
    (best,) = published.best_of.values()
    deliberating = [
        row.key
        for row in sweep.rows
        if row.key.startswith("release_") and row.options.deliberates
    ]
    assert [*best.rows, "release_plain_text"] == deliberating
    cells = {**published.rows, "best": best.sets}
    found = {
        (row, name): (cell.wer, cell.sure)
        for row, sets in cells.items()
        for name, cell in sets.items()
    }
    assert found == {
        ("llama", "test_other"): (5.63, "derived"),
        ("release_diffusion_steps64", "test_clean"): (2.82, "second_hand"),
        ("release_diffusion_steps64", "test_other"): (5.79, "second_hand"),
        ("best", "test_clean"): (2.25, "stated"),
        ("best", "test_other"): (4.94, "stated"),
    }
    assert round(100 * (1 - 4.94 / 5.63), 1) == 12.3


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
    assert differs == {"ctc", "whisper_scorer"}, "the weights of what is frozen"


def launch(path: Path) -> list[str]:
    """The command of the first line; files of conf/ by their whole path."""
    first = path.read_text().splitlines()[0]
    words = shlex.split(first.removeprefix("# "))
    return [re.sub("^conf/", f"{CONF}/", word) for word in words]


def trainings(preset: str) -> dict[str, Path]:
    """The runs of the preset mini or core_mini: {name: config}."""
    script = {"mini": "train_mini", "core_mini": "core_mini"}[preset]
    listed = (RECIPE / f"local/{script}.sh").read_text()
    runs = re.findall(r"^(\w+) +\w+ +conf/(\S+\.yaml) ", listed, re.MULTILINE)
    return {name: CONF / file for name, file in runs}


@pytest.mark.parametrize("path", ALL, **ids)
def test_the_first_line_is_the_launch_command(path):
    program, *args = launch(path)
    for named in re.findall(r"conf/\S+\.yaml", path.read_text()):
        assert (CONF.parent / named).exists(), named
    if path not in TRAIN:
        assert program == "espnet-llada" and str(path) in args
        own = {"sweep": sweep, "bench": bench}.get(args[0])
        parse = own.get_parser().parse_args if own else cli.get_parser().parse_args
        assert parse(args[1:] if own else args)
        return
    options = dict(zip(args[::2], args[1::2], strict=True))
    assert program == "./run.sh"
    if "--runs" in options:
        listed = trainings(options["--preset"]).items()
        runs = [name for name, config in listed if config == path]
        assert options["--runs"].split() == runs
    else:
        assert options["--asr_config"] == str(path)
        assert Path(options["--inference_config"]) in DECODE


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
