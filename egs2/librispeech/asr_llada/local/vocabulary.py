"""Whisper's tokens as the vocabulary of an LM in lower case; for make_lm.py.

A tokenizer is BPE over pieces of text in which ``▁`` stands for a space.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from espnet_llada.types import UserError

SPECIAL = ["<unk>", "<s>", "</s>"]

BETWEEN_STORIES = "<s>"
"""Stands before and behind each story that the LM was trained on; </s> it never saw."""

WORD = re.compile(r"▁[A-Za-z]+")
PART = re.compile(r"[a-z]+|'(s|t|re|ve|m|ll|d)|▁?'|▁")
CUT = r"▁?[a-z]+|'(?:s|t|re|ve|m|ll|d)(?![a-z])|▁?'"
"""GPT-2's way of cutting text; a token lies in one of these."""


def merges_of(pieces: list[str]) -> list[tuple[str, str]]:
    """BPE merges: each way to put a piece together, in the order of the pieces."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        cuts = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        pairs = [(ids[a], ids[b]) for a, b in cuts if a in ids and b in ids]
        merges += [(i, a, b) for a, b in sorted(pairs)]
    return [(pieces[a], pieces[b]) for _, a, b in merges]


def tokenizer_of(pieces: list[str], cut: str | None = None):
    """A fast tokenizer with these pieces.

    Args:
        pieces: of text with ``▁`` for a space.
        cut: a pattern of what no piece goes beyond, and where a piece that is all of a
            match is taken as it is; without one text is cut as sentencepiece does it.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = merges_of(pieces)
    model = models.BPE(
        vocabulary,
        merges,
        unk_token=SPECIAL[0],
        fuse_unk=True,
        ignore_merges=cut is not None,
    )
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    if cut is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cut), "isolated")
    back = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_special_tokens(SPECIAL)
    first = (BETWEEN_STORIES, SPECIAL.index(BETWEEN_STORIES))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BETWEEN_STORIES} $A", special_tokens=[first]
    )
    return tokenizer


def whisper_tokens() -> dict[str, int]:
    """The tokens of Whisper's English models (GPT-2's) and their ids."""
    spec = find_spec("whisper")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("openai-whisper is missing: pip install openai-whisper")
    path = Path(spec.submodule_search_locations[0]) / "assets" / "gpt2.tiktoken"
    tokens = {}
    for line in path.read_text(encoding="ascii").splitlines():
        encoded, _, number = line.partition(" ")
        token = base64.b64decode(encoded).decode("utf-8", "replace").replace(" ", "▁")
        tokens[token] = int(number)
    return tokens


def spellings(tokens: Mapping[str, int]) -> dict[str, str]:
    """How Whisper writes what is one token of it: lower case -> its token.

    A word that it has in lower case is that token; a name is the first of those it has.
    In the order of their ids, which is that of GPT-2's merges.
    """
    ordered = sorted(tokens, key=tokens.__getitem__)
    words = [token for token in ordered if WORD.fullmatch(token)]
    found = {t: t for t in ordered if PART.fullmatch(t)}
    found |= {word: word for word in words if word.islower()}
    for word in words:
        found.setdefault(word.lower(), word)
    return dict(sorted(found.items(), key=lambda item: tokens[item[1]]))


def kept_tokens(candidates: list[str], lines: list[str], wanted: int) -> list[str]:
    """``wanted`` of the candidates: all words, and the parts that ``lines`` use most.

    The letters are kept whatever happens, and with a part those that BPE merges it
    from on its way to it. In the order of the candidates.
    """
    tokenizer = tokenizer_of(SPECIAL + candidates, CUT)
    counts = Counter(
        token
        for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)
        for token in encoding.tokens
    )
    ranks = {pair: i for i, pair in enumerate(merges_of(SPECIAL + candidates))}
    used = {c for c in candidates if len(c.lstrip("▁")) <= 1 or WORD.fullmatch(c)}
    for token, _ in counts.most_common():
        if len(used) >= wanted:
            break
        used |= merged_parts(token, ranks) & set(candidates)
    return [c for c in candidates if c in used]


def merged_parts(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """The token, and what BPE makes on the way from its letters to it."""
    parts = list(token)
    made = {token, *parts}
    while len(parts) > 1:
        pairs = enumerate(itertools.pairwise(parts))
        at, pair = min(pairs, key=lambda item: ranks.get(item[1], math.inf))
        if pair not in ranks:
            break
        parts[at : at + 2] = ["".join(pair)]
        made.add(parts[at])
    return made
