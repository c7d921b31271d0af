"""``compile_layers`` in a training of ESPnet's."""

from __future__ import annotations

import pytest

pytest.importorskip("espnet2")


@pytest.mark.parametrize("compiled", [False, True])
def test_espnet_s_model_has_the_same_parts_compiled(tiny_config, compiled, monkeypatch):
    import espnet_llada

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    given = []
    monkeypatch.setattr(
        "espnet_llada.espnet.model.compile_layers", lambda *parts: given.append(parts)
    )
    args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--token_list", "x"])
    decoder = {**tiny_config["decoder_conf"], "compile_layers": compiled}
    own = {**tiny_config, "decoder": "llada", "decoder_conf": decoder}
    for key, value in own.items():
        setattr(args, key, value)
    model = ASRTask.build_model(args)
    assert given == [(model.encoder, model.postencoder, model.decoder)] * compiled
