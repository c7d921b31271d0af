"""Swapping the decoder of an ESPnet recipe, with asr.sh's defaults."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from espnet_llada import Speech2Text, UserError, run

pytest.importorskip("espnet2")

from train_helpers import TEXTS, job, three_utterances, train_command

CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16},
        **{"num_blocks": 2, "input_layer": "conv2d"},
    },
    "frontend_conf": {"n_fft": 256, "hop_length": 128},
}
TRANSFORMER = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3},
}
CHARACTERS = ["<blank>", "<unk>", "<space>", *"ADEGHIKLNORSTVWY", "<sos/eos>"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return three_utterances(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sections(tiny_config) -> dict[str, dict]:
    """Of a train YAML: the parts that are swapped."""
    names = ("decoder", "decoder_conf")
    ours = {name: tiny_config[name] for name in names}
    whisper = {n: tiny_config[n] for n in ("encoder", "encoder_conf")}
    return {"llada": ours, "whisper": whisper}


def training(exp: Path, data: Path, config: dict, **options: object) -> dict:
    """A job; ``options`` are those of ``asr_train``."""
    log = options.pop("log", "train.log")
    cmd = train_command(exp, data, {**config, "batch_size": 2}, **options)
    if config["decoder"] == "transformer":
        (exp / "tokens.txt").write_text("\n".join(CHARACTERS) + "\n")
        cmd[cmd.index("hugging_face")] = "char"
    return job(exp, cmd, log)


def finished(trainings, *jobs: dict, codes: list[int] | None = None) -> list[str]:
    """Logs of jobs that end with ``codes``, by default 0."""
    ended = trainings.run(*jobs)
    logs = [Path(j["log"]).read_text() for j in jobs]
    assert ended == (codes or [0] * len(jobs)), "\n".join(x[-2000:] for x in logs)
    return logs


def decode(exp: Path, data: Path, *more: object) -> dict[str, str]:
    """Texts by utterance, of our command on a model that a job has trained."""
    from espnet_llada.bin import asr_inference

    given = ["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"]
    given += ["--asr_train_config", exp / "out/config.yaml"]
    given += ["--asr_model_file", exp / "out/1epoch.pth"]
    given += ["--output_dir", exp / "decoded", "--batch_size", 1, "--ngpu", 0, *more]
    asr_inference.main([str(word) for word in given])
    lines = (exp / "decoded/1best_recog/text").read_text().splitlines()
    return dict(line.partition(" ")[::2] for line in lines)


def test_another_decoders_model_goes_to_espnet(trainings, data, sections, tmp_path):
    """Trained by the same command, decoded by the same, with ESPnet's options."""
    mine, whisper = tmp_path / "conformer", tmp_path / "whisper"
    logs = finished(
        trainings,
        training(mine, data, {**CONFORMER, **TRANSFORMER}),
        training(whisper, data, {**sections["whisper"], **TRANSFORMER}),
    )
    assert not any("0 of 0" in log for log in logs)
    (tmp_path / "decode.yaml").write_text("beam_size: 2\nctc_weight: 0.3\n")
    limits = ["--maxlenratio", "-4", "--nbest", 2]
    for exp in (mine, whisper):
        texts = decode(exp, data, "--config", tmp_path / "decode.yaml", *limits)
        assert list(texts) == list(TEXTS)
        assert (exp / "decoded/2best_recog/text").is_file()


def collect(exp: Path, data: Path, config: dict) -> dict:
    """Stage 10 of one job, into ``exp/out``."""
    return training(exp, data, config, collect_stats="true", log="stats.log")


def test_global_mvn_of_asr_sh(trainings, data, sections, tmp_path):
    """Stages 10, 11 and 12 with its default, feats_normalize: global_mvn."""
    from espnet2.bin.aggregate_stats_dirs import aggregate_stats_dirs

    llada = sections["llada"]
    configs = {
        "espnets": {**CONFORMER, **TRANSFORMER},
        "ours": {**CONFORMER, **llada},
        "whisper": {**sections["whisper"], **llada},
    }
    jobs = [collect(tmp_path / n / "stats", data, c) for n, c in configs.items()]
    finished(trainings, *jobs)
    found = {}
    for name in configs:
        stats = tmp_path / name / "stats"
        aggregate_stats_dirs([stats / "out"], stats / "sum", "INFO", False)
        assert {p.name for p in (stats / "sum/train").glob("*_shape")} == {
            *("speech_shape", "text_shape")
        }
        # Of any encoder's, as stage 14 packs it.
        found[name] = dict(np.load(stats / "sum/train/feats_stats.npz"))
    for key, value in found["espnets"].items():
        np.testing.assert_allclose(found["ours"][key], value, rtol=1e-6)

    def stage_11(name: str) -> dict:
        conf = f"stats_file={tmp_path}/{name}/stats/sum/train/feats_stats.npz"
        mvn = {"normalize": "global_mvn", "normalize_conf": conf}
        return training(tmp_path / name, data, configs[name], **mvn)

    ours, whisper = finished(trainings, stage_11("ours"), stage_11("whisper"))
    unused = "normalize: global_mvn is not used: whisper_frozen takes waveforms"
    assert unused not in ours and whisper.count(unused) == 1
    assert "Set decoder to none" not in ours
    for name in ("ours", "whisper"):
        assert list(decode(tmp_path / name, data, "--steps", 2)) == list(TEXTS)
    config = yaml.safe_load((tmp_path / "ours/out/config.yaml").read_text())
    assert config["normalize"] == "global_mvn"


def test_an_lm_of_asr_sh_is_not_used_and_said_so(model_dir, data, tmp_path, caplog):
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "out").symlink_to(model_dir / "llada")
    model = ["--asr_model_file", model_dir / "llada/valid.acc.ave.pth", "--steps", 2]
    caplog.set_level(logging.WARNING)
    expected = decode(exp, data, *model)
    assert not caplog.records
    lm = ["--lm_train_config", "exp/lm/config.yaml", "--lm_file", "exp/lm/x.pth"]
    assert decode(exp, data, *model, *lm, "--ngram_file", "exp/4gram.bin") == expected
    (record,) = caplog.records
    assert record.getMessage() == (
        "lm_file, lm_train_config, ngram_file: without effect on this decoder, ignored"
    )


def test_an_lm_is_said_to_be_unused_before_it_is_trained(capsys):
    """asr.sh's stages 6 and 7 call it so; the latter on the terminal."""
    stage_7 = "-m espnet2.bin.launch --cmd x -- python3 -m espnet2.bin.lm_train --help"
    with pytest.raises(SystemExit):
        run.main([*stage_7.split()[:2], "--help", *stage_7.split()[2:]])
    err = capsys.readouterr().err
    assert err.count("asr.sh --use_lm false") == 1
    with pytest.raises(SystemExit):
        run.main("-m espnet2.bin.launch --help".split())
    assert "use_lm" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def registered():
    """ESPnet's module of inference, as a program has it that calls ``register``."""
    import espnet_llada

    espnet_llada.register()
    espnet_llada.register()
    from espnet2.bin import asr_inference

    return asr_inference


def test_espnets_speech2text_returns_ours(registered, model_dir, data):
    files = model_dir / "llada/config.yaml", model_dir / "llada/valid.acc.ave.pth"
    ours = Speech2Text(*files, steps=2)
    expected = ours(data / "utt1.flac")[0][0]
    named = dict(zip(("asr_train_config", "asr_model_file"), files, strict=True))
    lm = {"lm_train_config": "lm/config.yaml", "lm_file": "lm/1epoch.pth"}
    for found in (
        registered.Speech2Text(*files, steps=2),
        registered.Speech2Text(asr_model_file=str(files[1]), beam_size=20, steps=2),
        registered.Speech2Text.from_pretrained(**named, **lm, device="cpu", steps=2),
    ):
        assert type(found) is Speech2Text
        assert found(data / "utt1.flac")[0][0] == expected
    with pytest.raises(UserError, match="unknown option 'stepz'"):
        registered.Speech2Text(*files, stepz=2)


def test_espnets_own_command_decodes_ours(
    registered, trainings, data, sections, tmp_path
):
    config = {**sections["whisper"], **sections["llada"]}
    finished(trainings, training(tmp_path, data, config))
    expected = decode(tmp_path, data)
    given = ["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"]
    given += ["--asr_train_config", tmp_path / "out/config.yaml"]
    given += ["--asr_model_file", tmp_path / "out/1epoch.pth"]
    given += ["--output_dir", tmp_path / "espnet", "--num_workers", 0]
    registered.main([str(word) for word in given])
    lines = (tmp_path / "espnet/1best_recog/text").read_text().splitlines()
    assert dict(line.partition(" ")[::2] for line in lines) == expected


def test_espnets_speech2text_of_other_decoders_is_its_own(registered, data, tmp_path):
    from espnet2.tasks.asr import ASRTask

    cmd = ["--output_dir", "x", "--token_list", "x", "--token_type", "char"]
    defaults = vars(ASRTask.get_parser().parse_args(cmd))
    config = {**defaults, **CONFORMER, **TRANSFORMER, "token_list": CHARACTERS}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    stock = registered.Speech2Text(tmp_path / "config.yaml", maxlenratio=-2.0)
    assert type(stock) is registered.Speech2Text
    assert len(stock(np.zeros(16_000, np.float32))) == 1


def test_what_cannot_be_decoded_is_refused_and_the_rest_decodes(
    trainings, data, sections, tmp_path
):
    config = {**CONFORMER, **sections["llada"]}
    layers = {**config, "model_conf": {"interctc_weight": 0.3}}
    layers["encoder_conf"] = {**CONFORMER["encoder_conf"], "interctc_layer_idx": [1]}
    conditioned = {**layers["encoder_conf"], "interctc_use_conditioning": True}
    adapter = {"use_adapter": "true", "adapter": "lora"}
    *_, adapted, stage_10 = finished(
        trainings,
        training(tmp_path / "layers", data, layers),
        training(tmp_path / "adapter", data, config, **adapter),
        collect(tmp_path / "stats", data, {**layers, "encoder_conf": conditioned}),
        codes=[0, 2, 2],
    )
    last = adapted.splitlines()[-1]
    assert last.startswith("error: use_adapter: ESPnet's adapters are not for decoder:")
    last = stage_10.splitlines()[-1]
    assert last.startswith("error: encoder_conf: interctc_use_conditioning: true needs")
    assert list(decode(tmp_path / "layers", data, "--steps", 2)) == list(TEXTS)


def test_a_pack_by_espnet_model_zoo(registered, model_dir, data, tmp_path, monkeypatch):
    """A zip of stage 14, which it unpacks below its cache."""
    zoo = pytest.importorskip("espnet_model_zoo.downloader")
    from espnet2.main_funcs.pack_funcs import pack

    files = model_dir / "llada/config.yaml", model_dir / "llada/valid.acc.ave.pth"
    config, model = map(str, files)
    given = {"asr_model_file": model}, {"asr_train_config": config}
    pack(*given, outpath=str(tmp_path / "x.zip"))
    here = partial(zoo.ModelDownloader, str(tmp_path / "cache"))
    monkeypatch.setattr(zoo, "ModelDownloader", here)
    loaded = registered.Speech2Text.from_pretrained(str(tmp_path / "x.zip"), steps=2)
    assert type(loaded) is Speech2Text
    speech = data / "utt1.flac"
    assert loaded(speech)[0][0] == Speech2Text(*files, steps=2)(speech)[0][0]


def test_espnet_load_of_202611(registered, model_dir, data, monkeypatch):
    espnet = pytest.importorskip("espnet")
    if not hasattr(espnet, "load"):
        pytest.skip("of ESPnet 202611, see tests/recipe/asr_sh.sh")
    files = model_dir / "llada/config.yaml", model_dir / "llada/valid.acc.ave.pth"
    unpacked = dict(zip(("asr_train_config", "asr_model_file"), files, strict=True))
    monkeypatch.setattr(registered, "download_pretrained", lambda tag: unpacked)
    loaded = espnet.load("x.zip", task="asr", device="cpu", steps=2)
    assert type(loaded) is Speech2Text
    speech = data / "utt1.flac"
    assert loaded(speech)[0][0] == Speech2Text(*files, steps=2)(speech)[0][0]
