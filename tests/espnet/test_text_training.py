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


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("decoder", ["llama", "llada"])
def test_without_speech_the_lm_is_shown_its_text_where_that_is_injected(
    decoder, injected, tiny_config, word_lm
):
    import espnet_llada

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--token_list", "x"])
    conf = {**tiny_config["decoder_conf"], "lm": str(word_lm), "ctc": {"weight": 0.0}}
    conf["posterior_prefix"] = {"text_injection": injected}
    whisper = tiny_config["encoder_conf"]["whisper"]
    for key, value in {
        **tiny_config,
        "postencoder": "whisper_qformer",
        "postencoder_conf": {"whisper": whisper, "window": 4},
        "decoder": decoder,
        "decoder_conf": conf,
    }.items():
        setattr(args, key, value)
    torch.manual_seed(0)
    model = ASRTask.build_model(args).eval()
    seen = []

    def remember(_, given):
        seen.append(int(given[1][0].sum()))  # valid positions of the first row

    model.decoder.lm.register_forward_pre_hook(remember)
    text = torch.randint(3, 50, (2, 30))
    lengths = torch.tensor([30, 4])
    losses = [model(text=text, text_lengths=lengths)[0].detach() for _ in range(2)]
    assert torch.equal(*losses), "evaluation draws nothing new"
    prompt = len(model.decoder.prompt_ids)
    most = prompt + 30 + 1 + conf["max_eos_padding"]
    assert (seen[0] > most) == injected
