"""The LM inside the package, and local/make_lm.py, which made it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from recipe_helpers import RECIPE, local_script

from espnet_llada.extensions.posterior_prefix.mixture import TOKENS_FILE
from espnet_llada.io.weights.assets import MINI
from espnet_llada.networks.tokenizer import LMTokenizer

TRANSCRIPTS = sorted((RECIPE / "mini/LibriSpeech").rglob("*.trans.txt"))


@pytest.fixture(scope="module")
def make_lm():
    return local_script("make_lm")


@pytest.fixture
def vocabulary(make_lm):
    return sys.modules["vocabulary"]  # which it has imported


def test_it_cuts_text_as_whisper_does(vocabulary):
    tokenizer = pytest.importorskip("whisper.tokenizer")
    whispers = tokenizer.get_tokenizer(multilingual=False).encoding
    ours = LMTokenizer(MINI / "lm")
    ids = json.loads((MINI / "lm" / TOKENS_FILE).read_text())
    lines = [
        line.partition(" ")[2].lower()
        for file in TRANSCRIPTS
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) > 600
    same = 0
    for line in lines:
        assert ours.decode(ours.encode(line)) == line
        same += [ids[token] for token in ours.encode(line)] == whispers.encode(
            f" {line}"
        )
    assert same > 0.6 * len(lines)  # the rest have a name, or parts that are not kept

    known = vocabulary.whisper_tokens()
    tokens, whole = (
        {number: t for t, number in known.items()},
        vocabulary.spellings(known),
    )
    lower = [token for token, written in whole.items() if token == written]
    ranks = {pair: i for i, pair in enumerate(vocabulary.merges_of(lower))}
    kept = {tokens[number] for number in ids if number >= 0}
    one, cut, names = 0, 0, set()
    for word in {word for line in lines for word in line.split()}:
        written = [tokens[ids[token]] for token in ours.encode(word)]
        if f"▁{word}" in whole:
            one += 1
            assert written == [whole[f"▁{word}"]]
            names |= {t for t in written if not t.islower()}
            continue
        theirs = [tokens[number] for number in whispers.encode(f" {word}")]
        parts = {p for t in theirs for p in vocabulary.merged_parts(t, ranks)}
        if kept >= parts and all(t == t.lower() for t in written):
            cut += 1
            assert written == theirs
    assert one > 1500 and cut > 200
    assert {"▁Mary", "▁Elizabeth"} <= names


def test_a_token_has_the_mean_of_its_pieces(make_lm):
    pieces = [*make_lm.SPECIAL, *(f"<byte {n}>" for n in range(256))]
    pieces += ["▁", "a", "b", "ab", "▁a"]  # "ab" is merged first
    table = np.random.default_rng(0).normal(size=(len(pieces), 4)).astype(np.float32)
    tokens = [*make_lm.SPECIAL, "ab", "▁ab", "ba"]
    made = make_lm.embeddings(tokens, pieces, table)
    row = dict(zip(pieces, table, strict=True))
    assert np.array_equal(made[:3], table[:3])
    assert np.array_equal(made[3], row["ab"])  # a piece of its own
    for token, parts in ((4, ("▁", "ab")), (5, ("b", "a"))):
        mean = (row[parts[0]] + row[parts[1]]) / 2
        cosine = made[token] @ mean / np.linalg.norm(made[token]) / np.linalg.norm(mean)
        assert cosine == pytest.approx(1.0, abs=1e-5)
        length = np.linalg.norm(table, axis=1).mean()
        assert np.linalg.norm(made[token]) == pytest.approx(length, rel=1e-5)


def test_unseen_tokens_become_like_those_whose_words_are_alike(make_lm):
    random = np.random.default_rng(1)
    special, seen = len(make_lm.SPECIAL), 30
    rows, unseen = random.normal(size=(special + seen + 4, 64)), random.normal(size=64)
    rows[-4:] = unseen * [[0.5], [1.0], [1.0], [1.5]]
    rows[0] = unseen
    words = random.normal(size=(len(rows), 32))
    twins = special + np.array([7, 3, 20, 11])
    words[-4:] = words[twins] + random.normal(size=(4, 32)) * 0.1
    made = make_lm.told_apart(rows, unseen, words)
    assert np.array_equal(made[:-4], rows[:-4])
    lengths = np.linalg.norm(rows[special:-4], axis=1).mean()
    assert np.allclose(np.linalg.norm(made[-4:], axis=1), lengths)
    cosines = made[-4:] @ rows[special:-4].T / np.linalg.norm(rows[special:-4], axis=1)
    assert (cosines.argmax(axis=1) + special == twins).all()


def test_a_word_is_written_as_whisper_has_it(vocabulary):
    tokens = ["▁Will", "▁will", "▁Anne", "▁ANNE", "▁TV", "an", "An", "▁2", "'s", "▁a"]
    found = vocabulary.spellings({token: n for n, token in enumerate(tokens)})
    names = {"▁anne": "▁Anne", "▁tv": "▁TV"}
    assert found == names | {t: t for t in ("▁will", "an", "'s", "▁a")}
    assert list(found) == ["▁will", "▁anne", "▁tv", "an", "'s", "▁a"]


def test_what_is_kept_can_be_put_together(vocabulary):
    candidates = ["▁", *"abcdefghijklmnopqrstuvwxyz'", "▁a", "ab", "▁ab", "cd", "ef"]
    kept = vocabulary.kept_tokens(candidates, ["abcd cdab", "ab"], wanted=32)
    assert kept == [c for c in candidates if c in kept], "in their order"
    assert {"▁ab", "▁a", "cd", "ab"} <= set(kept) and "ef" not in kept
    tokenizer = vocabulary.tokenizer_of([*vocabulary.SPECIAL, *kept], vocabulary.CUT)
    cut = tokenizer.encode("ab abcd", add_special_tokens=False).tokens
    assert cut == ["▁ab", "▁ab", "cd"]


def test_a_word_that_is_a_token_is_not_cut(vocabulary):
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz'"]
    pieces = [*vocabulary.SPECIAL, *letters, "'s", "▁anne"]  # of no parts but letters
    tokenizer = vocabulary.tokenizer_of(pieces, vocabulary.CUT)
    for text, cut in (("anne's", ["▁anne", "'s"]), ("o'clock", [*"▁o'clock"])):
        assert tokenizer.encode(text, add_special_tokens=False).tokens == cut
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
