from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from espnet_llada.scoring import sclite
from espnet_llada.scoring.sclite import find_sclite, read_trn, write_score_dir
from espnet_llada.scoring.wer import score_pairs
from espnet_llada.types import UserError

needs_sclite = pytest.mark.skipif(
    find_sclite() is None, reason="sclite is not installed (Debian: sctk)"
)


@pytest.fixture
def no_sclite(monkeypatch):
    monkeypatch.setattr(sclite, "find_sclite", lambda: None)


def _data(folder: Path, refs: dict, hyps: dict, speakers: dict | None = None):
    folder.mkdir(exist_ok=True)
    for name, values in (("text", refs), ("hyp", hyps), ("utt2spk", speakers)):
        if values is not None:
            lines = "".join(f"{k} {v}\n" for k, v in values.items())
            (folder / name).write_text(lines, encoding="utf-8")
    return folder / "text", folder / "hyp", folder / "score"


TINY = (
    {"s1-1": "The cat sat", "s1-2": "", "s2-1": "A b"},
    {"s2-1": "", "s1-1": "the cat sad", "s1-2": "ins"},
    {"s1-1": "S1", "s1-2": "S1", "s2-1": "s2-x"},
)
ROWS = {  # Snt, Wrd, Corr, Sub, Del, Ins, Err, S.Err
    "s1": "2 3 66.7 33.3 0.0 33.3 66.7 100.0",
    "s2": "1 2 0.0 0.0 100.0 0.0 100.0 100.0",
    "Sum/Avg": "3 5 40.0 20.0 40.0 20.0 80.0 100.0",
}


def _rows(result: Path) -> dict[str, str]:
    """The table of percentages, by its first column.

    sclite widens each column where the path of hyp.trn, its title, is a long one.
    """
    table = result.read_text(encoding="utf-8").partition("`---")[0]
    rows = re.findall(r"\| *(\S+) *\|([\d ]+)\|([\d. ]+)\|", table)
    return {name: " ".join((sizes + rates).split()) for name, sizes, rates in rows}


@pytest.mark.usefixtures("no_sclite")
def test_trn_format_of_words(tmp_path):
    write_score_dir(*_data(tmp_path, *TINY))
    ref = (tmp_path / "score" / "ref.trn").read_text()
    assert ref == "The cat sat\t(S1-s1-1)\n\t(S1-s1-2)\nA b\t(s2-x-s2-1)\n"
    hyp = (tmp_path / "score" / "hyp.trn").read_text()
    assert hyp == "the cat sad\t(S1-s1-1)\nins\t(S1-s1-2)\n\t(s2-x-s2-1)\n"


@pytest.mark.usefixtures("no_sclite")
def test_trn_format_of_characters(tmp_path):
    write_score_dir(*_data(tmp_path, {"u": "Ab  c"}, {"u": "x"}), unit="char")
    assert (tmp_path / "score" / "ref.trn").read_text() == "A b <space> c\t(u-u)\n"


def test_trn_reads_back(tmp_path):
    path = tmp_path / "a.trn"
    path.write_text("A (b) c\t(s-u1)\n\t(s-u2)\n")
    assert read_trn(path) == {"s-u1": "A (b) c", "s-u2": ""}
    path.write_text("A (b) c\t(s-Rec_(2))\n(x) (s-(3)\n(s-u)\n(y)\t(J S-u (1))\n")
    found = {"s-Rec_(2)": "A (b) c", "s-(3": "(x)", "s-u": "", "J S-u (1)": "(y)"}
    assert read_trn(path) == found


def test_ids_that_are_the_same_behind_their_speakers(tmp_path):
    texts = {"b-c": "x", "c": "y"}
    paths = _data(tmp_path, texts, texts)
    (tmp_path / "utt2spk").write_text("b-c a\nc a-b\n")
    with pytest.raises(UserError, match="'b-c' and 'c' are both a-b-c"):
        write_score_dir(*paths)


@pytest.mark.parametrize(
    ("content", "what"),
    [("A b\n", ":1: no .speaker"), ("a (u)\nb (u)\n", ":2: u again")],
)
def test_bad_trn(tmp_path, content: str, what: str):
    (tmp_path / "a.trn").write_text(content)
    with pytest.raises(UserError, match=what):
        read_trn(tmp_path / "a.trn")


@pytest.mark.usefixtures("no_sclite")
def test_own_table(tmp_path):
    result = write_score_dir(*_data(tmp_path, *TINY))
    assert _rows(result) == ROWS
    text = result.read_text()
    # What asr.sh and show_asr_result.sh grep for, in this order and once each.
    found = [line for line in text.splitlines() if "Avg" in line or "SPKR" in line]
    assert [line.split()[1] for line in found] == ["SPKR", "Sum/Avg"]
    assert "id: (s1-s1-1)\nScores: (#C #S #D #I) 2 1 0 0\nREF:  the cat sat\n" in text


@pytest.mark.usefixtures("no_sclite")
def test_no_transcript_can_pose_as_the_total(tmp_path):
    refs = {"Avg-1": "Avg Sum/Avg", "b": "x"}
    result = write_score_dir(*_data(tmp_path, refs, {"Avg-1": "Avg", "b": "x"}))
    assert result.read_text().count("Avg") == 1


@needs_sclite
@pytest.mark.parametrize("folder", [".", "long/" + "name" * 50])
def test_sclite_writes_the_same_rows(tmp_path, folder):
    paths = _data(tmp_path, *TINY)
    result = write_score_dir(*paths[:2], tmp_path / folder / "score")
    assert "DUMP OF SYSTEM ALIGNMENT STRUCTURE" in result.read_text()
    assert _rows(result) == ROWS


def _without_sclite(paths: tuple[Path, Path, Path], unit: str) -> str:
    folder = paths[2].with_name("ours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sclite, "find_sclite", lambda: None)
        return write_score_dir(*paths[:2], folder, unit).read_text()


def _counts(result: str) -> dict[str, str]:
    """Corr, Sub, Del, Ins of each utterance."""
    return dict(re.findall(r"id: \((.*)\)\nScores: \(#C #S #D #I\) (.*)", result))


def _garbled(rng: random.Random, words: list[str], vocabulary: list[str], rate: float):
    hyp = []
    for word in words:
        kind = rng.choice("SDI") if rng.random() < rate else ""
        hyp += {"S": [rng.choice(vocabulary)], "D": []}.get(kind, [word.lower()])
        hyp += [rng.choice(vocabulary)] if kind == "I" else []
    return hyp


@needs_sclite
@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("rate", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("size", [3, 60])
def test_the_same_counts_as_sclite(tmp_path, unit: str, rate: float, size: int):
    """To the last error of each utterance, and to the last digit of the table.

    A vocabulary of three words leaves many alignments of equal cost to choose from.
    """
    rng = random.Random(7)
    vocabulary = [f"W{i}" for i in range(size)]
    refs, hyps = {}, {}
    for i in range(200):
        words = rng.choices(vocabulary, k=rng.randint(0, 25))
        utt = f"s{i % 5}-{i:03d}"
        refs[utt] = " ".join(words)
        hyps[utt] = " ".join(_garbled(rng, words, vocabulary, rate))
    paths = _data(tmp_path, refs, hyps, {utt: utt[:2] for utt in refs})
    theirs = write_score_dir(*paths, unit)
    ours = _without_sclite(paths, unit)
    assert len(_counts(ours)) == 200
    assert _counts(ours) == _counts(theirs.read_text())
    assert _rows(paths[2].with_name("ours") / "result.txt") == _rows(theirs)


ODD = {  # reference, hypothesis
    "empty": ("", ""),
    "all deleted": ("a b", ""),
    "all inserted": ("", "a b c"),
    "accents": ("É è naïve", "é è NAÏVE"),  # beyond ASCII case counts
    "kanji": ("東京 都", "東 京 都"),
    "no-break space": ("a\u00a0b c", "a b c"),  # white space beyond ASCII is none
    "wide space": ("a\u3000b c", "a b c"),
    "parentheses": ("a (b) c", "a b (c)"),
    "hyphens": ("- a- -b a-b", "a b a b"),
    "marks": ("< > <unk> & | \\ / ' \" ` ~ ^ % #", "<unk> &amp; | / ' ` % $"),
    "stars": ("a *** b", "a b"),
    "semicolons": ("a; b ; c", "a b \\\\ c\\\\;"),  # ";" ends a word, "\\" escapes
    "case": ("aBc DEF", "ABC def"),
    "tabs": ("a\tb", "a b"),
    "repeats": ("a a a b a", "a b b a a a"),
}


@needs_sclite
@pytest.mark.parametrize("unit", ["word", "char"])
def test_odd_transcripts_count_as_in_sclite(tmp_path, unit: str):
    names = [name.replace(" ", "_") for name in ODD]
    sides = [dict(zip(names, side)) for side in zip(*ODD.values())]  # noqa: B905
    paths = _data(tmp_path, *sides, dict.fromkeys(names, "s"))
    theirs = write_score_dir(*paths, unit).read_text()
    assert "DUMP OF SYSTEM ALIGNMENT STRUCTURE" in theirs
    assert _counts(_without_sclite(paths, unit)) == _counts(theirs)
    assert len(_counts(theirs)) == len(ODD)


@pytest.mark.parametrize("odd", ["A{ b", "{ a / b }", "x @", ";; a", "** a"])
def test_what_sclite_takes_for_syntax_is_scored_without_it(
    tmp_path, caplog, monkeypatch, odd
):
    monkeypatch.setattr(sclite, "find_sclite", lambda: "/nonexistent/sclite")
    result = write_score_dir(*_data(tmp_path, {"s-1": "a b"}, {"s-1": odd}))
    score = score_pairs({"s-1": "a b"}, {"s-1": odd.lower()})
    assert _rows(result)["Sum/Avg"].split()[6] == f"{score.wer:.1f}"
    assert "s-1 has sclite's own symbols" in caplog.text


def test_failing_sclite_falls_back_aloud(tmp_path, caplog, monkeypatch):
    program = tmp_path / "sclite"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setattr(sclite, "find_sclite", lambda: str(program))
    result = write_score_dir(*_data(tmp_path, *TINY))
    assert _rows(result) == ROWS
    assert "sclite failed (broken)" in caplog.text


@pytest.mark.usefixtures("no_sclite")
def test_without_utt2spk_an_utterance_is_its_own_speaker(tmp_path):
    result = write_score_dir(
        *_data(tmp_path, {"u1": "a", "u2": "b"}, {"u1": "a", "u2": "c"})
    )
    assert set(_rows(result)) == {"u1", "u2", "Sum/Avg"}


def test_speaker_missing_in_utt2spk(tmp_path):
    with pytest.raises(UserError, match="utt2spk: no speaker for utterance u2"):
        write_score_dir(
            *_data(
                tmp_path, {"u1": "a", "u2": "b"}, {"u1": "a", "u2": "b"}, {"u1": "s"}
            )
        )


def test_ids_that_do_not_match_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"hyp: lacks 1 of 2 .*u2.*text"):
        write_score_dir(*_data(tmp_path, {"u1": "a", "u2": "b"}, {"u1": "a"}))


def test_unknown_unit(tmp_path):
    with pytest.raises(UserError, match="word or char"):
        write_score_dir(*_data(tmp_path, *TINY), unit="bpe")


def test_unwritable_output(tmp_path):
    paths = _data(tmp_path, *TINY)
    paths[2].write_text("a file, where the directory should be")
    with pytest.raises(UserError, match="score: cannot make the directory"):
        write_score_dir(*paths)
