"""Options on the command line and in a YAML."""

from __future__ import annotations

import pytest

from espnet_llada.bin import asr_inference, cli, plan
from espnet_llada.bin.options import OfKind, OptionParser
from espnet_llada.io.schema import Count
from espnet_llada.types import UserError


@pytest.fixture
def parser():
    parser = OptionParser(prog="it")
    parser.add_argument("--config")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--size", type=OfKind(Count), default=1)
    parser.add_argument("--no_audio", action="store_true")
    parser.add_argument("--lm")
    parser.add_argument("--kind", default="a", choices=("a", "b"))
    parser.add_argument("--set", action="append")
    return parser


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'no_audio: "false"',
            "no_audio: 'false' does not fit; allowed: true or false;",
        ),
        ("no_audio: 1", "no_audio: 1 does not fit; allowed: true or false"),
        ('steps: "8"', "steps: '8' does not fit; allowed: a whole number; write it w"),
        ("steps: true", "steps: True does not fit; allowed: a whole number"),
        ("steps: 8.0", "steps: 8.0 does not fit"),
        ("steps: null", "steps: None does not fit"),
        ("steps: 8.5e3", "steps: 8500.0 does not fit"),
        ("share: .nan", "share: nan does not fit; allowed: a number"),
        ("share: .inf", "share: inf does not fit; allowed: a number"),
        ("size: 0", "size: 0 does not fit; allowed: a whole number >= 1"),
        ("lm: 5", "lm: 5 does not fit; allowed: a text; write it in quotes"),
        ("kind: c", "kind: invalid choice: 'c'"),
        ("set: x", "set: 'x' does not fit; allowed: a list"),
        ("help: true", "help is for the command line"),
        ("stps: 1", "unknown key 'stps' (did you mean 'steps'?)"),
        ("steps: 1\nsteps: 2", "a second time"),
    ],
)
def test_a_yaml_s_values_are_refused_not_converted(parser, tmp_path, content, message):
    file = tmp_path / "x.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as e:
        parser.parse_args(["--config", str(file)])
    assert str(e.value).startswith(f"{file}: ") and message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_yaml_s_values_are_of_their_own_kind(parser, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("no_audio: false\nsteps: 3\nshare: 1\nlm: null\nset: [x, y]\n")
    args = parser.parse_args(["--config", str(file), "--steps", "4"])
    assert (args.no_audio, args.steps, args.share) == (False, 4, 1.0)
    assert args.lm is None and args.set == ["x", "y"]
    file.write_text("no_audio: true\nsize: 7\nkind: b\n")
    args = parser.parse_args(["--config", str(file)])
    assert (args.no_audio, args.size, args.kind) == (True, 7, "b")


ODD = ["nan", "inf", "-inf", "1e400", "1_0", "٣", "", " 8", "0x10", "½", "9" * 5000]


@pytest.mark.parametrize("text", ODD)
def test_an_odd_number_on_the_command_line_is_refused(parser, text):
    for name in ("--steps", "--share", "--size"):
        with pytest.raises(UserError, match=f"argument {name}: .*does not fit") as e:
            parser.parse_args([f"{name}={text}"])
        assert "without quotes" not in str(e.value)


def test_plain_numbers_are_taken(parser):
    args = parser.parse_args("--steps -3 --share 1e-3 --size +2".split())
    assert (args.steps, args.share, args.size) == (-3, 0.001, 2)
    assert parser.parse_args(["--share", "-0.0"]).share == 0.0


def test_the_commands_refuse_them(tmp_path):
    (tmp_path / "x.yaml").write_text("use_audio: 'false'\n")
    command = ["deliberate", "x.wav", "--first_pass", "x", "--config"]
    with pytest.raises(UserError, match="use_audio: 'false' does not fit"):
        cli.main([*command, str(tmp_path / "x.yaml")])
    with pytest.raises(UserError, match="use_audio: 'false' does not fit"):
        asr_inference.main(["--config", str(tmp_path / "x.yaml")])
    for odd in ("nan", "1e400", "0"):
        with pytest.raises(UserError, match="argument --hours_of_audio: "):
            plan.main(["x.yaml", "--hours_of_audio", odd])
