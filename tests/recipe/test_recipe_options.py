from __future__ import annotations

import pytest

from espnet_llada.recipe.driver import chosen_stages
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.options import Options, help_text, parse_options
from espnet_llada.types import UserError

SETS = ["--train_set", "tr", "--valid_set", "dv", "--test_sets", "t1 t2"]


def test_both_spellings():
    underscores = parse_options([*SETS, "--stop_stage", "5", "--skip_eval", "true"])
    dashes = parse_options([*SETS, "--stop-stage", "5", "--skip-eval", "true"])
    assert underscores == dashes
    assert (dashes.stop_stage, dashes.skip_eval) == (5, True)


def test_a_value_may_begin_with_dashes():
    args = "--max_epoch"
    assert parse_options([*SETS, "--asr_args", args]).asr_args == args


def test_the_last_one_wins():
    assert parse_options([*SETS, "--nj", "1", "--nj", "3"]).nj == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stop_stag", "5"], r"unknown option --stop_stag \(did you mean '--stop_s"),
        (["--speed_perturb_factors", "0.9"], "only asr.sh has it"),
        (["--stage"], "--stage: its value is missing"),
        (["--stage", "one"], "--stage one: expected a number"),
        (["--skip_train", "yes"], "expected true or false"),
        (["--use_lm", "true"], "--use_lm true: this model takes false"),
        (["--fs", "8k"], "this model takes 16k"),
        (["--stage=3"], "write '--stage 3'"),
        (["stage"], "'stage': expected an option"),
        (["--nj", "0"], "--nj 0: expected 1 or more"),
        (["--skip_stages", "3,4"], "'3,4' is not a stage number"),
        (["--valid_set", "tr"], "'tr' is named twice"),
        (["--test_sets", ""], "--test_sets is required"),
        (["--test_sets", "a /data/b"], "set '/data/b': leads elsewhere"),
        (["--asr_args", "--max_epoch '1"], "--asr_args --max_epoch '1: No closing qu"),
        (["--train_set", "../a"], "set '../a': leads elsewhere"),
    ],
)
def test_refusals(argv: list[str], message: str):
    with pytest.raises(UserError, match=message):
        parse_options([*SETS, *argv])


@pytest.mark.parametrize(
    ("argv", "stages"),
    [
        ([], [1, 3, 4, 5, 10, 11, 12, 13]),
        (["--stage", "4", "--stop_stage", "11"], [4, 5, 10, 11]),
        (["--skip_data_prep", "true"], [10, 11, 12, 13]),
        (["--skip_train", "true"], [1, 3, 12, 13]),
        (["--skip_eval", "true", "--skip_stages", "3 10"], [1, 4, 5, 11]),
    ],
)
def test_stages(argv: list[str], stages: list[int]):
    assert chosen_stages(parse_options([*SETS, *argv])) == stages


def test_help_names_every_option():
    text = help_text()
    assert all(f"--{name}" in text for name in vars(Options()))


def test_names_are_those_of_asr_sh():
    argv = [*SETS, "--lang", "en", "--hugging_face_model_name_or_path", "org/lm"]
    argv += ["--asr_config", "conf/train_x.yaml", "--asr_args", "--max_epoch 1 --a b=c"]
    argv += [
        "--inference_config",
        "conf/decode_y.yaml",
        "--inference_args",
        "--steps 8",
    ]
    layout = Layout(parse_options(argv))
    assert str(layout.token_list) == "data/en_token_list/hugging_face_org-lm/tokens.txt"
    assert str(layout.stats) == "exp/asr_stats_raw_en_hugging_face_org-lm"
    exp = "exp/asr_train_x_raw_en_hugging_face_org-lm_max_epoch1_abc"
    assert str(layout.exp) == exp
    assert str(layout.decode) == f"{exp}/decode_y_steps8_asr_model_valid.acc.ave"


def test_a_local_lm_gives_a_short_name(tmp_path):
    lm = tmp_path / "my-lm"
    lm.mkdir()
    options = parse_options([*SETS, "--hugging_face_model_name_or_path", str(lm)])
    assert Layout(options).stats.name == "asr_stats_raw_hugging_face_my-lm"


def test_long_arguments_fit_into_a_file_name():
    options = parse_options([*SETS, "--asr_args", "--x y " * 100])
    other = parse_options([*SETS, "--asr_args", "--x y " * 101])
    assert len(Layout(options).exp.name) < 200
    assert Layout(options).exp != Layout(other).exp
