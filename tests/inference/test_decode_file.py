"""A model's decode.yaml, and the models that are found by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from espnet_llada import Deliberator, Speech2Text, UserError
from espnet_llada.inference import loading
from espnet_llada.inference.loading import find_model, publish
from espnet_llada.inference.options import make_options, model_options

DECODE = """\
decode: {strategy: semi_ar, num_blocks: 2, steps: 2, canvas_length: 6}
deliberate: {mask_ratio: 1, steps: 3}
diffusion: {threshold: 0.5, steps: 5}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(model_dir, tmp_path) -> Path:
    """The tiny models, LLaDA with a decode.yaml."""
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model/llada/decode.yaml").write_text(DECODE)
    return tmp_path / "model"


@pytest.fixture
def packaged(model, tmp_path, monkeypatch) -> Path:
    """The same, in the place of the models inside the package."""
    monkeypatch.chdir(tmp_path)
    model.rename(tmp_path / "package")
    monkeypatch.setitem(loading.TAGS, "mini", tmp_path / "package")
    return tmp_path / "package"


def test_each_task_has_its_own_options(model):
    config = model / "llada/config.yaml"
    assert model_options(config, "decode") == {
        "strategy": "semi_ar",
        "num_blocks": 2,
        "steps": 2,
        "canvas_length": 6,
    }
    options = make_options(model_options(config, "deliberate"))
    assert options.strategy == "deliberation_low_confidence"
    ratio = options.sampler.mask_ratio
    assert ratio == 1.0 and isinstance(ratio, float)
    assert model_options(model / "llama/config.yaml", "decode") == {
        "strategy": "diffusion"
    }


def test_they_are_the_defaults_of_a_loaded_model(model, speech):
    speech2text = Speech2Text.from_pretrained(model)
    assert speech2text.recognizer.options == make_options(
        model_options(model / "llada/config.yaml", "decode")
    )
    assert speech2text(speech[0])[0][3].passes == 2
    given = Speech2Text.from_pretrained(model, steps=4, device="cpu")
    assert given.recognizer.options.sampler.steps == 4
    assert given.recognizer.options.strategy == "semi_ar"
    deliberator = Deliberator.from_pretrained(model, mask_ratio=0.5)
    assert deliberator.recognizer.options.sampler.mask_ratio == 0.5
    assert deliberator.recognizer.options.sampler.steps == 3


def test_another_strategy_has_its_own_defaults(model):
    config = model / "llada/config.yaml"
    diffusion = Speech2Text.from_pretrained(model, strategy="diffusion", steps=7)
    options = diffusion.recognizer.options.sampler
    assert (options.threshold, options.steps) == (0.5, 7)
    assert (options.num_blocks, options.canvas_length) == (1, 64)
    named = model_options(config, "deliberate", {"strategy": "deliberation_random"})
    assert named == {"strategy": "deliberation_random"}
    named = model_options(config, "decode", {"strategy": "semi_ar", "steps": 9})
    assert named == model_options(config, "decode")


def test_without_audio_none_of_the_models_defaults_hold(model):
    given = {"use_audio": False}
    options = Deliberator.from_pretrained(model, **given).recognizer.options
    assert options == make_options({"strategy": "deliberation_low_confidence"})


def test_a_share_to_be_masked_takes_the_place_of_a_probability(model):
    config = model / "llada/config.yaml"
    doubts = "{mask_threshold: 0.7, passes: 2}"
    file = model / "llada/decode.yaml"
    file.write_text(
        f"deliberate: {{confidence: {doubts}, steps: 3}}\n"
        "decode: {mask_ctc: {mask_threshold: 0.8}}\n"
    )
    named = model_options(config, "deliberate", {"mask_ratio": 0.1})
    assert named == {
        "strategy": "deliberation_low_confidence",
        "steps": 3,
        "confidence": {"passes": 2},
    }
    named = model_options(config, "deliberate", {"steps": 2})
    assert named["confidence"] == {"mask_threshold": 0.7, "passes": 2}
    named = model_options(config, "decode", {"mask_ctc": {"mask_ratio": 0.1}})
    assert named["mask_ctc"] == {}
    named = model_options(config, "decode", {"mask_ratio": 0.1})
    assert named["mask_ctc"] == {"mask_threshold": 0.8}


def test_the_release_has_none_of_the_models_defaults(model):
    for kind, strategy in (
        (Speech2Text, "diffusion"),
        (Deliberator, "deliberation_low_confidence"),
    ):
        options = kind.from_pretrained(model, profile="release").recognizer.options
        assert options == make_options({"strategy": strategy, "profile": "release"})
        assert options.sampler.tail == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("decoding: {steps: 2}", r"unknown key 'decoding' \(did you mean 'decode'"),
        (
            "decode: {stepz: 2}",
            r"decode: unknown option 'stepz' \(did you mean 'steps'",
        ),
        ("decode: {steps: 0}", "decode: steps: 0 does not fit"),
        ("decode: {steps: 2.5}", "decode: steps: 2.5 does not fit; allowed: a whole"),
        ("decode: {joint: 2}", "joint: 2 does not fit; allowed: .*true or false"),
        ("decode: {joint: {wieght: 2}}", r"joint: unknown key 'wieght' .*'weight'"),
        ("decode: {refine: 1}", "unknown option 'refine' .*draft_refinement.rounds"),
        ("decode: {strategy: mask_ctc}", "decode: strategy: .*; write mask_ctc: true"),
        ("decode: {strategy: deliberation_random}", "is not for this"),
        ("decode: 5", "option: value"),
        ("diffusion: {stepz: 2}", "diffusion: unknown option 'stepz'"),
        ("diffusion: {strategy: semi_ar}", "take its 'strategy' out"),
        ("decode: {", "not valid YAML"),
        ("- decode", "at the top level"),
    ],
)
def test_a_file_that_does_not_fit_is_named(model, content, message):
    file = model / "llada/decode.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as e:
        model_options(model / "llada/config.yaml", "decode")
        model_options(model / "llada/config.yaml", "decode", {"strategy": "diffusion"})
    assert str(e.value).startswith(f"{file}: ") and "\n" not in str(e.value)


def test_publishing_takes_it_along_and_drops_an_old_one(model, cache):
    for system in ("llada", "llama"):
        publish(model, system, "mine")
    copy = cache / "models/mine/llada/decode.yaml"
    assert copy.read_text() == DECODE
    assert not (cache / "models/mine/llama/decode.yaml").exists()
    assert find_model("mine")[0].parent == copy.parent
    (model / "llada/decode.yaml").unlink()
    publish(model, "llada", "mine")
    assert not copy.exists()


def test_mini_is_found_behind_what_the_user_has_of_that_name(packaged, cache, tmp_path):
    assert find_model("mini")[0] == packaged / "llada/config.yaml"
    assert find_model("mini", "llama")[0] == packaged / "llama/config.yaml"
    (tmp_path / "mini").mkdir()  # as the recipe's corpus is called
    assert find_model("mini")[0] == packaged / "llada/config.yaml"
    publish(packaged, "llada", "mini")
    assert find_model("mini")[0] == cache / "models/mini/llada/config.yaml"
    shutil.copytree(packaged / "llada", tmp_path / "mini/llada")
    assert find_model("mini")[0] == Path("mini/llada/config.yaml")


def test_names_without_a_model(packaged, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^empty: no config.yaml in it"):
        find_model("empty")
    with pytest.raises(UserError, match=r"^mini, .*package: no config.yaml in it"):
        (tmp_path / "mini").mkdir()
        shutil.move(packaged / "llada", tmp_path / "moved")
        find_model("mini")
    shutil.move(tmp_path / "moved", packaged / "llada")
    (tmp_path / "mini").rmdir()
    publish(packaged, "llada", "mine")
    with pytest.raises(UserError, match=r"did you mean 'mine'.*tags: mine, mini$"):
        find_model("mines")
    shutil.rmtree(packaged)
    with pytest.raises(UserError, match=r"^mini: this installation .* lacks .*package"):
        find_model("mini")


@pytest.mark.parametrize(("written", "meant"), [("false", False), ("true", True)])
def test_a_switch_is_read_as_one(tmp_path, written, meant):
    (tmp_path / "decode.yaml").write_text(
        f"deliberate: {{rescoring: {{combination: {written}}}, block_cache: {written}}}"
    )
    options = make_options(model_options(tmp_path / "config.yaml", "deliberate"))
    assert options.extensions["rescoring"].combination is meant
    assert ("block_cache" in options.extensions) is meant
