"""Tiny random weights in the real formats, made once for each test session."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # the default tests need no network, and show it
# The models are tiny: a second thread costs more than it gives, above all when other
# processes want the core. Subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import settings

from espnet_llada.import_guards import import_torchaudio

import_torchaudio()

# A job in the background ignores interrupts, and so would what a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What an example takes says more of the machine and its load than of the code.
settings.register_profile("default", deadline=None)

REPO = Path(__file__).resolve().parents[1]
RECIPE = REPO / "egs2/librispeech/asr_llada"
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "she had a lovely voice and sang of the sea",
    "it was a dark and stormy night in the old town",
    "nothing is so painful to the human mind as a great and sudden change",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """A file's tests share a process; all of ESPnet's do, whose import takes 15 s.

    Of ``--dist loadgroup``, the marks of which have no effect with pytest 9.2.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            espnet = file.startswith("tests/espnet/") or file == "tests/test_conf.py"
            return "espnet" if espnet else file

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same, whatever has run before it in its process."""
    torch.manual_seed(0)


class Evil:
    """Whoever unpickles it makes a directory, ``ran``."""

    def __init__(self, ran: Path):
        self.ran = ran

    def __reduce__(self):
        return os.mkdir, (str(self.ran),)


@pytest.fixture
def evil(tmp_path) -> Evil:
    return Evil(tmp_path / "it_ran")


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory) -> Path:
    """A Llama directory: 2 layers, width 32, a byte-pair tokenizer of 200 entries."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("tiny_lm")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    return path


LLADA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


@pytest.fixture(scope="session")
def tiny_llada(tiny_lm, tmp_path_factory) -> Path:
    """tiny_lm's body in LLaDA's layout, with a head of its own and a chat template."""
    from safetensors.torch import load_file, save_file

    path = tmp_path_factory.mktemp("tiny_llada")
    settings = json.loads((tiny_lm / "config.json").read_text())
    renamed = {}
    for name, tensor in load_file(tiny_lm / "model.safetensors").items():
        short = name.removeprefix("model.")
        if short.startswith("layers."):
            _, layer, rest = short.split(".", 2)
            part, _, kind = rest.rpartition(".")
            short = f"blocks.{layer}.{LLADA_BLOCK[part]}.{kind}"
        else:
            table = {"embed_tokens.weight": "wte.weight", "norm.weight": "ln_f.weight"}
            short = table[short]
        renamed[f"model.transformer.{short}"] = tensor
    shape = (settings["vocab_size"], settings["hidden_size"])
    head = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    renamed["model.transformer.ff_out.weight"] = head
    save_file(renamed, path / "model-00001.safetensors")
    config = {
        "model_type": "llada",
        "d_model": settings["hidden_size"],
        "n_layers": settings["num_hidden_layers"],
        "n_heads": settings["num_attention_heads"],
        "n_kv_heads": settings["num_key_value_heads"],
        "mlp_hidden_size": settings["intermediate_size"],
        "vocab_size": settings["vocab_size"],
        "embedding_size": settings["vocab_size"],
        "max_sequence_length": 512,
        "rms_norm_eps": settings["rms_norm_eps"],
        "rope_theta": 10_000.0,
        "weight_tying": False,
        "eos_token_id": 0,
        "mask_token_id": 5,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_bytes((tiny_lm / "tokenizer.json").read_bytes())
    tokenizer = json.loads((tiny_lm / "tokenizer_config.json").read_text())
    tokenizer["chat_template"] = "{{ messages[0]['content'] }}\n"
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return path


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory) -> Path:
    """A Hugging Face Whisper directory: 2 encoder layers, width 16."""
    from transformers import WhisperConfig, WhisperModel

    path = tmp_path_factory.mktemp("tiny_whisper")
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(path)
    return path


@pytest.fixture
def word_lm(tiny_lm, tmp_path) -> Path:
    """tiny_lm, whose last tokens are tiny_whisper's 2 to 61."""
    from espnet_llada.extensions.posterior_prefix.mixture import TOKENS_FILE

    path = shutil.copytree(tiny_lm, tmp_path / "lm")
    size = json.loads((path / "config.json").read_text())["vocab_size"]
    ids = [-1] * (size - 60) + list(range(2, 62))
    (path / TOKENS_FILE).write_text(json.dumps(ids))
    return path


@pytest.fixture(scope="session")
def release_content(tiny_whisper, tiny_llada) -> dict:
    """A checkpoint as the paper's release saves it: noise, 2 Q-Former layers."""
    sizes = {"hidden": 24, "queries": 3, "ffn": 40, "rank": 4}
    width = json.loads((tiny_whisper / "config.json").read_text())["d_model"]
    lm = json.loads((tiny_llada / "config.json").read_text())
    script = runpy.run_path(str(RECIPE / "local/make_tiny_paper.py"))
    generator = torch.Generator().manual_seed(5)
    model = script["release_tensors"](width, lm, sizes, generator)
    return {"model": model, "optimizer": None, "epoch": 3, "config": {}}


@pytest.fixture(scope="session")
def release_checkpoint(release_content, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("release") / "checkpoint_best.pth"
    torch.save(release_content, path)
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_lm, tiny_whisper) -> dict:
    """The sections of a train YAML around the tiny weights (decoder: llada)."""
    return {
        "encoder": "whisper_frozen",
        "encoder_conf": {"whisper": str(tiny_whisper), "pad_seconds": 0.0},
        "postencoder": "window_qformer",
        "postencoder_conf": {"hidden": 16, "heads": 2, "ffn": 32, "layers": 1},
        "decoder": "llada",
        "decoder_conf": {
            "lm": str(tiny_lm),
            "lora": {"r": 2, "alpha": 4},
            "chat_template": False,
            "max_eos_padding": 4,
        },
    }


@pytest.fixture(scope="session")
def model_dir(tiny_config, tmp_path_factory) -> Path:
    """``llada`` and ``llama`` below one directory, as a tag of the cache has them."""
    from espnet_llada.build import build_model
    from espnet_llada.io.checkpoint import atomic_torch_save, trained_state

    top = tmp_path_factory.mktemp("model")
    for decoder in ("llada", "llama"):
        torch.manual_seed(0)
        config = {**tiny_config, "decoder": decoder}
        (top / decoder).mkdir()
        (top / decoder / "config.yaml").write_text(yaml.safe_dump(config))
        state = trained_state(build_model(config))
        atomic_torch_save(state, top / decoder / "valid.acc.ave.pth")
    return top


@pytest.fixture()
def speech(tmp_path) -> list[Path]:
    """Three audio files of 0.6, 1.3 and 2.1 seconds."""
    rng = np.random.default_rng(0)
    files = []
    for i, seconds in enumerate((0.6, 1.3, 2.1)):
        samples = rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
        files.append(tmp_path / f"utt{i}.flac")
        soundfile.write(files[-1], samples, 16_000)
    return files
