"""Word ROVER: the network of several texts, the vote, and the hypothesis it makes."""

from __future__ import annotations

import math
import random
import subprocess
from pathlib import Path

import pytest

from espnet_llada.extensions.rover import Vote, combined, elect, word_network
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.scoring.sclite import find_sclite
from espnet_llada.types import Hypothesis, Word

THIRD = [1 / 3] * 3


def split(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def elected(texts, vote=Vote(), sure=None, weights=None) -> str:  # noqa: B008
    sure = sure or [[1.0] * len(words) for words in texts]
    weights = weights or [1 / len(texts)] * len(texts)
    return " ".join(texts[k][i] for k, i in elect(texts, weights, sure, vote))


@pytest.mark.parametrize(
    ("texts", "network"),
    [
        (["a b", "a b"], ["a a", "b b"]),
        (["a b c", "a x c"], ["a a", "b x", "c c"]),
        (["a c", "a b c", "a b c"], ["a a a", "@ b b", "c c c"]),
        (["a b c", "a c", "a b c"], ["a a a", "b @ b", "c c c"]),
        # A word finds its like in any text before; another one goes beside NULL.
        (["a b c", "a x c", "x c"], ["a a @", "b x x", "c c c"]),
        (["a c", "a b c", "a x c"], ["a a a", "@ b x", "c c c"]),
        (["a", "", "b a"], ["@ @ b", "a @ a"]),
        (["", "a"], ["@ a"]),
        (["", ""], []),
    ],
)
def test_the_network_has_what_stands_at_the_same_place(texts, network):
    words = split(*texts)
    found = [
        " ".join("@" if i is None else words[k][i] for k, i in enumerate(own))
        for own in word_network(words)
    ]
    assert found == network


def test_the_most_votes_win_and_of_as_many_the_first_text():
    assert elected(split("a x c", "a b d", "b d")) == "a b d"
    assert elected(split("a b", "a c")) == "a b", "a tie of two words"
    assert elected(split("a", "a b")) == "a", "or of a word and none"
    assert elected(split("a b", "a")) == "a b"
    assert elected(split("a x", "b y", "c z")) == "a x"
    texts = split("the cat sat", "a cat sad", "the bat sad")
    assert elected(texts) == "the cat sad", "which none of them is"
    assert elected(texts, weights=[0.1, 0.8, 0.1]) == "a cat sad"


def test_confidences_count_beside_the_votes():
    texts, sure = split("a b", "a c", "a c"), [[1.0, 0.9], [1.0, 0.2], [1.0, 0.6]]
    assert elected(texts, Vote(0.7), sure) == "a c"  # 0.7*2/3 + 0.3*0.4 > 0.7/3 + 0.27
    assert elected(texts, Vote(0.5), sure) == "a b"  # 0.5*2/3 + 0.5*0.4 < 0.5/3 + 0.45
    assert elected(texts, Vote(0.5, highest=True), sure) == "a c"
    texts, sure = split("a", "a b", "a"), [[1.0], [1.0, 0.8], [1.0]]
    assert elected(texts, Vote(0.0), sure) == "a b"
    assert elected(texts, Vote(0.0, 0.9), sure) == "a"
    assert elected(texts, Vote(0.5, 0.4), sure) == "a b"  # 0.5/3 + 0.4 > 0.5*2/3 + 0.2
    assert elected(texts, Vote(0.5, 0.5), sure) == "a"


def noisy(draw: random.Random, words: list[str]) -> list[str]:
    letters, out = "abcdefghijklmnopqrstuvwxyz", []
    for word in words:
        out += [] if draw.random() < 0.05 else [word]
        if draw.random() < 0.1:
            out[-1:] = draw.choices(letters, k=draw.choice((1, 2)))
    return out or ["a"]


@pytest.mark.skipif(
    find_sclite() is None, reason="sctk is not installed (Debian: sctk)"
)
def test_texts_are_those_of_sctk(tmp_path):
    """But for alignments that cost the same, of which it may take another."""
    draw, vote = random.Random(0), Vote(0.5, 0.3)
    texts, sure = {}, {}
    for utt in (f"u{n:03}" for n in range(400)):
        said = draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randrange(1, 12))
        texts[utt] = [noisy(draw, said) for _ in range(3)]
        sure[utt] = [[round(draw.random(), 3) for _ in own] for own in texts[utt]]
    given = []
    for k in range(3):
        lines = []
        for utt, own in texts.items():
            step = 10 / len(own[k])  # alike in length: rover cuts at silences
            each = enumerate(zip(own[k], sure[utt][k], strict=True))
            lines += [
                f"{utt} 1 {i * step:.2f} {step:.2f} {w} {p}" for i, (w, p) in each
            ]
        (tmp_path / f"{k}.ctm").write_text("\n".join(lines) + "\n")
        given += ["-h", str(tmp_path / f"{k}.ctm"), "ctm"]
    program = Path(find_sclite()).with_name("rover")
    how = ["-m", "meth1", "-a", str(vote.alpha), "-c", str(vote.null_confidence)]
    command = [program, *given, *how, "-o", str(tmp_path / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, list[str]] = {utt: [] for utt in texts}
    for line in (tmp_path / "out").read_text().splitlines():
        utt, _, _, _, word, _ = line.split()
        found[utt].append(word)
    ours = {utt: elected(own, vote, sure[utt]).split() for utt, own in texts.items()}
    assert sum(ours[utt] != found[utt] for utt in texts) <= 8
    assert sum(ours[utt] not in own for utt, own in texts.items()) > 40


@pytest.fixture
def tokenizer(tiny_lm) -> LMTokenizer:
    """A first word has no space before it."""
    return LMTokenizer(tiny_lm)


def written(tokenizer: LMTokenizer, said: str, *sure: float, **given) -> Hypothesis:
    """By an LM that is as sure of each word's tokens together."""
    ids = tokenizer.encode(said)
    owners = tokenizer.word_numbers(ids)
    each = [sure[n] ** (1 / owners.count(n)) for n in owners]
    score = math.fsum(map(math.log, each))
    given = {"text": said.upper(), "score": score, **given}
    tokens = tuple(tokenizer.tokens(ids))
    return Hypothesis(
        tokens=tokens, token_ids=tuple(ids), confidence=tuple(each), **given
    )


def test_a_text_that_one_has_is_that_hypothesis(tokenizer):
    one = written(tokenizer, "the dog", 0.9, 0.5)
    other = written(tokenizer, "the fox", 0.8, 0.6)
    third = written(tokenizer, "a fox", 0.8, 0.6)
    assert combined([one, one, one], THIRD, Vote(), tokenizer) is one
    assert combined([one, other, third], THIRD, Vote(), tokenizer) is other


def test_a_new_text_has_its_own_tokens_and_the_words_probabilities(tokenizer):
    found = [
        written(tokenizer, "quick brown dog", 0.9, 0.5, 0.7, eos=5),
        written(tokenizer, "the quick fox", 0.4, 0.8, 0.6),
        written(tokenizer, "the quick brown fox jumps", 0.3, 0.8, 0.6, 0.2, 0.1),
        written(tokenizer, "the brow", 0.3, 0.8),
    ]
    h = combined(found, [0.25] * 4, Vote(), tokenizer)
    assert h.text == "THE QUICK BROWN FOX" and h.eos == 5
    assert tokenizer.decode(h.token_ids) == "the quick brown fox"
    assert h.tokens == tuple(tokenizer.tokens(h.token_ids))
    probabilities = [0.4, 0.9, 0.5, 0.6]
    assert h.score == pytest.approx(sum(map(math.log, probabilities)))
    owners = tokenizer.word_numbers(h.token_ids)
    for word, expected in enumerate(probabilities):
        own = [p for p, n in zip(h.confidence, owners, strict=True) if n == word]
        assert math.prod(own) == pytest.approx(expected) and len({*own}) == 1


def test_a_word_that_the_lm_cannot_write_keeps_its_form(tokenizer):
    """As a first pass has it: its tokens are those of the form shown to the LM."""
    texts = ["THE 3rd DOG RAN", "A 3rd FOX RAN", "THE 3rd FOX RUN"]
    shown = ["the rd dog ran", "a rd fox ran", "the rd fox run"]
    found = [
        written(tokenizer, own, 0.9, 1.0, 0.8, 0.7, text=text)
        for own, text in zip(shown, texts, strict=True)
    ]
    h = combined(found, THIRD, Vote(), tokenizer)
    assert h.text == "THE 3rd FOX RAN"
    assert tokenizer.decode(h.token_ids) == "the rd fox ran"
    # One that it is not shown at all, nor any of its tokens.
    found = [written(tokenizer, "", text="... !"), written(tokenizer, "", text="! ...")]
    found.append(written(tokenizer, "", text="! ... !"))
    h = combined(found, THIRD, Vote(), tokenizer)
    assert h.token_ids == () and h.score == 0.0


def test_words_keep_their_times_and_count_by_their_confidences(tokenizer):
    def timed(text: str, starts: list[float | None], sure: float, p: float):
        words = tuple(
            Word(word, start, None if start is None else start + 0.5, sure, (0.0, 9.0))
            for word, start in zip(text.upper().split(), starts, strict=True)
        )
        own = [p] * len(words)
        return written(tokenizer, text, *own, words=words, evidence=((-1.0,),))

    found = [
        timed("the dog ran", [0.0, 1.0, 2.0], 0.2, 0.9),
        timed("a fox ran", [0.1, 0.8, 1.9], 0.9, 0.1),
        timed("the fox run", [None, 0.9, 2.2], 0.2, 0.9),
    ]
    h = combined(found, THIRD, Vote(), tokenizer)
    assert [word.text for word in h.words] == h.text.split() == ["THE", "FOX", "RAN"]
    assert [(w.start, w.end) for w in h.words] == [(0.0, 0.5), (0.8, 1.3), (2.0, 2.5)]
    assert h.evidence == ()
    sure = combined(found, THIRD, Vote(0.0), tokenizer)
    assert sure.text == "A FOX RAN", "by the words' confidences, not the tokens'"
    late = timed("the dog ran", [1.0, 2.0, 3.0], 0.2, 0.9)
    h = combined([late, *found[1:]], THIRD, Vote(), tokenizer)
    assert [(w.start, w.end) for w in h.words] == [(0.8, 0.8), (0.8, 1.3), (3.0, 3.5)]
