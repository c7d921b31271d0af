"""Whisper's own decoder: a Hugging Face directory decodes as OpenAI's file does."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_llada.baseline.whisper_decoder import WhisperDecoder
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.files import cache_dir
from espnet_llada.networks.whisper_file import hf_name
from espnet_llada.types import UserError

whisper = pytest.importorskip("whisper")
CLIPS = Path(__file__).resolve().parents[2] / (
    "egs2/librispeech/asr_llada/mini/LibriSpeech/test-clean-mini"
)


def huggingface(path: Path, target: Path) -> Path:
    """The directory that Hugging Face has of an OpenAI file of an English Whisper."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from whisper.tokenizer import get_tokenizer

    content = torch.load(path, weights_only=True)
    dims, state = content["dims"], {}
    for name, tensor in content["model_state_dict"].items():
        part, rest = name.split(".", 1)
        state[f"model.{part}.{hf_name(rest)}"] = tensor.float()
    config = WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_text_state"],
        encoder_layers=dims["n_audio_layer"],
        decoder_layers=dims["n_text_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        decoder_attention_heads=dims["n_text_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        max_target_positions=dims["n_text_ctx"],
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 50256),
        decoder_start_token_id=50257,
    )
    model = WhisperForConditionalGeneration(config)
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert missing in (["proj_out.weight"], [])
    model.tie_weights()
    model.save_pretrained(target)
    own = get_tokenizer(multilingual=False)
    ranks = Path(whisper.__file__).parent / "assets/gpt2.tiktoken"
    shown = {byte: char for char, byte in _bytes().items()}
    vocabulary = {}
    for line in ranks.read_bytes().splitlines():
        token, rank = line.split()
        vocabulary["".join(shown[b] for b in base64.b64decode(token))] = int(rank)
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(own.special_tokens, key=own.special_tokens.get)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    assert tokenizer.token_to_id("<|notimestamps|>") == own.no_timestamps
    tokenizer.save(str(target / "tokenizer.json"))
    never = [*own.non_speech_tokens, own.transcribe, own.translate, own.sot]
    never += [own.sot_prev, own.sot_lm, own.no_speech]
    first = [*own.encode(" "), own.eot]
    settings = {
        "is_multilingual": False,
        "suppress_tokens": never,
        "begin_suppress_tokens": first,
    }
    (target / "generation_config.json").write_text(json.dumps(settings))
    return target


def _bytes() -> dict[str, int]:
    """GPT-2's: how each byte is written in a vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(other)}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> Path:
    """An OpenAI file of an English Whisper of random weights."""
    dims = whisper.ModelDimensions(80, 1500, 16, 2, 1, 51864, 448, 16, 2, 1)
    torch.manual_seed(3)
    model = whisper.model.Whisper(dims)
    torch.nn.init.normal_(model.decoder.positional_embedding)  # was uninitialised
    with torch.no_grad():  # so that what is said depends on the audio
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    path = tmp_path_factory.mktemp("whisper") / "tiny.pt"
    content = {"dims": vars(dims), "model_state_dict": model.state_dict()}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def tiny_directory(tiny_file, tmp_path_factory) -> Path:
    return huggingface(tiny_file, tmp_path_factory.mktemp("tiny_hf"))


def test_random_weights_both_ways(tiny_file, tiny_directory):
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.3, n).astype(np.float32) for n in (9_000, 31_000, 500_000)]
    ids = ["a", "b", "long"]
    one, two = (WhisperDecoder(p)(waves, ids) for p in (tiny_file, tiny_directory))
    assert [(h.text, h.passes) for h in one] == [(h.text, h.passes) for h in two]
    assert len({h.text for h in two}) > 1


@pytest.mark.slow
def test_tiny_en_both_ways(tmp_path):
    path = cache_dir() / "whisper-tiny.en/tiny.en.pt"
    if not path.is_file():
        pytest.skip("whisper-tiny.en is not in the cache")
    waves = [load_audio(str(f)) for f in sorted(CLIPS.rglob("*.flac"))[:5]]
    ids = [str(i) for i in range(len(waves))]
    theirs = WhisperDecoder(path)(waves, ids)
    ours = WhisperDecoder(huggingface(path, tmp_path))
    assert ours(waves, ids) == theirs
    assert [ours([w], ["x"])[0] for w in waves[:2]] == theirs[:2]


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_directory_without_a_file(tiny_directory, tmp_path, name):
    path = shutil.copytree(tiny_directory, tmp_path / "hf")
    (path / name).unlink()
    with pytest.raises(UserError, match=f"hf: no {name} in it"):
        WhisperDecoder(path)


def test_directories_that_do_not_fit(tiny_directory, tiny_file, tmp_path):
    from espnet_llada.networks.whisper_export import export_encoder

    alone = tmp_path / "encoder"
    alone.mkdir()
    export_encoder(tiny_file, alone)
    config = json.loads((alone / "config.json").read_text())
    sizes = ("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim")
    sizes += ("max_target_positions",)
    (alone / "config.json").write_text(json.dumps(config | dict.fromkeys(sizes, 2)))
    with pytest.raises(UserError, match="encoder: it has no decoder"):
        WhisperDecoder(alone)
    path = shutil.copytree(tiny_directory, tmp_path / "hf")
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="hf: no complete Whisper"):
        WhisperDecoder(path)
