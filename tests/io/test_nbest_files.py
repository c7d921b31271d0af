"""N-best lists as ESPnet writes them."""

from __future__ import annotations

import pytest

from espnet_llada.io.nbest import read_nbest
from espnet_llada.types import ScoredText, UserError


def write(folder, number, texts, scores):
    place = folder / f"{number}best_recog"
    place.mkdir(parents=True)
    (place / "text").write_text("".join(f"{u} {t}\n" for u, t in texts.items()))
    (place / "score").write_text("".join(f"{u} {s}\n" for u, s in scores.items()))


@pytest.mark.parametrize("place", ["", "output.1", "logdir/output.1"])
def test_lists_are_read_best_first(tmp_path, place):
    job = tmp_path / place
    write(job, 1, {"a": "ONE", "b": "TWO"}, {"a": "-1.5", "b": "tensor(-2.25)"})
    write(job, 2, {"a": "WON"}, {"a": "-3.0e-01"})
    found = read_nbest(tmp_path, ["b", "a"])
    assert list(found) == ["b", "a"]
    assert found["a"] == (ScoredText("ONE", -1.5), ScoredText("WON", -0.3))
    assert found["b"] == (ScoredText("TWO", -2.25),)


def test_what_is_missing_is_named(tmp_path):
    write(tmp_path, 1, {"a": "ONE"}, {"a": "-1"})
    with pytest.raises(UserError, match="--nbest 5"):
        read_nbest(tmp_path, ["a"])
    write(tmp_path, 2, {"a": "WON"}, {"a": "likely"})
    with pytest.raises(UserError, match=r"score of 'a'.*likely"):
        read_nbest(tmp_path, ["a"])
    (tmp_path / "2best_recog/score").write_text("a -2\n")
    with pytest.raises(UserError, match=r"no text for 1 utterances.*'b'"):
        read_nbest(tmp_path, ["a", "b"])
