#!/usr/bin/env python3
"""A small Llama with a small vocabulary: byte-pair tokens of a text.

    local/make_bpe_lm.py --text dump/text/train_text/text --output exp/core_mini/lm

An adapter that is trained from nothing learns a CTC over some hundred tokens, but not
over the LM's thousands of words. So the LM keeps its layers and gets the tokens that
BPE finds in the text, each with the mean of the embeddings that the LM has for its
parts; further training has to teach the layers how words are spelled now. The LM's
tokenizer must write a space as Llama's do (``▁``).

Source: the means are those of Gee et al. 2022 (Fast Vocabulary Transfer, arXiv
2402.09977).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from vocabulary import SPECIAL, tokenizer_of

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.files import new_directory, read_json, write_json, write_text
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.io.weights import resolve
from espnet_llada.io.weights.tensors import save_tensors, stored_safetensors
from espnet_llada.types import UserError

EMBEDDING = "model.embed_tokens.weight"


def bpe_tokens(lines: Sequence[str], wanted: int) -> list[str]:
    """At most ``wanted`` tokens, the special ones first, in the order of merging."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def embeddings(tokens: Sequence[str], path: Path, table: Tensor) -> Tensor:
    """The mean over each token's parts, as long as a row of the table is in the mean.

    Args:
        tokens: the special ones first, which keep their rows.
        path: the LM's directory.
        table: (V, d), its embedding.

    Returns:
        (tokens, d).

    Raises:
        UserError: the LM has other special tokens.
    """
    from tokenizers import Tokenizer

    old = Tokenizer.from_file(str(path / "tokenizer.json"))
    if [old.id_to_token(i) for i in range(len(SPECIAL))] != SPECIAL:
        raise UserError(
            f"{path}: its first tokens are not {' '.join(SPECIAL)}; name a Llama"
        )
    parts = [[part.id for part in old.model.tokenize(token)] for token in tokens]
    parts[: len(SPECIAL)] = [[i] for i in range(len(SPECIAL))]
    rows = torch.stack([table[ids].mean(dim=0) for ids in parts])
    lengths = torch.tensor([len(ids) for ids in parts])[:, None]
    usual = table.norm(dim=1).mean() / rows.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1, rows * usual, rows)


def main(cmd: list[str] | None = None) -> None:
    """Read an LM, write one with other tokens; see the module."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="Kaldi text to cut")
    parser.add_argument("--lm", default="stories15m", help="name or directory")
    parser.add_argument("--tokens", type=int, default=500, help="of the vocabulary")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    args: argparse.Namespace = parser.parse_args(cmd)
    path = resolve(args.lm, "lm").path
    tokens = bpe_tokens([*read_table(args.text).values()], args.tokens)
    weights = path / "model.safetensors"
    tensors = {name: t.read() for name, t in stored_safetensors([weights]).items()}
    table = tensors[EMBEDDING].float()
    rows = embeddings(tokens, path, table)
    tensors[EMBEDDING] = rows.to(tensors[EMBEDDING].dtype)
    config = read_json(path / "config.json", dict)
    settings = (path / "tokenizer_config.json").read_text(encoding="utf-8")
    with new_directory(args.output) as made:
        write_json(made / "config.json", {**config, "vocab_size": len(tokens)})
        write_text(made / "tokenizer_config.json", settings)
        write_text(made / "tokenizer.json", tokenizer_of(tokens).to_str())
        save_tensors(tensors, made / "model.safetensors")
    sys.stdout.write(f"{args.output}: {len(tokens)} tokens\n")


if __name__ == "__main__":
    run_main(main)
