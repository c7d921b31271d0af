"""The LM adapts to text alone; what it has learnt is where a training begins."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("espnet2")

from train_helpers import job, make_data, train_command

LM = "decoder.lm."


def of_lm(file) -> dict[str, torch.Tensor]:
    state = torch.load(file, weights_only=True)
    return {k: v for k, v in state.items() if k.startswith(LM)}


def test_a_training_begins_with_the_lm_adapted_to_text(
    trainings, tiny_config, tmp_path
):
    data = make_data(tmp_path / "data", 12)
    (data / "text_shape").write_text("".join(f"utt{i:03} 9\n" for i in range(12)))
    conf = {**tiny_config["decoder_conf"], "lora": None, "train_lm": True}
    config = {**tiny_config, "decoder_conf": conf, "batch_size": 4}
    cmd = train_command(tmp_path / "text", data, config, max_epoch=3)
    speech = f"{data}/wav.scp,speech,sound"
    cmd = [
        word.replace(f"{data}/shape", f"{data}/text_shape")
        for i, word in enumerate(cmd)
        if speech not in cmd[i : i + 2]
    ]
    log = tmp_path / "text/train.log"
    assert trainings.run(job(tmp_path / "text", cmd)) == [0], log.read_text()
    text_model = tmp_path / "text/out/3epoch.pth"
    first = of_lm(tmp_path / "text/out/1epoch.pth")
    assert any(not torch.equal(v, first[k]) for k, v in of_lm(text_model).items())

    init = f"{text_model}:decoder.lm:decoder.lm"
    still = {**config, "optim": "sgd", "optim_conf": {"lr": 0.0}}
    cmd = train_command(tmp_path / "speech", data, still, init_param=init)
    log = tmp_path / "speech/train.log"
    assert trainings.run(job(tmp_path / "speech", cmd)) == [0], log.read_text()
    begun = of_lm(tmp_path / "speech/out/1epoch.pth")
    assert begun.keys() == first.keys()
    for name, tensor in of_lm(text_model).items():
        assert torch.equal(tensor, begun[name]), name
