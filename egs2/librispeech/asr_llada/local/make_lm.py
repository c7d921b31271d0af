#!/usr/bin/env python3
"""The mini models' LM: stories15M with the words of Whisper's vocabulary.

    local/make_lm.py --text dump/text/train_text/text --output DIR

stories15M (A. Karpathy's llama2.c, MIT) is a Llama of 6 layers, trained on TinyStories,
with Llama 2's vocabulary of 32,000 pieces. Transcripts are written in lower case, and
the adapter predicts Whisper's tokens, so the LM gets each word that is one of
them, a name by the token that Whisper writes it with ("elizabeth" is " Elizabeth"), and
of the parts of words those that the text uses most. A token that is a piece of Llama
2's keeps its embedding (9 in 10 of a running text); another gets the mean of its
pieces'. Two pieces in three are in no tiny story and have one and the same embedding;
in place of it their tokens get the mean of those whose words Whisper embeds alike.
``DIR`` gets config.json, model.safetensors (float16), tokenizer.json, and
whisper_tokens.json: the id that Whisper has for each token, -1 for special ones.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from synthesis.packages import package
from vocabulary import (
    BETWEEN_STORIES,
    CUT,
    SPECIAL,
    kept_tokens,
    spellings,
    tokenizer_of,
    whisper_tokens,
)

from espnet_llada.bin.options import run_main
from espnet_llada.extensions.posterior_prefix.mixture import (
    TOKENS_FILE,
    PosteriorEmbeddings,
)
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.types import atomic_write, check_directory

MODEL_BYTES = 60_816_028  # of llama2.data; the tokenizer stands behind them
BYTE_PIECES = range(3, 259)
EMBEDDING = "model.embed_tokens.weight"
WHISPER, WHISPER_WIDTH = "whisper-tiny.en", 384
UNSEEN, SEEN = 0.99, 0.6
"""Cosine of a token with a byte's piece, in no story either: above, below."""

NEIGHBOURS, TEMPERATURE = 10, 0.05
"""Whose mean an unseen token gets, and how fast the weights fall with the cosine."""


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

    tensors = {EMBEDDING: take(header["vocab"], dim)}
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


def embeddings(
    tokens: Sequence[str], pieces: list[str], table: np.ndarray
) -> np.ndarray:
    """A row of the LM's width for each token.

    Args:
        tokens: as they are written, the special ones first.
        pieces: of the LM as it comes.
        table: (pieces, d), their embeddings.

    Returns:
        (tokens, d): the mean over a token's pieces, as long as a piece's own is.
    """
    model = tokenizer_of(pieces).model
    ids = {piece: i for i, piece in enumerate(pieces)}
    rows = [table[: len(SPECIAL)]]
    length = np.linalg.norm(table, axis=1).mean()
    for token in tokens[len(SPECIAL) :]:
        own = table[[ids[part.value] for part in model.tokenize(token)]]
        row = own.mean(axis=0, keepdims=True)
        if len(own) > 1:
            row = row * (length / np.linalg.norm(row))
        rows.append(row)
    return np.concatenate(rows)


def told_apart(rows: np.ndarray, unseen: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The rows, those that are as if unseen by others whose words are alike.

    Source: FOCUS (Dobler and de Melo 2023, arXiv 2305.14481), with Whisper's embedding
    for its auxiliary one and a softmax over the nearest.

    Args:
        rows: (tokens, d), the LM's embeddings.
        unseen: (d,), that of a piece which the LM was never shown.
        words: (tokens, width), what another model knows of the tokens.
    """
    lengths = np.linalg.norm(rows, axis=1)
    likeness = rows @ unseen / lengths / np.linalg.norm(unseen)
    ordinary = np.arange(len(rows)) >= len(SPECIAL)
    alike = ordinary & (likeness > UNSEEN)
    centred = words - words.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    known = np.flatnonzero(ordinary & (likeness < SEEN))
    cosines = centred[alike] @ centred[known].T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / TEMPERATURE)
    means = np.einsum("tn,tnd->td", weights, rows[known[nearest]])
    means *= lengths[known].mean() / np.linalg.norm(means, axis=1, keepdims=True)
    made = rows.copy()
    made[alike] = means
    return made


def main(cmd: list[str] | None = None) -> None:
    """Fetch, cut and write; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--text", type=Path, required=True, help="Kaldi text to cut")
    parser.add_argument("--tokens", type=int, default=28000, help="of the vocabulary")
    args = parser.parse_args(cmd)
    check_directory(args.output)
    output, texts = args.output, read_table(args.text)
    data = (package("llama2c") / "package/dist/llama2.data").read_bytes()
    header, tensors = read_model(data[:MODEL_BYTES])
    pieces = read_pieces(data[MODEL_BYTES:], header["vocab"])
    known, lines = whisper_tokens(), [text.lower() for text in texts.values()]
    written = spellings(known)
    kept = kept_tokens(list(written), lines, args.tokens)
    tokens = [*SPECIAL, *kept]
    written_tokens = [*SPECIAL, *(written[token] for token in kept)]
    ids = [known.get(token, -1) for token in written_tokens]
    table = tensors[EMBEDDING]
    rows = embeddings(written_tokens, pieces, table)
    output.mkdir(parents=True, exist_ok=True)
    configs = {
        TOKENS_FILE: ids,
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
            "vocab_size": len(tokens),
            "max_position_embeddings": header["positions"],
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "torch_dtype": "float16",
        },
    }
    files = {"tokenizer.json": tokenizer_of(tokens, CUT).to_str()}
    for name, content in configs.items():
        indent = 1 if isinstance(content, dict) else None
        files[name] = json.dumps(content, indent=indent) + "\n"
    for name, text in files.items():
        with atomic_write(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    shared = PosteriorEmbeddings.from_pretrained(WHISPER_WIDTH, WHISPER, output)
    words = shared.table.numpy()
    tensors[EMBEDDING] = told_apart(rows, np.median(table[BYTE_PIECES], axis=0), words)
    halves = {k: torch.from_numpy(v.astype(np.float16)) for k, v in tensors.items()}
    save_tensors(halves, output / "model.safetensors")
    sys.stdout.write(f"{output}: {len(tokens)} tokens\n")


if __name__ == "__main__":
    run_main(main)
