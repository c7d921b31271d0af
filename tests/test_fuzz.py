"""Whatever is in a file or an option: it is taken, or refused in one line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fuzzing import ODD, as_json, as_yaml, command_line, damaged, mutated, one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_llada.bin import asr_inference, cli, convert, plan
from espnet_llada.build import build_model
from espnet_llada.inference.batches import Utterance
from espnet_llada.inference.decode_dir import DecodeDir
from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.inference.options import (
    GROUPS,
    OPTIONS,
    job_options,
    make_options,
    nested,
    options_class,
)
from espnet_llada.io import feature_cache
from espnet_llada.io.checkpoint import trained_state
from espnet_llada.io.first_pass import read_first_pass
from espnet_llada.io.kaldi.table import read_scp, read_text
from espnet_llada.io.schema import option_fields
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.llama_files import load_llama
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.recipe.options import Options, parse_options
from espnet_llada.release.checkpoint import read_release
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

REPO = Path(__file__).parents[1]
CONF, MINI = REPO / "conf", REPO / "espnet_llada/mini"


def shipped(pattern: str) -> list[Any]:
    """Content of the YAMLs in conf/."""
    return [yaml.safe_load(p.read_text()) for p in sorted(CONF.glob(pattern))]


@dataclass(frozen=True)
class Place:
    """A directory to write in, and tiny weights in their real formats."""

    top: Path
    lms: tuple[Path, Path]
    whisper: Path
    model: Path
    words: Path
    release: dict[str, Any]

    def write(self, name: str, content: bytes) -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def with_json(self, random: Random, source: Path, *names: str) -> Path:
        """A copy of a directory, one of whose files is damaged."""
        copy = self.top / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        name = random.choice(names)
        content = json.loads((copy / name).read_text(encoding="utf-8"))
        (copy / name).write_bytes(as_json(random, content))
        return copy


@pytest.fixture(scope="module")
def place(
    tmp_path_factory, tiny_lm, tiny_llada, tiny_whisper, model_dir, release_content
):
    top = tmp_path_factory.mktemp("fuzz")
    words = top / "words"
    shutil.copytree(tiny_lm, top / "lm")
    size = json.loads((tiny_lm / "config.json").read_text())["vocab_size"]
    ids = [-1] * (size - 60) + list(range(2, 62))
    (top / "lm/whisper_tokens.json").write_text(json.dumps(ids))
    config = yaml.safe_load((MINI / "llada/config.yaml").read_text())
    for section in ("encoder_conf", "postencoder_conf"):
        config[section]["whisper"] = str(tiny_whisper)
    config["decoder_conf"]["lm"] = str(top / "lm")
    config["decoder_conf"]["whisper_scorer"]["bottleneck"] = 4
    words.mkdir()
    (words / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(trained_state(build_model(config)), words / "latest.pth")
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(top / "a.wav", noise, 16_000)
    (top / "wav.scp").write_text(f"a {top}/a.wav\n")
    for file in CONF.glob("*.yaml"):
        (top / "conf").mkdir(exist_ok=True)
        shutil.copy(file, top / "conf")
    lms = tiny_lm, tiny_llada
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPNET_LLADA_CACHE", str(top / "cache"))
        patch.chdir(top)
        yield Place(top, lms, tiny_whisper, model_dir, words, release_content)


def config_yaml(random: Random, place: Place) -> None:
    directory = random.choice([place.words, place.model / "llada"])
    config = yaml.safe_load((directory / "config.yaml").read_text())
    file = place.write("config/config.yaml", as_yaml(random, config))
    load_model(file, next(directory.glob("*.pth")))


def decode_yaml(random: Random, place: Place) -> None:
    content = yaml.safe_load((MINI / "llada/decode.yaml").read_text())
    file = place.write("decode/decode.yaml", as_yaml(random, content))
    task = random.choice(["decode", "deliberate"])
    strategy = {"decode": "semi_ar", "deliberate": "deliberation_random"}[task]
    given = random.choice([{}, {"strategy": strategy}, {"profile": "release"}])
    job_options(file.parent / "config.yaml", task, given, random.random() < 0.5)


def options_yaml(random: Random, place: Place) -> None:
    more = {"use_audio": True, "output_case": "lower", "batch_size": 2, "lm": "x"}
    content = random.choice([*shipped("d*.yaml"), more])
    file = place.write("options.yaml", as_yaml(random, content))
    command = ["--config", str(file), "--output_dir", "out"]
    asr_inference.main([*command, "--data_path_and_name_and_type", "no,speech,sound"])


def sweep_yaml(random: Random, place: Place) -> None:
    content = random.choice([*shipped("sweep*.yaml"), *shipped("bench*.yaml")])
    keys = random.sample(sorted(content["rows"]), 4)
    content = {
        "rows": {key: content["rows"][key] for key in keys},
        "train_configs": content.get("train_configs"),
        "baseline": random.choice(keys),
    }
    read_sweep(place.write("conf/sweep_this.yaml", as_yaml(random, content)))


def train_yaml(random: Random, place: Place) -> None:
    content = random.choice(shipped("train_*8b.yaml"))
    content["decoder_conf"]["lm"] = str(random.choice(place.lms))
    plan.main([str(place.write("train.yaml", as_yaml(random, content)))])


def lm_json(random: Random, place: Place) -> None:
    names = "config.json", "tokenizer.json", "tokenizer_config.json"
    copy = place.with_json(random, random.choice(place.lms), *names)
    load_llama(copy, torch.float32)
    tokenizer = LMTokenizer(copy)
    tokenizer.decode(tokenizer.encode("hello there"))


def whisper_json(random: Random, place: Place) -> None:
    copy = place.with_json(random, place.whisper, "config.json")
    WhisperEncoder.from_pretrained(copy, 0.0)
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (copy / "model.safetensors.index.json").write_bytes(as_json(random, index))
    open_whisper(copy, "decoder")


def whisper_pt(random: Random, place: Place) -> None:
    sides = [f"n_{side}_{n}" for side in ("audio", "text") for n in ("ctx", "state")]
    dims = dict.fromkeys([*sides, "n_audio_head", "n_audio_layer", "n_mels"], 8)
    content = {"dims": dims, "model_state_dict": {"encoder.x": torch.zeros(1)}}
    torch.save(mutated(random, content), place.top / "whisper.pt")
    WhisperEncoder.from_pretrained(place.top / "whisper.pt", 0.0)


def words_json(random: Random, place: Place) -> None:
    copy = place.with_json(random, place.top / "lm", "whisper_tokens.json")
    config = yaml.safe_load((place.words / "config.yaml").read_text())
    config["decoder_conf"]["lm"] = str(copy)
    build_model(config)


def converted(random: Random, place: Place) -> None:
    shutil.rmtree(place.top / "made", ignore_errors=True)
    command = ["--lm", str(place.lms[1]), "--output", str(place.top / "made")]
    convert.main(command)
    record = place.top / "made/convert.json"
    record.write_bytes(as_json(random, json.loads(record.read_text())))
    convert.main(command)


def release_pth(random: Random, place: Place) -> None:
    content = dict(place.release["model"])
    name = random.choice(sorted(content))
    new = [f"{name}x", name.replace("0", "9" * 10), name.replace("0", "²"), 5, None]
    change = random.randrange(4)
    if change == 0:
        del content[name]
    elif change == 1:
        content[random.choice(new)] = content.pop(name)
    else:
        shapes = torch.zeros(3, 5), torch.zeros(()), torch.zeros(0, 4)
        content[name] = random.choice([*shapes, *ODD[:20]])
    torch.save({"model": content}, place.top / "release.pth")
    read_release(place.top / "release.pth")


def meta_yaml(random: Random, place: Place) -> None:
    content = {
        "files": {"asr_model_file": "x.pth"},
        "yaml_files": {"asr_train_config": "config.yaml"},
    }
    file = place.write("pack/meta.yaml", as_yaml(random, content))
    for name in ("config.yaml", "x.pth"):
        place.write(f"pack/{name}", b"x")
    find_model(file.parent)


def features_json(random: Random, place: Place) -> None:
    shard = {"storage": "float32", "bytes": 1, "sha256": "ab"}
    shard["entries"] = {"u1": [0, 5, "a.wav"], "u2": [5, 5, "b.wav"]}
    wanted = {"whisper": "w", "sha256": "a", "dtype": "float32", "d_model": 16}
    folder = place.write("feats/frames.1.ark", b"x").parent
    (folder / "frames.1.json").write_bytes(as_json(random, shard))
    kept = json.dumps(wanted).encode()
    choices = kept, as_json(random, wanted)
    (folder / "features.json").write_bytes(random.choice(choices))
    with feature_cache.locked(folder, wanted):
        entries = feature_cache.stored_entries(folder)
        feature_cache.write_tables(folder, entries, entries, 16)


def decoding_json(random: Random, place: Place) -> None:
    utterances = [Utterance("a", "b")]
    identity = {"options": {"steps": 1}, "code": ["a", "b"]}
    folder = place.write("decoded/decoding.json", as_json(random, identity)).parent
    with DecodeDir(folder, identity, utterances, 1) as directory:
        directory.begin()


def tables(random: Random, place: Place) -> None:
    lines = ["u1 a.flac", "u2 b c.flac", "u3  x"]
    for _ in range(2):
        odd = ["", "\t", "u1", "u1 x", "\ufeffu4 y", "\0", "u\u00a05 z", "é e"]
        lines.insert(random.randrange(4), random.choice([*odd, "\u2028", "u6 c |"]))
    file = place.write("table", damaged(random, "\n".join(lines)))
    reads = read_scp, read_text, lambda path: read_first_pass(path, ["u1"])
    random.choice(reads)(file)


GROUPED = {
    f"{group}.{option.name}": option.default
    for group in GROUPS
    for option in option_fields(options_class(group))
}
DECODING = {**OPTIONS, **dict.fromkeys(GROUPS, True), **GROUPED}
SAMPLER = {f"--{name}": [str(value)] for name, value in DECODING.items()}
OTHERS = {
    "--batch_size": ["2"],
    "--output_case": ["lower"],
    "--lm": [],
    "--whisper": [],
}


def transcribe_options(random: Random, place: Place) -> None:
    options = SAMPLER | OTHERS | {"--system": ["llama"], "--device": ["cpu"]}
    command = ["transcribe", str(place.top / "a.wav"), "--model", str(place.model)]
    cli.main([*command, *command_line(random, options)])


def inference_options(random: Random, place: Place) -> None:
    options = SAMPLER | OTHERS | {"--ngpu": ["0"], "--resume": ["false"]}
    options |= {"--key_file": [], "--first_pass": [], "--use_audio": ["true"]}
    data = f"{place.top}/wav.scp,speech,sound"
    command = ["--model_tag", str(place.model), "--output_dir", "decoded_a"]
    command += ["--data_path_and_name_and_type", data]
    asr_inference.main([*command, *command_line(random, options)])


def plan_options(random: Random, place: Place) -> None:
    names = "num_gpus hours_of_audio seconds tokens max_seconds max_tokens mfu gpu"
    options = {f"--{name}": ["1"] for name in names.split()}
    config = str(CONF / "train_asr_whisper_llada_8b.yaml")
    plan.main([config, *command_line(random, options)])


def recipe_options(random: Random, place: Place) -> None:
    options = {f"--{name}": [str(value)] for name, value in asdict(Options()).items()}
    sets = "--train_set a --valid_set b --test_sets c".split()
    parse_options([*command_line(random, options), *sets])


def decoding_options(random: Random, place: Place) -> None:
    names = random.sample(sorted(DECODING), 2)
    make_options(nested({name: random.choice(ODD) for name in names}))


TARGETS: list[Callable[[Random, Place], None]] = [
    *(config_yaml, decode_yaml, options_yaml, sweep_yaml, train_yaml, meta_yaml),
    *(lm_json, whisper_json, whisper_pt, words_json, converted, release_pth),
    *(features_json, decoding_json, tables, transcribe_options, inference_options),
    *(plan_options, recipe_options, decoding_options),
]


@pytest.mark.parametrize("examples", [10, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda function: function.__name__)
def test_it_is_taken_or_refused_in_one_line(target, examples, place, monkeypatch):
    monkeypatch.setattr(logging, "exception", logging.error)  # of what is expected

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def holds(random: Random) -> None:
        try:
            target(random, place)
        except UserError as e:
            assert one_line(e), str(e)

    holds()
