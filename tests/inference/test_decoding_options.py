"""The options of decoding: by groups, from Python, a YAML and the shell alike."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import yaml

from espnet_llada.bin import asr_inference, cli
from espnet_llada.bin.decoding import given_options
from espnet_llada.core.options import SamplerOptions
from espnet_llada.extensions.joint_decoding import Options as Joint
from espnet_llada.inference.options import (
    FORMER,
    GROUPS,
    all_names,
    job_options,
    make_options,
    options_class,
)
from espnet_llada.io.schema import option_fields
from espnet_llada.types import UserError


def parsed(*words: object) -> argparse.Namespace:
    return cli.get_parser().parse_args(["transcribe", "a.flac", *map(str, words)])


def from_shell(*words: object) -> dict:
    return given_options(parsed(*words))


@pytest.fixture
def config(tmp_path):
    """Writes a YAML of options; returns the command's words that name it."""

    def write(content: object) -> tuple[str, str]:
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / "options.yaml").write_text(text)
        return "--config", str(tmp_path / "options.yaml")

    return write


@pytest.fixture
def model(tmp_path):
    """A config.yaml, and a decode.yaml beside it."""
    (tmp_path / "decode.yaml").write_text(
        "decode: {steps: 9, joint: {weight: 0.7}, rescoring: {combination: true}}\n"
    )
    return tmp_path / "config.yaml"


SAME = {
    "strategy": "semi_ar",
    "steps": 7,
    "threshold": 0.9,
    "mask_ctc": {"mask_threshold": 0.7},
    "draft_refinement": {"rounds": 2},
    "canvas_size": {"positions_per_vector": 1.5},
    "rescoring": {"accept_if_better": False, "combination": True},
    "joint": {},
    "long_form": None,
    "block_cache": True,
    "placeholders": False,
}
WORDS = """--strategy semi_ar --steps 7 --threshold 0.9 --mask_ctc.mask_threshold 0.7
--draft_refinement.rounds=2 --canvas_size.positions_per_vector 1.5 --joint true
--rescoring.accept_if_better false --rescoring.combination true --block_cache true"""


def test_a_yaml_the_shell_and_python_give_the_same(config):
    wanted = make_options(SAME)
    assert wanted.sampler == SamplerOptions("semi_ar", 7, threshold=0.9)
    assert wanted.extensions["joint"] == Joint(0.5)
    assert not {"long_form", "placeholders"} & {*wanted.extensions}
    assert make_options(from_shell(*WORDS.split())) == wanted
    assert make_options(from_shell(*config(SAME))) == wanted
    args = asr_inference.get_parser().parse_args(config(SAME))
    assert make_options(given_options(args)) == wanted


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (None, None),
        (False, None),
        (True, 0.7),  # as the model has it
        ({}, 0.7),
        ({"weight": 0.3}, 0.3),
        (Joint(0.2), 0.2),
    ],
)
def test_a_group_over_that_of_a_model(model, config, value, weight):
    """None and False turn it off, True and a mapping keep what they do not say."""
    found = job_options(model, "decode", {"joint": value}).extensions
    assert (found["joint"].weight if "joint" in found else None) == weight
    assert found["rescoring"].combination
    if not isinstance(value, Joint):
        given = from_shell(*config({"joint": value}))
        assert job_options(model, "decode", given).extensions == found


@pytest.mark.parametrize(
    ("words", "content", "weight"),
    [
        ("--joint false", "", None),
        ("--joint true", "", 0.7),
        ("--joint.weight 0.3", "", 0.3),
        ("--joint.weight 0.3", "joint: {weight: 0.4}", 0.3),
        ("--joint.weight 0.3", "joint: false", 0.3),
        ("--joint false", "joint: {weight: 0.4}", None),
        ("--joint true", "joint: {weight: 0.4}", 0.4),
        ("--joint true", "joint: false", 0.7),
        ("", "joint: {weight: 0.4}", 0.4),
        ("", "joint: false", None),
        ("", "joint:", None),
    ],
)
def test_the_shell_over_a_yaml_over_a_model(model, config, words, content, weight):
    given = from_shell(*words.split(), *config(content or "steps: 4"))
    found = job_options(model, "decode", given)
    joint = found.extensions.get("joint")
    assert (joint and joint.weight) == weight
    assert found.sampler.steps == (9 if content else 4)


def test_off_and_with_options_at_once_is_refused():
    with pytest.raises(UserError, match=r"joint: false leaves nothing to joint\.weigh"):
        from_shell("--joint", "false", "--joint.weight", 1)


def test_what_a_model_turns_on_may_have_no_options(tmp_path):
    (tmp_path / "decode.yaml").write_text("deliberate: {confidence: true, steps: 3}\n")
    given = {"mask_ratio": 0.2}
    found = job_options(tmp_path / "config.yaml", "deliberate", given)
    assert found.extensions["confidence"].passes == 1


def test_numpy_s_numbers_are_taken_as_python_s():
    given = {"steps": np.int64(4), "mask_ratio": 1, "seed": np.uint8(3)}
    found = make_options({**given, "joint": {"weight": np.float32(0.25)}})
    values = found.sampler.steps, found.sampler.mask_ratio, found.sampler.seed
    assert values == (4, 1.0, 3) and [*map(type, values)] == [int, float, int]
    assert type(found.extensions["joint"].weight) is float


@pytest.mark.parametrize("value", [5, 0, 0.5, "true", [1], [], np.float32(1)])
def test_a_group_is_a_mapping_or_a_switch(config, value):
    for give in (make_options, lambda given: from_shell(*config(given))):
        if isinstance(value, np.floating) and give is not make_options:
            continue  # no YAML has one
        with pytest.raises(
            UserError, match=r"joint: .* does not fit; allowed: .option"
        ):
            give({"joint": value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"joint": {"wieght": 1}}, r"key '(joint\.)?wieght' .*'(joint\.)?weight'\?"),
        ({"joint": {"weight": "x"}}, r"joint.weight: 'x' does not fit"),
        ({"joint": {"weight": -1}}, r"joint.weight: -1 does not fit; allowed: a numb"),
        ({"jiont": True}, "'jiont' .*'joint'"),
        ({"stepz": 3}, r"'stepz' \(did you mean 'steps'\?\)"),
        ({"strategy": "mask_ctc"}, "mask_ctc is an option of its own; write mask_ctc"),
        ({"strategy": "beam"}, "strategy: .*'beam'.*diffusion.*semi_ar"),
    ],
)
def test_what_does_not_fit_is_named_by_python_and_by_a_yaml(config, given, message):
    for give in (make_options, lambda given: from_shell(*config(given))):
        with pytest.raises(UserError) as e:
            give(given)
        text = str(e.value).replace("joint: weight", "joint.weight")
        assert "\n" not in text
        assert re.search(message, text), text


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_refused_with_today_s(config, name):
    today = FORMER[name].split(" or ")
    assert {*today} <= {*all_names()}
    gives = (
        lambda: make_options({name: 1}),
        lambda: from_shell(*config({name: 1})),
        lambda: from_shell(f"--{name}", 1),
        lambda: from_shell(f"--{name}=1"),
    )
    for give in gives:
        with pytest.raises(UserError, match=f"{name}'? .it is {today[0]}") as e:
            give()
        assert "\n" not in str(e.value)


def test_misspelt_on_the_command_line():
    for word in ("joint.wieght", "jiont.weight"):
        with pytest.raises(UserError, match=rf"option --{word} \(.*'--joint.weight'"):
            parsed(f"--{word}", 1)


def test_a_short_name_of_a_strategy(tmp_path):
    """As in a sweep's rows, ``deliberation_`` may be left out."""
    assert make_options({"strategy": "random"}).strategy == "deliberation_random"
    assert make_options({"strategy": "semi_ar"}).strategy == "semi_ar"
    given = {"strategy": "semi_ar"}
    found = job_options(tmp_path / "config.yaml", "deliberate", given)
    assert found.strategy == "deliberation_semi_ar"


def test_each_group_has_a_dataclass_of_described_options():
    for group in GROUPS:
        for option in option_fields(options_class(group)):
            assert option.text, f"{group}.{option.name}"
