from __future__ import annotations

import pytest
import torch

from espnet_llada.networks.whisper_file import WhisperConfig

SIZES = WhisperConfig(d_model=32, layers=2, heads=4, ffn=128, n_mels=80)


@pytest.fixture(scope="session")
def sizes():
    return SIZES


def reference_model(seed: int = 0):
    """A small random Whisper from transformers, in eval mode."""
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        d_model=SIZES.d_model,
        encoder_layers=SIZES.layers,
        encoder_attention_heads=SIZES.heads,
        encoder_ffn_dim=SIZES.ffn,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        num_mel_bins=SIZES.n_mels,
        vocab_size=64,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(seed)
    model = transformers.WhisperModel(config).eval()
    with torch.no_grad():  # transformers starts biases at 0 and norms at 1
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def model():
    return reference_model()


@pytest.fixture(scope="session")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(openai_content, tmp_path_factory):
    """The same weights as OpenAI would save them."""
    path = tmp_path_factory.mktemp("openai") / "tiny.pt"
    torch.save(openai_content, path)
    return path


@pytest.fixture(scope="session")
def openai_content(model):
    """What OpenAI's file would hold."""
    return {"dims": openai_dims(), "model_state_dict": openai_state(model)}


def openai_dims() -> dict[str, int]:
    return {
        "n_mels": SIZES.n_mels,
        "n_audio_ctx": SIZES.max_frames,
        "n_audio_state": SIZES.d_model,
        "n_audio_head": SIZES.heads,
        "n_audio_layer": SIZES.layers,
    }


def openai_state(model) -> dict[str, torch.Tensor]:
    """Spelt out by module, so as not to repeat the table under test."""
    theirs = model.encoder
    state = {"encoder.positional_embedding": theirs.embed_positions.weight}

    def put(name, module):
        state[f"encoder.{name}.weight"] = module.weight
        if module.bias is not None:
            state[f"encoder.{name}.bias"] = module.bias

    put("conv1", theirs.conv1)
    put("conv2", theirs.conv2)
    put("ln_post", theirs.layer_norm)
    for i, layer in enumerate(theirs.layers):
        put(f"blocks.{i}.attn_ln", layer.self_attn_layer_norm)
        put(f"blocks.{i}.attn.query", layer.self_attn.q_proj)
        put(f"blocks.{i}.attn.key", layer.self_attn.k_proj)
        put(f"blocks.{i}.attn.value", layer.self_attn.v_proj)
        put(f"blocks.{i}.attn.out", layer.self_attn.out_proj)
        put(f"blocks.{i}.mlp_ln", layer.final_layer_norm)
        put(f"blocks.{i}.mlp.0", layer.fc1)
        put(f"blocks.{i}.mlp.2", layer.fc2)
    state["decoder.token_embedding.weight"] = torch.zeros(3, 3)
    return {name: tensor.detach().clone() for name, tensor in state.items()}
