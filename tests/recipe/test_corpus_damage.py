"""A corpus of 2,000 utterances with damage of every kind in it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_helpers import write_audio

from espnet_llada.recipe.datadir import read_table
from espnet_llada.recipe.librispeech import list_utterances, prepare_set
from espnet_llada.recipe.problems import SHOWN
from espnet_llada.recipe.subsets import check_count
from espnet_llada.types import UserError

CHAPTERS, UTTS = 40, 50


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "x.flac"
    write_audio(path, 0.3)
    return path.read_bytes()


def _make(
    root: Path, chapters: int, utts: int, audio: bytes, subset="big", first=100
) -> Path:
    """Speaker 100, 101, ... with one chapter each; returns the subset's folder."""
    for speaker in range(first, first + chapters):
        folder = root / "LibriSpeech" / subset / str(speaker) / "1"
        folder.mkdir(parents=True)
        ids = [f"{speaker}-1-{i:04d}" for i in range(utts)]
        for utt in ids:
            (folder / f"{utt}.flac").write_bytes(audio)
        lines = "".join(f"{utt} WORDS OF {utt}\n" for utt in ids)
        (folder / f"{speaker}-1.trans.txt").write_text(lines)
    return root / "LibriSpeech" / subset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sound: bytes) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    _make(root, CHAPTERS, UTTS, sound)
    return root


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


# What to plant in the chapter of one speaker, and what is then said of it.
DAMAGE: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "101": (
        lambda d, s: (d / f"{s}-1-0007.flac").unlink(),
        "101-1-0007.flac: no such file, but 101-1.trans.txt has a line for it; copy",
    ),
    "102": (
        lambda d, s: (d / f"{s}-1-0007.flac").write_bytes(b""),
        "102-1-0007.flac: empty file (0 bytes); copy it again",
    ),
    "103": (
        lambda d, s: _edit(d / f"{s}-1-0007.flac", lambda b: b[: len(b) // 2]),
        "103-1-0007.flac: truncated or corrupt (flac decoder lost sync); copy it again",
    ),
    "104": (
        lambda d, s: _edit(d / f"{s}-1-0007.flac", lambda b: b[:-1]),
        "104-1-0007.flac: truncated or corrupt (flac decoder lost sync); copy it again",
    ),
    "105": (
        lambda d, s: _edit(d / f"{s}-1.trans.txt", lambda b: b.partition(b"\n")[2]),
        "105-1-0000.flac: no transcript in 105-1.trans.txt; add its line or remove",
    ),
    "106": (
        lambda d, s: _edit(d / f"{s}-1.trans.txt", lambda b: b + b"106-1-0003 AGAIN\n"),
        "106-1.trans.txt:51: '106-1-0003' occurs twice; keep one",
    ),
    "107": (
        lambda d, s: _edit(
            d / f"{s}-1.trans.txt", lambda b: b.replace(b"OF", b"\r", 1)
        ),
        "107-1.trans.txt:1: has a carriage return in it; replace it by a new line",
    ),
    "108": (
        lambda d, s: _edit(
            d / f"{s}-1.trans.txt", lambda b: b.replace(b"WORDS", b"W\xd6RDS", 1)
        ),
        "108-1.trans.txt:1: not UTF-8 (byte 12); convert the file with iconv",
    ),
    "109": (
        lambda d, s: (d / f"{s}-1.trans.txt").unlink(),
        "109-1.trans.txt: no such file; copy this chapter again",
    ),
    "110": (
        lambda d, s: (d / f"{s}-1-0007.flac").write_bytes(b"ID3 and noise" * 99),
        "110-1-0007.flac: not readable as audio (it is text); fetch the recording",
    ),
}


def test_every_kind_of_damage_is_named_at_once(tmp_path: Path, sound: bytes, caplog):
    subset = _make(tmp_path, CHAPTERS, UTTS, sound)
    for speaker, (plant, _) in DAMAGE.items():
        plant(subset / speaker / "1", speaker)
    with caplog.at_level(logging.ERROR), pytest.raises(UserError) as e:
        prepare_set(tmp_path, ["big"], tmp_path / "data")
    assert len(DAMAGE) == SHOWN
    assert str(e.value).startswith(f"{SHOWN} problems (all are listed above), e.g. ")
    assert "\n" not in str(e.value)
    for speaker, (_, complaint) in DAMAGE.items():
        said = [m for m in caplog.messages if f"/{speaker}/1/" in m]
        assert len(said) == 1, said
        assert said[0].startswith(f"{subset}/{speaker}/1/{complaint}")
    assert not (tmp_path / "data").exists()
    _edit(subset / "111/1/111-1.trans.txt", lambda b: b"")
    with pytest.raises(UserError, match=r"60 problems \(the first 10 are listed"):
        prepare_set(tmp_path, ["big"], tmp_path / "data")


def test_sound_corpus_has_no_complaint(corpus: Path):
    for check in ("none", "size", "header", "decode"):
        assert len(list_utterances(corpus, ["big"], check=check)) == CHAPTERS * UTTS


def test_only_a_decoder_hears_damage_in_the_middle(tmp_path: Path, sound: bytes):
    file = _make(tmp_path, 1, 2, sound) / "100/1/100-1-0001.flac"
    _edit(file, lambda b: b[:2000] + bytes([b[2000] ^ 255]) + b[2001:])
    list_utterances(tmp_path, ["big"], check="header")
    with pytest.raises(UserError, match=f"{file}: truncated or corrupt"):
        list_utterances(tmp_path, ["big"], check="decode")


def test_checks_ask_for_more_and_more(tmp_path: Path, sound: bytes):
    file = _make(tmp_path, 1, 2, sound) / "100/1/100-1-0001.flac"
    _edit(file, lambda b: b[:-1])
    assert len(list_utterances(tmp_path, ["big"], check="size")) == 2
    with pytest.raises(UserError, match="truncated"):
        list_utterances(tmp_path, ["big"], check="header")
    file.write_bytes(b"")
    assert len(list_utterances(tmp_path, ["big"], check="none")) == 2
    with pytest.raises(UserError, match="empty"):
        list_utterances(tmp_path, ["big"], check="size")


def test_fewer_utterances_than_published(tmp_path: Path, sound: bytes):
    subset = _make(tmp_path, 2, 2, sound, "dev-clean")
    detail = f"{subset}: 4 utterances, LibriSpeech's has 2703"
    with pytest.raises(UserError, match=f"^{detail}; unpack.*--partial true$"):
        list_utterances(tmp_path, ["dev-clean"])
    chapters = "; ID |READER|MINUTES| SUBSET\n" + "".join(
        f"{chapter} | {reader} | 1.5 | {name} | 9\n"
        for chapter, reader, name in (
            (7, 100, "test-clean"),
            (1, 100, "dev-clean"),
            (8, 101, "dev-clean"),
        )
    )
    (subset.parent / "CHAPTERS.TXT").write_text(chapters)
    with pytest.raises(UserError, match=f"{detail}; chapter 101/8 of CHAPTERS"):
        list_utterances(tmp_path, ["dev-clean"])
    assert len(list_utterances(tmp_path, ["dev-clean"], partial=True)) == 4


def test_counts(tmp_path: Path):
    assert check_count(tmp_path, "train-other-500", 148_688) is None
    assert check_count(tmp_path, "dev-mini", 1) is None
    assert "move what is not of it" in check_count(tmp_path, "test-other", 2_940)


def test_a_looser_check_does_not_vouch_for_a_stricter_one(corpus: Path, tmp_path: Path):
    out = tmp_path / "data"
    assert prepare_set(corpus, ["big"], out, check="none")
    assert not prepare_set(corpus, ["big"], out, check="none")
    assert prepare_set(corpus, ["big"], out)
    assert len(read_table(out / "text")) == CHAPTERS * UTTS


PEAK = """
import sys
from pathlib import Path
from espnet_llada.recipe.librispeech import prepare_set
prepare_set(Path(sys.argv[1]), sys.argv[3:], Path(sys.argv[2]), check="none")
# getrusage's ru_maxrss is inherited from the process that started this one.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_grows_with_the_corpus_and_no_faster(tmp_path: Path):
    """A tenth of LibriSpeech's 292k utterances, in fourths."""
    utts = 7_300
    for number in range(4):
        _make(tmp_path, 146, 50, b"", f"s{number}", first=1000 * (number + 1))

    def peak(count: int) -> float:
        subsets = [f"s{n}" for n in range(count)]
        command = [sys.executable, "-c", PEAK, tmp_path, tmp_path / "data", *subsets]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout.splitlines()[-1]) / 1024  # MiB

    one, two, four = peak(1), peak(2), peak(4)
    assert four > one  # it is this process that is measured
    assert four - two < 2 * (two - one) + 5
    per_utterance = (four - one) / (3 * utts)
    assert one + (292_367 - utts) * per_utterance < 500
