"""What a file or an option may hold: declared types and bounds, one reader each."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from espnet_llada.build import check_config
from espnet_llada.inference.options import make_options
from espnet_llada.io.files import read_json, read_yaml
from espnet_llada.io.schema import Count, OptionsOf, Share, check_options
from espnet_llada.networks.llama_files import empty_llama
from espnet_llada.types import UserError


class Inner:
    def __init__(self, size, steps: Count = 1, share: Share = 0.5, on: bool = False):
        """Of which ``size`` is no option."""


class Outer:
    def __init__(
        self,
        name: str = "",
        kind: Literal["a", "b"] = "a",
        inner: Annotated[Mapping[str, Any], OptionsOf(Inner)] | None = None,
    ):
        """Options within options."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": 5}, "f.yaml: name: 5 does not fit; allowed: a text; write it in quo"),
        ({"kind": "c"}, "f.yaml: kind: 'c' does not fit; allowed: a, b"),
        ({"knd": "a"}, "f.yaml: unknown key 'knd' (did you mean 'kind'?)"),
        ({"inner": {"step": 1}}, "f.yaml: inner: unknown key 'step' (did you mean"),
        ({"inner": {"size": 1}}, "f.yaml: inner: unknown key 'size'"),
        ({"inner": {"steps": "8"}}, "a whole number; write it without quotes"),
        ({"inner": {"steps": True}}, "f.yaml: inner.steps: True does not fit; allowed"),
        ({"inner": {"steps": 0}}, "inner.steps: 0 does not fit; allowed: a whole numb"),
        ({"inner": {"steps": 10**5000}}, "inner.steps: a number of so many digits"),
        ({"inner": {"steps": 1.0}}, "inner.steps: 1.0 does not fit"),
        ({"inner": {"share": float("nan")}}, "inner.share: nan does not fit"),
        ({"inner": {"share": float("inf")}}, "inner.share: inf does not fit"),
        ({"inner": {"on": "false"}}, "true or false; write it without quotes"),
        (
            {"inner": [1]},
            "f.yaml: inner: [1] does not fit; allowed: 'key: value' lines",
        ),
    ],
)
def test_a_value_of_another_kind_is_refused_not_converted(given, message):
    with pytest.raises(UserError) as e:
        check_options(given, Outer, "f.yaml")
    assert message in str(e.value) and "\n" not in str(e.value)


def test_what_fits_is_handed_on():
    given = {"kind": "b", "inner": None}
    assert check_options(given, Outer) == given
    found = check_options({"share": 1, "steps": np.int64(3)}, Inner)
    assert found == {"share": 1.0, "steps": 3} and type(found["share"]) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\na: 2\n", "'a' a second time"),
        ("a: &a {b: *a}\n", "nested too deep, or in itself"),
        ("[" * 5000, "nested too deep"),
        ("a: !!python/object/apply:os.system [false]\n", "a tag"),
        ("a: !!int x\n", "a tag"),
        ("1: x\n", "key 1: write it in quotes"),
        ("on: x\n", "key True: write it in quotes"),
        (f"a: {'9' * 5000}\n", "not valid YAML"),
        ('a: "x\\0y"\n', "has a NUL"),
        ("a: [\n", "not valid YAML"),
        ("- a\n", "'key: value' lines at the top level"),
        (b"a: \xff\n", "not valid YAML"),
    ],
)
def test_a_yaml_is_plain_or_refused(tmp_path, content, message):
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(UserError) as e:
        read_yaml(file)
    assert str(e.value).startswith(f"{file}: ") and message in str(e.value)
    assert "\n" not in str(e.value) and time.process_time() - start < 2


@pytest.mark.parametrize("merged", [False, True])
def test_a_yaml_does_not_explode(tmp_path, merged):
    lines = ["l0: &l0 {k: 1, l: 2}"]
    for i in range(1, 12):
        many = ", ".join([f"*l{i - 1}"] * 9)
        value = f"{{<<: [{many}]}}" if merged else f"[{many}]"
        lines.append(f"l{i}: &l{i} {value}")
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    start = time.process_time()
    if merged:  # some versions of PyYAML merge a key once, others each time
        with contextlib.suppress(UserError):
            assert read_yaml(tmp_path / "x.yaml")["l11"] == {"k": 1, "l": 2}
    else:
        with pytest.raises(UserError, match="in itself"):
            read_yaml(tmp_path / "x.yaml")
    assert time.process_time() - start < 2


def test_a_yaml_s_numbers_dates_and_byte_order_mark(tmp_path):
    text = "\ufeffa: 1e-5\nb: 2026-01-01\nc: .inf\nd: &d {e: 1}\nf: {<<: *d, e: 2}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    found = read_yaml(tmp_path / "x.yaml")
    assert found["a"] == 1e-5 and found["b"] == "2026-01-01"
    assert found["c"] == float("inf") and found["f"] == {"e": 2}


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, "[1]", '{"a": "\\ud800"}', "9"]
)
def test_a_json_is_an_object_or_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json: ") as e:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(e.value)


LARGE = {
    "encoder_conf": {"pad_seconds": 1e300},
    "postencoder_conf": {"hidden": 2**31, "layers": 2**31, "queries": 2**31},
    "decoder_conf": {"max_eos_padding": 2**31, "lora": {"r": 2**31}},
}


@pytest.mark.parametrize("section", LARGE)
def test_sizes_that_eat_memory_are_refused(tiny_config, section):
    for name, value in LARGE[section].items():
        config = {**tiny_config, section: {**tiny_config[section], name: value}}
        with pytest.raises(UserError, match=f"f.yaml: {section}: {name}.*does not fit"):
            check_config(config, "f.yaml")


def test_a_qformer_of_too_many_weights_is_refused():
    from espnet_llada.core.qformer import WindowQFormer

    with pytest.raises(UserError, match="make them smaller"):
        WindowQFormer(384, hidden=2**16, layers=64, ffn=2**16, heads=8)
    with pytest.raises(UserError, match="heads: 5 does not divide hidden 16"):
        WindowQFormer(384, hidden=16, heads=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 2147483648),
        ("vocab_size", 2**40),
        ("hidden_size", -1),
        ("num_attention_heads", "4"),
        ("num_key_value_heads", 3),
        ("rms_norm_eps", None),
        ("head_dim", 7),
        ("rope_theta", float("nan")),
        ("mask_token_id", -5),
    ],
)
def test_an_lm_of_impossible_sizes_is_refused_at_once(tiny_lm, tmp_path, name, value):
    settings = json.loads((tiny_lm / "config.json").read_text())
    settings.pop("rope_parameters", None)
    (tmp_path / "config.json").write_text(json.dumps({**settings, name: value}))
    if value is None:  # as if it were not there
        empty_llama(tmp_path)
        return
    start = time.process_time()
    with pytest.raises(UserError, match=f"^{tmp_path}: ") as e:
        empty_llama(tmp_path)
    assert "\n" not in str(e.value) and time.process_time() - start < 1


def test_a_text_of_few_choices_is_refused_with_them():
    """Whether its annotation describes it or not."""
    for name, others in (("remasking", "confidence, random"), ("profile", "default, ")):
        with pytest.raises(UserError, match=f"^{name}: 'x' does not fit; .*: {others}"):
            make_options({name: "x"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, None])
def test_options_of_decoding_are_finite_numbers(value):
    for name in ("temperature", "threshold"):
        with pytest.raises(UserError, match=f"^{name}: {value!r} does not fit"):
            make_options({name: value})
    for group, name in (("joint", "weight"), ("canvas_size", "tokens_per_second")):
        with pytest.raises(UserError, match=f"^{group}: {name}: {value!r} does not f"):
            make_options({group: {name: value}})
