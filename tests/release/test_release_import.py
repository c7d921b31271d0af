"""What the release's checkpoint becomes: a model directory, with LoRA or merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from espnet_llada import Speech2Text
from espnet_llada.build import build_model
from espnet_llada.io.checkpoint import IDENTITY, load_trained, trained_state
from espnet_llada.release.importing import ReleaseOptions, import_release
from espnet_llada.types import UserError

PARITY = Path(__file__).resolve().parents[3] / "shared/parity"
SPEECH = np.random.default_rng(3).normal(0, 0.1, 8000).astype(np.float32)


@pytest.fixture(scope="module")
def imported(release_checkpoint, tiny_whisper, tiny_llada, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("imported") / "model"
    sources = (release_checkpoint, str(tiny_whisper), str(tiny_llada))
    assert import_release(*sources, output, ReleaseOptions(heads=4))[0]
    return output


def test_each_tensor_has_its_place(imported, release_content):
    """Spelt out again, so that the table under test is not its own witness."""
    state, model = load_file(imported / "model.safetensors"), release_content["model"]
    layer = "adapter.bert.encoder.layer.1"
    blocks = "llada.base_model.model.model.transformer.blocks"
    pairs = {
        "postencoder.norm.bias": "adapter.bert.embeddings.LayerNorm.bias",
        "postencoder.layers.1.self_attention.value.weight": (
            f"{layer}.attention.self.value.weight"
        ),
        "postencoder.layers.1.self_attention.output.bias": (
            f"{layer}.attention.output.dense.bias"
        ),
        "postencoder.layers.1.cross_attention.key.weight": (
            f"{layer}.crossattention.self.key.weight"
        ),
        "postencoder.layers.1.cross_attention.norm.weight": (
            f"{layer}.crossattention.output.LayerNorm.weight"
        ),
        "postencoder.layers.1.ffn_in.weight": (
            f"{layer}.intermediate_query.dense.weight"
        ),
        "postencoder.layers.1.ffn_out.bias": f"{layer}.output_query.dense.bias",
        "postencoder.layers.1.ffn_norm.bias": f"{layer}.output_query.LayerNorm.bias",
        "decoder.audio_prefix.projection.weight": "linear_proj.weight",
        "decoder.lm.body.layers.1.self_attn.k_proj.lora_B.default.weight": (
            f"{blocks}.1.k_proj.lora_B.default.weight"
        ),
    }
    for ours, theirs in pairs.items():
        assert torch.equal(state[ours], model[theirs]), ours
    assert torch.equal(
        state["postencoder.queries"], model["speech_query_tokens"].squeeze(0)
    )


def test_it_is_a_whole_checkpoint_of_its_config(imported):
    config = yaml.safe_load((imported / "config.yaml").read_text())
    expected = trained_state(build_model(config))
    state = load_file(imported / "model.safetensors")
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in expected.items()
    }
    assert torch.equal(state[IDENTITY], expected[IDENTITY])


def test_speech2text_loads_it(imported):
    speech2text = Speech2Text.from_pretrained(imported, steps=3, canvas_length=6)
    text, _, ids, hypothesis = speech2text(SPEECH)[0]
    assert isinstance(text, str) and hypothesis.passes == 3
    assert all(0 <= i < speech2text.recognizer.model.decoder.lm.vocab_size for i in ids)


@pytest.mark.parametrize("merge_lora", [False, True])
def test_it_decodes_in_bfloat16(
    release_checkpoint, tiny_whisper, tiny_llada, tmp_path, merge_lora
):
    options = ReleaseOptions(heads=4, dtype="bfloat16", merge_lora=merge_lora)
    sources = (release_checkpoint, str(tiny_whisper), str(tiny_llada))
    import_release(*sources, tmp_path / "out", options)
    speech2text = Speech2Text.from_pretrained(tmp_path / "out", steps=2)
    assert speech2text(SPEECH)[0][3].passes == 2
    assert speech2text.recognizer.model.decoder.lm.head.dtype == torch.bfloat16


def logits_of(directory: Path) -> torch.Tensor:
    """On an all-mask canvas, LoRA unmerged where the release_checkpoint has it."""
    config = yaml.safe_load((directory / "config.yaml").read_text())
    model = build_model(config).eval()
    load_trained(model, load_file(directory / "model.safetensors"), "x")
    has_lora = any("lora_" in name for name, _ in model.named_parameters())
    assert has_lora == (config["decoder_conf"]["lora"] is not None)
    decoder = model.decoder
    with torch.no_grad():
        audio = model.encode(torch.from_numpy(SPEECH)[None], torch.tensor([8000]))
        canvas = torch.full((1, 7), decoder.special.mask)
        return decoder.canvas_logits(decoder.prefix(*audio), canvas, torch.tensor([7]))


def test_the_merged_model_equals_the_unmerged_one(
    imported, release_checkpoint, tiny_whisper, tiny_llada, tmp_path
):
    sources = (release_checkpoint, str(tiny_whisper), str(tiny_llada))
    options = ReleaseOptions(heads=4, merge_lora=True)
    import_release(*sources, tmp_path / "merged", options)
    merged, unmerged = logits_of(tmp_path / "merged"), logits_of(imported)
    assert (merged - unmerged).abs().max() < 1e-5 * unmerged.abs().max()
    # Without the updates the logits are others.
    record = json.loads((tmp_path / "merged/convert.json").read_text())
    assert "lm/model.safetensors" in record["outputs"]
    plain = load_file(tiny_llada / "model-00001.safetensors")
    merged = load_file(tmp_path / "merged/lm/model.safetensors")
    assert set(merged) == set(plain), "a LLaDA of the hub"
    assert json.loads((tmp_path / "merged/lm/config.json").read_text()) == {
        **json.loads((tiny_llada / "config.json").read_text()),
        "torch_dtype": "float32",
    }
    for part, changes in (("q", True), ("k", True), ("v", True), ("o", False)):
        name = "attn_out" if part == "o" else f"{part}_proj"
        name = f"model.transformer.blocks.0.{name}.weight"
        assert torch.allclose(merged[name], plain[name], atol=1e-3) != changes
    # Once more, and in another dtype.
    assert not import_release(*sources, tmp_path / "merged", options)[0]
    options = ReleaseOptions(heads=4, merge_lora=True, dtype="bfloat16")
    assert import_release(*sources, tmp_path / "merged", options)[0]
    rounded = logits_of(tmp_path / "merged").float()
    assert (rounded - unmerged).abs().max() < 0.1 * unmerged.abs().max()


def test_a_merged_lm_keeps_its_dtype(
    release_checkpoint, tiny_whisper, tiny_llada, tmp_path
):
    """As the hub's LLaDA is in bf16; the model is loaded in fp32 nevertheless."""
    lm = shutil.copytree(tiny_llada, tmp_path / "lm")
    tensors = load_file(lm / "model-00001.safetensors")
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(tensors, lm / "model-00001.safetensors")
    sources, out = (release_checkpoint, str(tiny_whisper), str(lm)), tmp_path / "out"
    import_release(*sources, out, ReleaseOptions(heads=4, merge_lora=True))
    written = load_file(out / "lm/model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert logits_of(out).dtype == torch.float32


def test_an_interrupted_run_leaves_nothing(
    release_checkpoint, tiny_whisper, tiny_llada, tmp_path, monkeypatch
):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("espnet_llada.io.weights.tensors.save_file", fail)
    sources = (release_checkpoint, str(tiny_whisper), str(tiny_llada))
    with pytest.raises(UserError, match="No space left"):
        import_release(*sources, tmp_path / "model", ReleaseOptions(heads=4))
    assert list(tmp_path.iterdir()) == []


def test_models_it_was_not_trained_on_are_refused(
    release_checkpoint, tiny_whisper, tiny_llada, tmp_path
):
    sources = [release_checkpoint, str(tiny_whisper), str(tiny_llada)]
    for heads in (5, 0):
        with pytest.raises(UserError, match=f"qformer_heads: {heads}"):
            import_release(*sources, tmp_path / "out", ReleaseOptions(heads=heads))
    options = ReleaseOptions(heads=4)
    other = shutil.copytree(tiny_whisper, tmp_path / "whisper")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "d_model": 8}))
    with pytest.raises(UserError, match="Whisper of width 16"):
        import_release(
            release_checkpoint, str(other), sources[2], tmp_path / "out", options
        )
    short = shutil.copytree(tiny_llada, tmp_path / "lm")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "n_layers": 1}))
    with pytest.raises(UserError, match="LM of 2 layers"):
        import_release(*sources[:2], str(short), tmp_path / "out", options)


@pytest.mark.skipif(not PARITY.is_dir(), reason="no reference outputs beside the repo")
def test_the_reference_checkpoint(tmp_path):
    sources = (PARITY / "checkpoint_best.pth", PARITY / "whisper", PARITY / "llada")
    import_release(*map(str, sources), tmp_path / "out", ReleaseOptions(heads=4))
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    model = build_model(config).eval()
    load_trained(model, load_file(tmp_path / "out/model.safetensors"), "x")
    arrays = np.load(PARITY / "reference_arrays.npz")
    for row in "abcd":
        pcm = arrays[f"pcm_{row}"].astype(np.float32) / 32768
        with torch.no_grad():
            vectors, lengths = model.encode(
                torch.from_numpy(pcm)[None], torch.tensor([len(pcm)])
            )
            embeds = model.decoder.audio_prefix.projection(vectors)[0].numpy()
            prefix = model.decoder.prefix(vectors, lengths)
            canvas = torch.full((1, 32), model.decoder.special.mask)
            logits = model.decoder.canvas_logits(prefix, canvas, torch.tensor([32]))[0]
        assert np.abs(embeds - arrays[f"audio_embeds_{row}"]).max() < 1e-5
        assert np.abs(logits.numpy() - arrays[f"first_logits_{row}"]).max() < 2e-4
