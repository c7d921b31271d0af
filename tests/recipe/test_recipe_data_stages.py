from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_helpers import snapshot, write_audio, write_set

from espnet_llada.recipe.data_stages import filter_sets, format_sets, list_tokens
from espnet_llada.recipe.datadir import read_table, split_table, write_table
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.options import Options, parse_options
from espnet_llada.types import UserError

OPTIONS = Options(train_set="tr", valid_set="dv", test_sets="te", nj=1)


@pytest.fixture
def recipe_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose sets hold recordings of several kinds."""
    monkeypatch.chdir(tmp_path)
    write_audio(Path("wav/plain.flac"), 1.0)
    write_audio(Path("wav/plain.wav"), 2.0)
    write_audio(Path("wav/stereo.wav"), 1.5, 48000, 2)
    write_audio(Path("wav/short.flac"), 0.05)
    write_audio(Path("wav/long.flac"), 21.0)
    _write("tr", "plain.flac", "plain.wav", "stereo.wav", "short.flac", "long.flac")
    _write("dv", "plain.flac")
    _write("te", "plain.flac", "short.flac")
    return tmp_path


def _write(name: str, *files: str, prefix: str = "wav/") -> None:
    utts = {f"s-{f.replace('.', '-')}": prefix + f for f in files}
    write_set(Path("data") / name, utts)


def test_plain_recordings_are_referred_to(recipe_dir: Path):
    format_sets(Layout(OPTIONS))
    wav = read_table(Path("dump/raw/org/tr/wav.scp"))
    assert wav["s-plain-flac"] == "wav/plain.flac"
    assert wav["s-plain-wav"] == "wav/plain.wav"
    samples = read_table(Path("dump/raw/org/tr/utt2num_samples"))
    assert samples["s-plain-wav"] == "32000"
    assert Path("dump/raw/te/feats_type").read_text() == "raw\n"
    assert Path("dump/raw/te/audio_format").read_text() == "flac\n"


def test_other_recordings_are_converted(recipe_dir: Path):
    format_sets(Layout(OPTIONS))
    path = read_table(Path("dump/raw/org/tr/wav.scp"))["s-stereo-wav"]
    assert path == "dump/raw/org/tr/data/s/s-stereo-wav.flac"
    samples, rate = soundfile.read(path)
    assert (rate, samples.shape) == (16000, (24000,))
    assert np.abs(samples).max() > 0.05


def test_what_libsndfile_alone_reads_in_part_is_converted(recipe_dir: Path):
    """Two files joined end to end, and one of a recorder that died."""
    plain = Path("wav/plain.flac").read_bytes()
    Path("wav/joined.flac").write_bytes(plain + plain)
    header, samples = Path("wav/plain.wav").read_bytes().split(b"data", 1)
    Path("wav/died.wav").write_bytes(header + b"data" + bytes(4) + samples[4:])
    _write("te", "joined.flac", "died.wav")
    format_sets(Layout(OPTIONS))
    wav = read_table(Path("dump/raw/te/wav.scp"))
    seconds = {utt: soundfile.info(path).duration for utt, path in wav.items()}
    assert seconds == {"s-joined-flac": 2.0, "s-died-wav": 2.0}


def test_second_run_changes_no_byte(recipe_dir: Path):
    format_sets(Layout(OPTIONS))
    filter_sets(Layout(OPTIONS))
    before = snapshot(Path("dump"))
    format_sets(Layout(OPTIONS))
    filter_sets(Layout(OPTIONS))
    assert snapshot(Path("dump")) == before


def test_worker_processes_give_the_same(recipe_dir: Path, monkeypatch):
    format_sets(Layout(OPTIONS))
    before = snapshot(Path("dump"))
    monkeypatch.setattr("espnet_llada.recipe.data_stages._POOL_PAYS", 1)
    format_sets(Layout(Options(train_set="tr", valid_set="dv", test_sets="te", nj=2)))
    assert snapshot(Path("dump")) == before


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "plant",
    [
        lambda p: p.write_bytes(b"not audio at all"),
        lambda p: p.write_bytes(b""),
        lambda p: p.unlink(),
        _truncate,
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
    ],
    ids=["garbage", "empty", "missing", "truncated", "one byte short"],
)
def test_a_bad_recording_is_named_and_nothing_half_written(recipe_dir: Path, plant):
    write_audio(Path("wav/victim.flac"), 1.0)
    _write("te", "plain.flac", "victim.flac")
    plant(Path("wav/victim.flac"))
    with pytest.raises(UserError) as e:
        format_sets(Layout(OPTIONS))
    assert "wav/victim.flac" in str(e.value)
    assert "\n" not in str(e.value)
    assert not Path("dump/raw/te").exists()


@pytest.mark.parametrize("nj", [1, 2])
def test_a_bad_recording_keeps_the_old_tables(recipe_dir: Path, monkeypatch, nj: int):
    monkeypatch.setattr("espnet_llada.recipe.data_stages._POOL_PAYS", 1)
    format_sets(Layout(OPTIONS))
    before = snapshot(Path("dump/raw/te"))
    Path("wav/short.flac").write_bytes(b"x")
    options = Options(test_sets="te", skip_train=True, nj=nj)
    with pytest.raises(UserError, match=r"wav/short\.flac"):
        format_sets(Layout(options))
    assert snapshot(Path("dump/raw/te")) == before


def test_pipes_are_refused(recipe_dir: Path):
    write_table(Path("data/te/wav.scp"), {"s-plain-flac": "sox a.wav -t wav - |"})
    for name in ("text", "utt2spk"):
        write_table(Path("data/te") / name, {"s-plain-flac": "s"})
    with pytest.raises(UserError, match="is a pipe"):
        format_sets(Layout(OPTIONS))


@pytest.mark.parametrize("nj", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_pipes_that_may_run_are_recordings_from_then_on(
    recipe_dir: Path, monkeypatch, nj: int
):
    monkeypatch.setattr("espnet_llada.recipe.data_stages._POOL_PAYS", 1)
    lines = dict.fromkeys(("s-a", "s-b"), "cat wav/stereo.wav |")
    write_set(Path("data/te"), lines)
    command = ["--test_sets", "te", "--skip_train", "true", "--nj", str(nj)]
    format_sets(Layout(parse_options([*command, "--allow_pipes", "true"])))
    wav = read_table(Path("dump/raw/te/wav.scp"))
    assert wav["s-a"] == "dump/raw/te/data/s/s-a.flac"
    assert read_table(Path("dump/raw/te/utt2num_samples"))["s-b"] == "24000"


def test_segments_are_refused(recipe_dir: Path):
    Path("data/te/segments").write_text("u1 s-plain-flac 0.0 0.5\n")
    with pytest.raises(UserError, match="data/te/segments: not supported here"):
        format_sets(Layout(OPTIONS))


def test_tables_of_windows_and_macos(recipe_dir: Path):
    """Byte order marks and CRLF; an accent as a character of its own in one table."""
    one, two = "s-caf\u00e9", "s-cafe\u0301"
    Path("data/te/wav.scp").write_text(f"\ufeff{two} wav/plain.flac\r\n")
    Path("data/te/text").write_text(f"\ufeff{one} A B  \r\n")
    Path("data/te/utt2spk").write_text(f"{one} s\n")
    format_sets(Layout(OPTIONS))
    assert Path("dump/raw/te/text").read_text() == f"{one} A B\n"
    assert Path("dump/raw/te/wav.scp").read_text() == f"{one} wav/plain.flac\n"


def test_a_speaker_is_no_path(recipe_dir: Path):
    write_table(Path("data/te/utt2spk"), dict.fromkeys(["s-plain-flac"], "../../x"))
    for name in ("text", "wav.scp"):
        write_table(Path("data/te") / name, {"s-plain-flac": "wav/stereo.wav"})
    with pytest.raises(UserError, match="'s-plain-flac': an id cannot have a '/'"):
        format_sets(Layout(OPTIONS))


def test_tables_that_disagree(recipe_dir: Path):
    write_table(Path("data/te/text"), {"s-plain-flac": "A"})
    with pytest.raises(UserError, match="data/te/text: no line for 's-short-flac'"):
        format_sets(Layout(OPTIONS))


def test_filter_drops_short_long_and_silent(recipe_dir: Path, caplog):
    text = dict.fromkeys(read_table(Path("data/tr/wav.scp")), "A B")
    write_table(Path("data/tr/text"), {**text, "s-plain-wav": ""})
    format_sets(Layout(OPTIONS))
    with caplog.at_level("INFO"):
        filter_sets(Layout(OPTIONS))
    out = Path("dump/raw/tr")
    assert list(read_table(out / "wav.scp")) == ["s-plain-flac", "s-stereo-wav"]
    for name in ("text", "utt2spk", "utt2num_samples"):
        assert len(read_table(out / name)) == 2
    assert "kept 2 of 5 utterances (2 outside 0.1 to 20 s, 1 without" in caplog.text
    assert len(read_table(Path("dump/raw/te/wav.scp"))) == 2  # a test set stays whole


def test_filter_that_leaves_nothing(recipe_dir: Path):
    format_sets(Layout(OPTIONS))
    options = Options(
        train_set="tr", valid_set="dv", test_sets="te", min_wav_duration=30.0
    )
    with pytest.raises(UserError, match="no utterance is left"):
        filter_sets(Layout(options))


def test_token_list_is_short(recipe_dir: Path):
    list_tokens(Layout(OPTIONS))
    lines = Layout(OPTIONS).token_list.read_text().splitlines()
    assert lines == ["<blank>", "<unk>", "<sos/eos>"]


def test_split_keeps_every_line_in_order(tmp_path: Path):
    table = {f"u{i:02d}": str(i) for i in range(11)}
    write_table(tmp_path / "scp", table)
    parts = [tmp_path / f"part.{n}" for n in range(3)]
    split_table(tmp_path / "scp", parts)
    assert [len(read_table(part)) for part in parts] == [3, 4, 4]
    joined = b"".join(part.read_bytes() for part in parts)
    assert joined == (tmp_path / "scp").read_bytes()


def test_tables_refuse_a_key_twice(tmp_path: Path):
    (tmp_path / "text").write_text("a 1\nb 2\na 3\n")
    with pytest.raises(UserError, match=r"text:3: 'a' occurs twice"):
        read_table(tmp_path / "text")
