"""ESPnet's own parts and its Trainer, given files that would run code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_llada import Speech2Text, UserError
from espnet_llada.trust import PLAIN_PARTS, check_parts

pytest.importorskip("espnet2")

from train_helpers import job, make_data, train_command

LOADS = re.compile(
    r"torch\.(load|hub|jit)|from_pretrained|s3prl|fairseq|download|pickle|\beval\(|exec\("
)
CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16},
        **{"num_blocks": 1, "input_layer": "linear"},
    },
}


@pytest.fixture(scope="module")
def choices() -> dict:
    """ESPnet's tables with our parts in them, by section."""
    import espnet_llada

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    return {c.name: c.classes for c in ASRTask.class_choices_list}


def test_plain_parts_load_nothing_by_their_source(choices):
    for section, names in PLAIN_PARTS.items():
        for name in names - {"wav2vec_cnn"}:  # its docstring names torchaudio's copy
            source = inspect.getsource(inspect.getmodule(choices[section][name]))
            ours = choices[section][name].__module__.startswith("espnet_llada.")
            assert ours or not LOADS.search(source), (section, name)
    others = {
        (s, n) for s in PLAIN_PARTS for n in choices[s] if n not in PLAIN_PARTS[s]
    }
    assert {("frontend", "s3prl"), ("encoder", "hubert")} <= others
    for section, name in others:
        with pytest.raises(UserError, match=f"x: {section} '{name}' may"):
            check_parts({section: name}, "x")


def model_of(tiny_config, path: Path, **sections: object) -> tuple[Path, Path]:
    """Config and checkpoint (of nothing) of a model with an encoder of ESPnet's."""
    from espnet_llada.espnet.task import ASRTask

    cmd = ["--output_dir", "x", "--token_list", "x"]
    defaults = vars(ASRTask.get_parser().parse_args(cmd))
    decoder = {k: v for k, v in tiny_config.items() if k.startswith("decoder")}
    config = {**defaults, **CONFORMER, **decoder, **sections}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({}, path / "1epoch.pth")
    return path / "config.yaml", path / "1epoch.pth"


def refused(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as e:
        Speech2Text(*args, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_frontend_that_unpickles(tiny_config, evil, tmp_path, monkeypatch):
    """With a model of ESPnet's SSLTask, as a zip could have it inside."""
    ssl = tmp_path / "ssl"
    ssl.mkdir()
    torch.save({"model": evil}, ssl / "evil.pth")
    nothing = dict.fromkeys(("frontend", "specaug", "normalize", "init"))
    rest = {"token_list": ["a"], "input_size": 1, "frontend_conf": {}, "loss": []}
    rest |= {"util": [], "model": "espnet", "model_conf": {}}
    (ssl / "config.yaml").write_text(yaml.safe_dump({**CONFORMER, **nothing, **rest}))
    conf = {"frontend_conf": {"path_or_url": str(ssl / "evil.pth")}}
    files = model_of(tiny_config, tmp_path, frontend="espnet_ssl", frontend_conf=conf)
    assert "config.yaml: frontend 'espnet_ssl' may" in refused(*files)
    # If ESPnet's plain parts came to read files one day, they would get tensors.
    with monkeypatch.context() as m:
        m.setitem(PLAIN_PARTS, "frontend", {"espnet_ssl"})
        message = refused(*files)
    assert message.startswith(f"{ssl}/evil.pth: not read (damaged, or it holds code")
    assert not evil.ran.exists()
    refused(*files, trust_model=True)
    assert evil.ran.exists(), "the payload works"


def test_plain_parts_need_no_trust(tiny_config, evil, tmp_path):
    stats = tmp_path / "stats.npz"
    frames = np.random.default_rng(0).normal(size=(50, 80))
    figures = {"sum": frames.sum(0), "sum_square": (frames**2).sum(0)}
    np.savez(stats, count=len(frames), **figures)
    mvn = {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
    files = model_of(tiny_config, tmp_path, **mvn)
    assert "no espnet_llada checkpoint" in refused(*files), "it was built"
    np.savez(stats, count=np.array([evil], dtype=object), **figures)
    assert "ESPnet cannot build this model (ValueError: Object arr" in refused(*files)
    assert not evil.ran.exists()
    files = model_of(tiny_config, tmp_path, encoder_conf={"outputsize": 3})
    assert "ESPnet cannot build this model (TypeError: " in refused(*files)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "data", 4)


def test_training_reads_tensors_only(trainings, tiny_config, data, evil, tmp_path):
    """init_param, checkpoint.pth, and an epoch's model that is averaged."""
    torch.save({"decoder.audio_prefix.projection.bias": evil}, tmp_path / "evil.pth")
    nbest = {"best_model_criterion": [["valid", "acc", "max"]], "keep_nbest_models": 2}
    config = {**tiny_config, "batch_size": 4, **nbest}
    command = train_command(tmp_path / "a", data, config)
    out, init = tmp_path / "a/out", ["--init_param", str(tmp_path / "evil.pth")]
    first = job(tmp_path / "a", command)
    fresh = train_command(tmp_path / "b", data, config)
    codes = trainings.run(first, job(tmp_path / "b", [*fresh, *init]))
    assert codes == [0, 2], Path(first["log"]).read_text()
    assert "trust_model" not in yaml.safe_load((out / "config.yaml").read_text())
    last = (tmp_path / "b/train.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/evil.pth: not read (damaged, or it hol")

    good = (out / "1epoch.pth").read_bytes()
    torch.save({"decoder.audio_prefix.projection.bias": evil}, out / "1epoch.pth")
    more = [*command, "--max_epoch", "2"]
    assert trainings.run(job(tmp_path / "a", more, "averaged.log")) == [2]
    last = (tmp_path / "a/averaged.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {out}/1epoch.pth: not read (")
    (out / "1epoch.pth").write_bytes(good)

    checkpoint = torch.load(out / "checkpoint.pth", weights_only=False)
    torch.save({**checkpoint, "scaler": evil}, out / "checkpoint.pth")
    more = [*command, "--max_epoch", "3"]
    assert trainings.run(job(tmp_path / "a", more, "resumed.log")) == [2]
    last = (tmp_path / "a/resumed.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {out}/checkpoint.pth: not read (")
    assert not evil.ran.exists()

    trusting = job(tmp_path / "a", [*more, "--trust_model", "true"], "trusting.log")
    assert trainings.run(trusting) == [0], Path(trusting["log"]).read_text()
    assert evil.ran.exists(), "the payload works, and the user's word counts"


def test_a_train_yaml_cannot_ask_to_be_trusted(tiny_config, data, tmp_path):
    from espnet_llada.bin import asr_train

    cmd = train_command(tmp_path, data, {**tiny_config, "trust_model": True})
    with pytest.raises(UserError, match=r"^--output_dir, --token_list: req"):
        asr_train.main([])
    with pytest.raises(UserError, match="trust_model is for the command line") as e:
        asr_train.main(cmd)
    assert "\n" not in str(e.value)
