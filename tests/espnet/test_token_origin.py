"""A model is trained on ids of its own tokenizer, whoever's trainer it is in."""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_llada import UserError

pytest.importorskip("espnet2")

from train_helpers import job, make_data, train_command

LETTERS = ["<blank>", "<unk>", "<space>", *"abcdefghijklmnopqrstuvwxyz", "<sos/eos>"]
TEXTS = ["the dog", "a lovely voice"]


def espnet3_model(sections: dict):
    """As ``espnet3.utils.task_utils.get_espnet_model`` of ESPnet 202611."""
    from espnet_llada.espnet.task import ASRTask

    argv, sys.argv = sys.argv, ["dummy.py"]
    try:
        config = ASRTask.get_default_config()
    finally:
        sys.argv = argv
    config.update({**sections, "token_list": LETTERS, "token_type": "char"})
    args = argparse.Namespace(**config)
    return args, ASRTask.build_model(args)


def batch_of(preprocess) -> dict[str, torch.Tensor]:
    """As ESPnet3 makes them: a preprocessor, and ESPnet2's collate function."""
    from espnet2.train.collate_fn import CommonCollateFn

    rng, items = np.random.default_rng(0), []
    for i, text in enumerate(TEXTS):
        speech = rng.normal(0, 0.1, 8_000 + i).astype(np.float32)
        items.append((str(i), preprocess(str(i), {"speech": speech, "text": text})))
    return CommonCollateFn(int_pad_value=-1)(items)[1]


def test_ids_of_another_tokenizer_are_refused(tiny_config):
    import espnet_llada

    espnet_llada.register()
    from espnet2.train.preprocessor import CommonPreprocessor

    from espnet_llada.espnet.task import ASRTask

    args, model = espnet3_model(tiny_config)
    letters = CommonPreprocessor(
        True, token_type="char", token_list=LETTERS, space_symbol="<space>"
    )
    other = copy.copy(args)
    other.decoder_conf = {**args.decoder_conf, "text_case": "upper"}
    for preprocess in (letters, ASRTask.build_preprocess_fn(other, True)):
        batch = batch_of(preprocess)
        assert batch["text"].max() < model.decoder.lm.vocab_size, "none looks wrong"
        for call in (model, model.collect_feats):  # it collects statistics first
            with pytest.raises(UserError, match="not made by this tokenizer") as e:
                call(**batch)
            assert "espnet_llada.bin.asr_train" in str(e.value)
            assert "\n" not in str(e.value)

    own = batch_of(ASRTask.build_preprocess_fn(args, True))
    loss, _, weight = model(**own)
    assert float(loss.detach()) > 0 and int(weight) == 2
    assert set(model.collect_feats(**own)) == {"feats", "feats_lengths"}


def test_espnets_own_task_trains_once_registered(tiny_config, tmp_path):
    """As in a script of the user's own, with ESPnet's Trainer."""
    import espnet_llada

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    data = make_data(tmp_path / "data", 4)
    ASRTask.main(cmd=train_command(tmp_path, data, {**tiny_config, "batch_size": 2}))
    assert (tmp_path / "out/1epoch.pth").exists()


def test_ready_made_ids_are_refused_and_statistics_are_as_before(
    trainings, tiny_config, tmp_path
):
    data = make_data(tmp_path / "data", 4)
    cmd = train_command(tmp_path / "a", data, {**tiny_config, "batch_size": 2})
    stats = [*cmd, "--collect_stats", "true", "--output_dir", str(tmp_path / "stats")]
    (data / "ids").write_text("".join(f"utt{i:03} 3 4 5\n" for i in range(4)))
    ready = [word.replace("/text,text,text", "/ids,text,text_int") for word in cmd]
    ready += ["--use_preprocessor", "false"]
    jobs = job(tmp_path / "a", stats, "stats.log"), job(tmp_path / "a", ready)
    assert trainings.run(*jobs) == [0, 2], (tmp_path / "a/stats.log").read_text()
    last = (tmp_path / "a/train.log").read_text().splitlines()[-1]
    assert last.startswith("error: ") and "use_preprocessor: true" in last
    keys = (tmp_path / "stats/train/batch_keys").read_text().split()
    assert sorted(keys) == ["speech", "text"]


def test_the_fingerprint_is_of_what_makes_ids(tiny_lm, tmp_path):
    from espnet_llada.networks.tokenizer import LMTokenizer

    one, same = LMTokenizer(tiny_lm), LMTokenizer(tiny_lm)
    assert one.fingerprint == same.fingerprint
    assert 0 <= one.fingerprint < 2**63
    assert LMTokenizer(tiny_lm, "keep").fingerprint != one.fingerprint
    for file in Path(tiny_lm).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text + "\n")
    assert LMTokenizer(tmp_path).fingerprint != one.fingerprint
