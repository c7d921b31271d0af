from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.scoring.wer import Counts, Score, read_text, score_pairs
from espnet_llada.types import UserError

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "ee"]), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12)


def _sides(pairs):
    ids = [f"u{i}" for i in range(len(pairs))]
    refs, hyps = zip(*pairs, strict=True)
    return dict(zip(ids, refs, strict=True)), dict(zip(ids, hyps, strict=True))


@given(PAIRS)
@settings(deadline=None)
def test_wer_equals_jiwer_over_the_sum_of_utterances(pairs):
    refs, hyps = _sides(pairs)
    score = score_pairs(refs, hyps)
    words = sum(len(ref.split()) for ref, _ in pairs)
    errors = 0
    for utt, (ref, hyp) in zip(refs, pairs, strict=True):
        # jiwer's rate of an empty reference is the number of insertions
        one = round(jiwer.wer(ref, hyp) * max(len(ref.split()), 1))
        assert score.utterances[utt].errors == one
        errors += one
    assert score.total.words == words
    assert score.wer == pytest.approx(100 * errors / max(words, 1))
    if words:
        whole = jiwer.wer(list(refs.values()), list(hyps.values()))
        assert score.wer == pytest.approx(100 * whole)


@given(PAIRS)
@settings(deadline=None)
def test_char_rate_equals_jiwer(pairs):
    refs, hyps = _sides(pairs)
    score = score_pairs(refs, hyps, unit="char")
    assert score.total.words == sum(map(len, refs.values()))
    if score.total.words:
        whole = jiwer.cer(list(refs.values()), list(hyps.values()))
        assert score.wer == pytest.approx(100 * whole)


@given(PAIRS)
@settings(deadline=None)
def test_invariants(pairs):
    refs, hyps = _sides(pairs)
    score = score_pairs(refs, hyps)
    for utt, c in score.utterances.items():
        assert c.words == len(refs[utt].split())
        assert c.hits + c.substitutions + c.insertions == len(hyps[utt].split())
        assert (c.errors == 0) == (refs[utt] == hyps[utt])
    corr, sub, dele, *_, wrong_share = score.rates
    assert corr + sub + dele == pytest.approx(100.0 if score.total.words else 0.0)
    wrong = sum(ref != hyp for ref, hyp in pairs)
    assert wrong_share == pytest.approx(100 * wrong / len(pairs))
    assert score_pairs(refs, refs).wer == 0.0


@given(PAIRS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_utterances_match_by_id_not_by_order(pairs, random):
    refs, hyps = _sides(pairs)
    shuffled = list(hyps.items())
    random.shuffle(shuffled)
    assert score_pairs(refs, dict(shuffled)) == score_pairs(refs, hyps)


def test_hand_computed():
    refs = {"a": "the cat sat on the mat", "b": "hello world", "c": "yes"}
    hyps = {"a": "the cat sat on mat", "b": "hello there big world", "c": "no"}
    score = score_pairs(refs, hyps)
    assert score.utterances == {
        "a": Counts(hits=5, deletions=1),
        "b": Counts(hits=2, insertions=2),
        "c": Counts(substitutions=1),
    }
    assert score.total == Counts(7, 1, 1, 2)
    expected = (700 / 9, 100 / 9, 100 / 9, 200 / 9, 400 / 9, 100.0)
    assert score.rates == pytest.approx(expected)
    assert score.subset(["b"]).wer == pytest.approx(100.0)


def test_empty_hypothesis_is_all_deletions():
    score = score_pairs({"a": "x y z"}, {"a": ""})
    assert score.total == Counts(deletions=3)
    assert score.rates[4:] == (100.0, 100.0)


def test_empty_reference_counts_insertions():
    score = score_pairs(
        {"a": "", "b": "x y", "c": ""}, {"a": "p q", "b": "x y", "c": ""}
    )
    assert score.utterances["a"] == Counts(insertions=2)
    assert score.wer == pytest.approx(100.0)
    assert score.rates[-1] == pytest.approx(100 / 3)


@pytest.mark.parametrize(("hyp", "wer"), [("", 0.0), ("p q", 200.0)])
def test_no_reference_word_at_all(hyp: str, wer: float):
    assert score_pairs({"a": ""}, {"a": hyp}).wer == wer


def test_case_counts_and_white_space_does_not():
    assert score_pairs({"a": "The  cat"}, {"a": " The\tcat "}).wer == 0.0
    assert score_pairs({"a": "The cat"}, {"a": "the cat"}).wer == 50.0


def test_space_is_a_character():
    score = score_pairs({"a": "ab c"}, {"a": "abc"}, unit="char")
    assert score.total == Counts(hits=3, deletions=1)


def test_score_is_frozen():
    with pytest.raises(AttributeError):
        Score({}).utterances = {}


def test_missing_hypothesis_names_the_first_ids():
    refs = {f"u{i}": "x" for i in range(9)}
    with pytest.raises(UserError) as e:
        score_pairs(refs, {"u0": "x"}, names=("ref.txt", "hyp.txt"))
    assert "hyp.txt: lacks 8 of 9 utterances (u1, u2, u3, ...)" in str(e.value)
    assert "ref.txt" in str(e.value)
    assert "\n" not in str(e.value)


def test_extra_hypothesis_is_refused():
    with pytest.raises(UserError, match=r"holds 1 of 2 utterances \(b\)"):
        score_pairs({"a": "x"}, {"a": "x", "b": "y"})


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="no utterance"):
        score_pairs({}, {})


def test_unknown_unit_is_refused():
    with pytest.raises(UserError, match="word, char"):
        score_pairs({"a": "x"}, {"a": "x"}, unit="phone")


def test_read_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffb-1  caf\u00e9 \u2028 x\r\na-1\nc-1\tp  q".encode())
    texts = read_text(path)
    assert texts == {"b-1": "caf\u00e9 x", "a-1": "", "c-1": "p q"}
    assert list(texts) == ["b-1", "a-1", "c-1"]


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"", "text: ", "empty"),
        (b"\n \n", "text: ", "empty"),
        (b"a x\nb y\na z\n", "text:3: ", "'a' occurs twice"),
        (b"a x\nb \xff\n", "text:2: ", "not UTF-8"),
        (b"a x\n\nb y\n", "text:2: ", "blank line"),
        (b"a x\n\n", "text:2: ", "blank line"),
    ],
)
def test_read_text_refuses(tmp_path, content: bytes, where: str, what: str):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError) as e:
        read_text(tmp_path / "text")
    assert where in str(e.value)
    assert what in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["nope", "."])
def test_read_text_needs_a_file(tmp_path, name: str):
    with pytest.raises(UserError, match="cannot read it"):
        read_text(tmp_path / name)
