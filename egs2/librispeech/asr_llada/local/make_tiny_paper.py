#!/usr/bin/env python3
"""Makes random weights in the formats that the paper's come in, of a few hundred kB.

    local/make_tiny_paper.py --output exp/weights --text data/train_mini/text

OUTPUT gets LLaDA-8B-Instruct (as the hub has it), whisper-large-v3 and
Meta-Llama-3-8B-Instruct (Hugging Face's layouts), checkpoint_best.pth (the release's)
and whisper_llama (a training's directory), so that `run.sh --preset paper_ci` goes the
way of `--preset paper`. Names, layouts and special tokens are the real ones, sizes are
not; what such models say means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.import_guards import import_torchaudio
from espnet_llada.io.files import new_directory, read_yaml, write_json, write_text
from espnet_llada.io.kaldi.table import read_text
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.plan.architectures import LANGUAGE_MODELS

LLADA, LLAMA = "GSAI-ML/LLaDA-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"
_WIDTH, _LAYERS, _HEADS, _FFN = 32, 2, 4, 64
_WHISPER_WIDTH, _WHISPER_VOCABULARY = 16, 300
_QFORMER = {"hidden": 24, "queries": 1, "ffn": 40, "rank": 8}  # of 12 heads
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLADA_TOKENS = ("<|endoftext|>", "<|startoftext|>", "<|mdm_mask|>", *_HEADERS)
_LLAMA_TOKENS = ("<|end_of_text|>", "<|begin_of_text|>", *_HEADERS)
_WHISPER_TOKENS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>"),
    *("<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"),
    "<|notimestamps|>",
)
_TEMPLATE = (
    "{% for m in messages %}{{ 'BEGIN' if loop.first else '' }}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def write_tokenizer(
    folder: Path, lines: list[str], tokens: tuple[str, ...], size: int, **settings: str
) -> int:
    """tokenizer.json of byte pairs and special tokens; returns how many it has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    write_json(folder / "tokenizer_config.json", settings)
    return tokenizer.get_vocab_size()


def write_llada(folder: Path, lines: list[str]) -> dict[str, Any]:
    """LLaDA in two files, in bfloat16; returns its config."""
    begin, end = _LLADA_TOKENS[1], _LLADA_TOKENS[0]
    settings = {"bos_token": begin, "eos_token": end, "pad_token": end}
    template = _TEMPLATE.replace("BEGIN", begin)
    size = write_tokenizer(
        folder, lines, _LLADA_TOKENS, 400, chat_template=template, **settings
    )
    special = size - len(_LLADA_TOKENS)
    config = LANGUAGE_MODELS[LLADA] | {
        **{"d_model": _WIDTH, "n_layers": _LAYERS, "n_heads": _HEADS},
        **{"n_kv_heads": _HEADS, "mlp_hidden_size": _FFN},
        **{"vocab_size": size, "embedding_size": size},
        **{"eos_token_id": special, "mask_token_id": special + 2},
    }
    write_json(folder / "config.json", config)
    parts: list[dict[str, Tensor]] = [{}, {}]
    for name, shape in _llada_shapes(size):
        noise = torch.ones(shape) if len(shape) == 1 else 0.3 * torch.randn(shape)
        parts["blocks.1" in name][name] = noise.bfloat16()
    for number, part in enumerate(parts, 1):
        save_tensors(part, folder / f"model-{number:05}-of-00002.safetensors")
    return config


def _llada_shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    top, d = "model.transformer", _WIDTH
    for name in ("wte", "ff_out"):
        yield f"{top}.{name}.weight", (vocabulary, d)
    yield f"{top}.ln_f.weight", (d,)
    block = dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (d, d))
    block |= {"attn_norm": (d,), "ff_norm": (d,), "ff_out": (d, _FFN)}
    block |= {"ff_proj": (_FFN, d), "up_proj": (_FFN, d)}
    for i in range(_LAYERS):
        for name, shape in block.items():
            yield f"{top}.blocks.{i}.{name}.weight", shape


def write_llama(folder: Path, lines: list[str]) -> None:
    """Llama 3 by transformers, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    begin = _LLAMA_TOKENS[1]
    settings = {"bos_token": begin, "eos_token": _HEADERS[-1]}
    template = _TEMPLATE.replace("BEGIN", begin)
    size = write_tokenizer(
        folder, lines, _LLAMA_TOKENS, 400, chat_template=template, **settings
    )
    sizes = {"hidden_size": _WIDTH, "num_hidden_layers": _LAYERS}
    sizes |= {"num_attention_heads": _HEADS, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": _FFN, "vocab_size": size, "initializer_range": 0.3}
    ids = {"bos_token_id": size - 4, "eos_token_id": size - 1, "pad_token_id": None}
    known = {k: v for k, v in LANGUAGE_MODELS[LLAMA].items() if k != "model_type"}
    _save(folder, LlamaForCausalLM(LlamaConfig(**known | sizes | ids)).bfloat16())


def _save(folder: Path, model: Any) -> None:
    """As save_pretrained, without a progress bar; a tied head is left out."""
    model.config.save_pretrained(folder)
    state = {k: v for k, v in model.state_dict().items() if k != "proj_out.weight"}
    save_tensors(state, folder / "model.safetensors")


def write_whisper(folder: Path, lines: list[str]) -> None:
    """Whisper by transformers, in float16 as large-v3 is."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    size = write_tokenizer(folder, lines, _WHISPER_TOKENS, _WHISPER_VOCABULARY)
    end = size - len(_WHISPER_TOKENS)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    ffn = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * _WHISPER_WIDTH)
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end)
    config = WhisperConfig(
        d_model=_WHISPER_WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        vocab_size=size,
        num_mel_bins=128,
        max_target_positions=48,
        decoder_start_token_id=end + 1,
        init_std=0.3,
        **heads,
        **ffn,
        **ends,
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # so that what is said depends on the audio
        for p in model.model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    _save(folder, model.half())
    settings = {
        "is_multilingual": True,
        "suppress_tokens": [*range(end + 1, size)],
        "begin_suppress_tokens": [220, end],
    }
    write_json(folder / "generation_config.json", settings)


def release_tensors(
    whisper_width: int,
    llada: Mapping[str, Any],
    sizes: Mapping[str, int],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """What the release's checkpoint holds under ``model``: noise.

    Args:
        whisper_width: of the encoder that it was trained on.
        llada: config.json of the LM, likewise.
        sizes: hidden, queries, ffn of the Q-Former and LoRA's rank.
        generator: draws.
    """
    hidden, ffn, rank = sizes["hidden"], sizes["ffn"], sizes["rank"]
    model: dict[str, Tensor] = {}

    def put(name: str, *shape: int) -> None:
        model[name] = 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, outputs: int, inputs: int) -> None:
        put(f"{name}.weight", outputs, inputs)
        put(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        put(f"{name}.LayerNorm.weight", hidden)
        put(f"{name}.LayerNorm.bias", hidden)

    put("speech_query_tokens", 1, sizes["queries"], hidden)
    model["adapter.bert.embeddings.position_ids"] = torch.arange(8)[None]
    put("adapter.bert.embeddings.word_embeddings.weight", 11, hidden)
    put("adapter.bert.embeddings.position_embeddings.weight", 8, hidden)
    norm("adapter.bert.embeddings")
    for i in range(2):
        layer = f"adapter.bert.encoder.layer.{i}"
        for kind, memory in (("attention", hidden), ("crossattention", whisper_width)):
            for part in ("query", "key", "value"):
                inputs = hidden if part == "query" else memory
                linear(f"{layer}.{kind}.self.{part}", hidden, inputs)
            linear(f"{layer}.{kind}.output.dense", hidden, hidden)
            norm(f"{layer}.{kind}.output")
        for branch in ("", "_query"):
            linear(f"{layer}.intermediate{branch}.dense", ffn, hidden)
            linear(f"{layer}.output{branch}.dense", hidden, ffn)
            norm(f"{layer}.output{branch}")
    put("adapter.cls.predictions.bias", 11)
    linear("linear_proj", llada["d_model"], hidden)
    kv_width = llada["d_model"] * llada["n_kv_heads"] // llada["n_heads"]
    rows = (("q", llada["d_model"]), ("k", kv_width), ("v", kv_width))
    for i in range(llada["n_layers"]):
        for part, outputs in rows:
            block = f"llada.base_model.model.model.transformer.blocks.{i}.{part}_proj"
            put(f"{block}.lora_A.default.weight", rank, llada["d_model"])
            put(f"{block}.lora_B.default.weight", outputs, rank)
    return model


def write_baseline(folder: Path, whisper: Path, llama: Path, train: Path) -> None:
    """What a training of the YAML ``train`` leaves, around the tiny weights."""
    from espnet_llada.build import build_model
    from espnet_llada.io.checkpoint import atomic_torch_save, trained_state

    config = read_yaml(train)
    names = ("encoder", "encoder_conf", "postencoder", "postencoder_conf", "decoder")
    config = {name: config[name] for name in (*names, "decoder_conf")}
    config["encoder_conf"]["whisper"] = str(whisper)
    config["decoder_conf"]["lm"] = str(llama)
    sizes = {name: _QFORMER[name] for name in ("hidden", "queries", "ffn")}
    config["postencoder_conf"] |= sizes
    folder.mkdir()
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    atomic_torch_save(trained_state(build_model(config)), folder / "valid.acc.ave.pth")


def make(output: Path, lines: list[str], train: Path) -> None:
    """Write everything; complete or not at all.

    Raises:
        UserError: ``output`` cannot be written.
    """
    import_torchaudio()  # transformers imports it
    torch.manual_seed(0)
    with new_directory(output) as made:
        folders = [made / name.rpartition("/")[2] for name in (LLADA, LLAMA)]
        folders += [made / "whisper-large-v3"]
        for folder in folders:
            folder.mkdir()
        llada = write_llada(folders[0], lines)
        write_llama(folders[1], lines)
        write_whisper(folders[2], lines)
        generator = torch.Generator().manual_seed(5)
        model = release_tensors(_WHISPER_WIDTH, llada, _QFORMER, generator)
        content = {"model": model, "optimizer": None, "epoch": 3, "config": {}}
        torch.save(content, made / "checkpoint_best.pth")
        write_baseline(made / "whisper_llama", folders[2], folders[1], train)
        text = (made / "whisper_llama/config.yaml").read_text(encoding="utf-8")
        text = text.replace(str(made), str(output.absolute()))
        write_text(made / "whisper_llama/config.yaml", text)


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    parser.add_argument(
        "--text", type=Path, required=True, help="Kaldi text, for the vocabularies"
    )
    parser.add_argument(
        "--train_config",
        type=Path,
        default=Path("conf/train_asr_whisper_llama3_8b.yaml"),
        help="of whisper_llama (conf/train_asr_whisper_llama3_8b.yaml)",
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Make them."""
    args = get_parser().parse_args(cmd)
    make(args.output, list(read_text(args.text).values()), args.train_config)


if __name__ == "__main__":
    run_main(main)
