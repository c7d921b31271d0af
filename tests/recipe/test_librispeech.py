from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from recipe_helpers import RECIPE, snapshot, write_chapter

from espnet_llada.recipe.datadir import read_data_dir, read_table
from espnet_llada.recipe.librispeech import list_utterances, main, prepare_set
from espnet_llada.types import UserError

MINI = RECIPE / "mini"
SUBSETS = {
    **{"train-mini": 300, "dev-mini": 40, "dev-synth-mini": 80},
    **{"test-clean-mini": 16, "test-prompts-mini": 75, "test-synth-mini": 120},
}


def test_manifest_is_in_c_locale_order(corpus: Path):
    utts = [u.utt for u in list_utterances(corpus, ["train-x"])]
    assert utts == ["10-7-0000", "10-7-0001", "2-7-0000", "2-7-0001"]


def test_manifest_entry(corpus: Path):
    first = list_utterances(corpus, ["dev-x"])[0]
    assert first == (
        *("3-1-0000", "3-1"),
        str(corpus / "LibriSpeech/dev-x/3/1/3-1-0000.flac"),
        "WORDS OF 0",
    )


def test_root_may_be_the_corpus_itself(corpus: Path):
    assert list_utterances(corpus / "LibriSpeech", ["dev-x"]) == list_utterances(
        corpus, ["dev-x"]
    )


def test_data_directory(corpus: Path, tmp_path: Path):
    out = tmp_path / "data" / "all"
    prepare_set(corpus, ["train-x", "dev-x"], out)
    assert (out / "spk2utt").read_text().splitlines()[0] == "10-7 10-7-0000 10-7-0001"
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        lines = (out / name).read_bytes().splitlines()
        assert lines == sorted(lines)
    assert len(read_data_dir(out)) == 6


def test_second_run_changes_nothing(corpus: Path, tmp_path: Path):
    out = tmp_path / "data" / "dev"
    assert prepare_set(corpus, ["dev-x"], out)
    before = snapshot(out)
    assert not prepare_set(corpus, ["dev-x"], out)
    (out / ".completed").unlink()
    assert prepare_set(corpus, ["dev-x"], out)
    assert snapshot(out) == before


def test_other_subsets_replace_a_finished_set(corpus: Path, tmp_path: Path):
    out = tmp_path / "data" / "set"
    prepare_set(corpus, ["dev-x"], out)
    assert prepare_set(corpus, ["train-x"], out)
    assert read_table(out / "utt2spk").keys() == {
        u.utt for u in list_utterances(corpus, ["train-x"])
    }


def test_transcripts_of_windows_and_macos(corpus: Path, tmp_path: Path):
    """A byte order mark and CRLF; an accent that is a character of its own on disk."""
    write_chapter(corpus, "acc", "e\u0301-1", 2)
    listing = next((corpus / "LibriSpeech/acc").glob("*/1/*.trans.txt"))
    lines = listing.read_text().replace("e\u0301", "\u00e9").replace("\n", "\r\n")
    listing.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    found = list_utterances(corpus, ["acc"])
    assert [u.utt for u in found] == ["\u00e9-1-0000", "\u00e9-1-0001"]
    assert [u.text for u in found] == ["WORDS OF 0", "WORDS OF 1"]
    assert all(Path(u.audio).is_file() for u in found)


def test_max_utts_spreads_over_the_set(corpus: Path, tmp_path: Path):
    prepare_set(corpus, ["train-x"], tmp_path / "data", max_utts=2)
    assert list(read_table(tmp_path / "data/text")) == ["10-7-0000", "2-7-0000"]


def test_damage_leaves_no_marker(corpus: Path, tmp_path: Path):
    (corpus / "LibriSpeech/dev-x/3/1/3-1-0001.flac").unlink()
    with pytest.raises(UserError):
        prepare_set(corpus, ["dev-x"], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


DAMAGE = {
    "audio missing": (
        lambda c: (c / "3-1-0001.flac").unlink(),
        "3-1-0001.flac: no such",
    ),
    "audio empty": (
        lambda c: (c / "3-1-0001.flac").write_bytes(b""),
        "3-1-0001.flac: em",
    ),
    "line missing": (
        lambda c: (c / "3-1.trans.txt").write_text("3-1-0000 A\n"),
        "3-1-0001.flac: no transcript",
    ),
    "listing missing": (
        lambda c: (c / "3-1.trans.txt").unlink(),
        "3-1.trans.txt: no s",
    ),
    "no words": (
        lambda c: (c / "3-1.trans.txt").write_text("3-1-0000 A\n3-1-0001\n"),
        "'3-1-0001' has no words",
    ),
    "id twice": (
        lambda c: _append(c / "3-1.trans.txt", "3-1-0000 A\n"),
        "'3-1-0000' occurs twice",
    ),
    "not text": (
        lambda c: (c / "3-1.trans.txt").write_bytes(b"3-1-0000 \xff\n3-1-0001 B\n"),
        "3-1.trans.txt:1: not UTF-8 (byte 9); convert",
    ),
    "foreign id": (lambda c: c.rename(c.with_name("9")), "3/9/3-9.trans.txt: no such"),
}


@pytest.mark.parametrize(("plant", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(corpus: Path, plant, message: str):
    plant(corpus / "LibriSpeech/dev-x/3/1")
    with pytest.raises(UserError) as e:
        list_utterances(corpus, ["dev-x"])
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_copies_in_other_formats_are_taken_as_they_are(corpus: Path, tmp_path: Path):
    chapter = corpus / "LibriSpeech/dev-x/3/1"
    samples, rate = soundfile.read(chapter / "3-1-0000.flac")
    soundfile.write(chapter / "3-1-0000.wav", samples, rate)
    with pytest.raises(UserError, match=r"3-1-0000\.wav: 3-1-0000\.flac is the same"):
        list_utterances(corpus, ["dev-x"])
    (chapter / "3-1-0000.flac").unlink()
    (chapter / "3-1-0001.flac").rename(chapter / "3-1-0001.FLAC")
    prepare_set(corpus, ["dev-x"], tmp_path / "data")
    scp = read_table(tmp_path / "data/wav.scp")
    assert scp == {
        "3-1-0000": str(chapter / "3-1-0000.wav"),
        "3-1-0001": str(chapter / "3-1-0001.FLAC"),
    }
    wav = chapter / "3-1-0000.wav"
    wav.write_bytes(wav.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"3-1-0000\.wav: truncated"):
        list_utterances(corpus, ["dev-x"])


def test_missing_root_names_db_sh(tmp_path: Path):
    with pytest.raises(UserError, match=r"set LIBRISPEECH in db\.sh"):
        list_utterances(tmp_path / "nowhere", ["dev-clean"])


def test_missing_subset_lists_what_is_there(corpus: Path):
    with pytest.raises(UserError, match="has dev-x, train-x"):
        list_utterances(corpus, ["dev-clean"])


def test_empty_subset(corpus: Path):
    (corpus / "LibriSpeech/none").mkdir()
    with pytest.raises(UserError, match="no utterances"):
        list_utterances(corpus, ["none"])


def test_same_id_in_two_subsets(corpus: Path, tmp_path: Path):
    write_chapter(corpus, "other-x", "3-1", 1)
    with pytest.raises(UserError, match="has the same id"):
        prepare_set(corpus, ["dev-x", "other-x"], tmp_path / "data")


def test_command_line(corpus: Path, tmp_path: Path):
    argv = ["--root", str(corpus), "--data_dir", str(tmp_path), "both=dev-x+train-x"]
    main(argv)
    assert len(read_table(tmp_path / "both" / "text")) == 6
    with pytest.raises(UserError, match="name=subset"):
        main([*argv, "both"])


@pytest.mark.parametrize(("subset", "count"), SUBSETS.items())
def test_mini_corpus_is_whole(subset: str, count: int):
    assert len(list_utterances(MINI, [subset])) == count


def test_mini_corpus_shares_no_text():
    texts = Counter(u.text for s in SUBSETS for u in list_utterances(MINI, [s]))
    assert texts.most_common(1)[0][1] == 1


def test_mini_corpus_names_the_origin_of_each_clip():
    with open(MINI / "LibriSpeech/CLIPS.tsv", encoding="utf-8") as f:
        rows = {row["clip"]: row for row in csv.DictReader(f, delimiter="\t")}
    utts = {u.utt: u for s in SUBSETS for u in list_utterances(MINI, [s])}
    assert rows.keys() == utts.keys()
    for clip, row in rows.items():
        info = soundfile.info(utts[clip].audio)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert info.duration == pytest.approx(float(row["seconds"]), abs=0.01)
        assert row["origin"] and row["terms"]


def test_mini_corpus_has_terms_for_each_subset_and_speaker():
    terms = (MINI / "LibriSpeech/LICENSE.TXT").read_text(encoding="utf-8")
    lines = (MINI / "LibriSpeech/SPEAKERS.TXT").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.split("|")] for line in lines[2:]]
    named = {(subset, speaker) for speaker, _, subset, *_ in cells}
    for subset in SUBSETS:
        assert re.search(rf"^(.*\W)?{subset}\b", terms, re.M)
        speakers = {u.speaker.split("-")[0] for u in list_utterances(MINI, [subset])}
        assert speakers == {speaker for s, speaker in named if s == subset}
    digium = re.search(r"^test-prompts-mini\n((?: +.+\n)+)", terms, re.M)[1]
    assert "Digium" in digium and "creativecommons.org/licenses/by-sa/3.0" in digium


def test_mini_corpus_goes_through_the_same_code(tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(MINI, root, ignore=shutil.ignore_patterns("train-mini"))
    prepare_set(root, ["test-clean-mini"], tmp_path / "data")
    text = read_table(tmp_path / "data/text")
    assert text["lj-LJ001-0008"] == "HAS NEVER BEEN SURPASSED"
