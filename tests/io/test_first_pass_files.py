"""Transcripts as other recognisers write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from espnet_llada.bin import cli
from espnet_llada.io.first_pass import read_first_pass
from espnet_llada.types import UserError

SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 1.0, "text": " The quick,"},
    {"id": 1, "start": 1.0, "end": 2.0, "text": " brown fox."},
]
SRT = "1\n00:00:00,000 --> 00:00:01,000\n<i>The quick,</i>\n\n"
SRT += "2\n00:00:01,000 --> 00:00:02,000\n{\\an8}brown\nfox.\n\n"
VTT = "WEBVTT\n\nNOTE by hand\n\n00:00.000 --> 00:01.000\nThe quick,\n\n"
VTT += "00:01.000 --> 00:02.000\n<v Ann>brown fox.\n"
CTM = ";; by hand\na 1 0.5 0.1 quick, 0.9\na 1 0.0 0.1 The\na 1 0.9 0.1 <eps>\n"
CTM += "a 1 1.0 0.1 brown\na 1 1.1 0.1 fox.\n"
OURS = {"id": "a", "text": "The quick, brown fox.", "tokens": [], "passes": 2}

FILES = {
    "text": "a The quick, brown fox.\n",
    "a.json": json.dumps({"text": " The quick, brown fox.", "segments": SEGMENTS}),
    "A/a.json": json.dumps({"segments": SEGMENTS, "language": "en"}),
    "B/a.json": json.dumps(SEGMENTS),
    "a.wav.json": json.dumps({"text": "The quick, brown fox."}),
    "out.json": json.dumps(OURS) + "\n" + json.dumps({**OURS, "id": "b"}) + "\n",
    "out.jsonl": json.dumps({**OURS, "id": "audio/a.flac"}) + "\n",
    "a.srt": SRT,
    "B/a.srt": SRT.replace("\n", "\r\n"),
    "a.vtt": VTT,
    "x.ctm": CTM,
    "ctm": CTM.replace("a 1", "dir/a.wav 1"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(FILES[name], newline="")
    assert read_first_pass(file, ["a"])["a"] == "The quick, brown fox."


@pytest.mark.parametrize(
    "places",
    [
        ["text", "score_wer/text"],
        ["1best_recog/text", "2best_recog/text"],
        ["logdir/output.1/1best_recog/text", "logdir/output.1/2best_recog/text"],
        ["output.1/1best_recog/text"],
        ["test_clean/text"],
    ],
)
def test_of_a_directory_the_best_is_read(tmp_path, places):
    for place, text in zip(places, ("a YES\n", "a NO\n"), strict=False):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert read_first_pass(tmp_path, ["a"]) == {"a": "YES"}


def test_a_directory_of_whispers(tmp_path):
    for name in ("a", "b"):  # as --output_format all leaves it
        (tmp_path / f"{name}.json").write_text(json.dumps({"text": f" The {name}."}))
        for suffix in ("srt", "vtt", "tsv", "txt"):
            (tmp_path / f"{name}.{suffix}").write_text("not read\n")
    assert read_first_pass(tmp_path, ["a", "b"]) == {"a": "The a.", "b": "The b."}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"a\.json:1: not valid JSON"),
        ("a.json", "", r"a\.json: empty"),
        ("a.json", '{"words": []}', "no transcript known here; expected 'text'"),
        ("a.json", "[1, 2]", "no transcript known here"),
        ("a.json", "3", "no transcript known here"),
        ("a.json", "[" * 5000, "not valid JSON"),
        ("b.json", '{"text": "x"}', "no transcript for 1 .* 'a', but one for 'b'"),
        ("a.srt", "The quick brown fox.\n", "no 'start --> end' line in the block"),
        ("a.srt", b"\xff\xfe", r"a\.srt: not valid SRT"),
        ("a.ctm", "a 1 0.0 fox\n", r"a\.ctm:1: expected 'recording channel start"),
        ("a.ctm", "a 1 x 0.1 fox\n", r"a\.ctm:1: expected 'recording channel start"),
        ("a.ctm", "a 1 0 0.1 <ALT_BEGIN>\n", "has alternatives"),
        ("a.ctm", ";; nothing\n", "no transcript for 1"),
        ("nowhere/a.json", None, r"a\.json: cannot read it"),
        ("", None, r"no transcripts in it \(\*/text, \*\.json"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as e:
        read_first_pass(file, ["a"])
    assert "\n" not in str(e.value)


def test_two_transcripts_of_one_recording(tmp_path):
    lines = [{"id": "a", "text": "x"}, {"id": "a.wav", "text": "y"}]
    file = tmp_path / "out.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="another transcript of 'a'"):
        read_first_pass(file, ["a"])


def test_punctuation_and_case_of_an_unchanged_text_stay(
    capsys, model_dir, speech: list[Path], tmp_path
):
    first = tmp_path / "whisper"
    first.mkdir()
    for file in speech:
        content = {"text": " The quick,  brown fox.", "segments": SEGMENTS}
        (first / f"{file.stem}.json").write_text(json.dumps(content))
    words = ["deliberate", *map(str, speech), "--model", str(model_dir)]
    words += ["--first_pass", str(first), "--mask_ratio", "0", "--strategy", "random"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{file.stem} The quick, brown fox." for file in speech]
    assert cli.main([*words, "--format", "json"]) == 0
    (tmp_path / "again.json").write_text(capsys.readouterr().out)
    again = read_first_pass(tmp_path / "again.json", [f.stem for f in speech])
    assert set(again.values()) == {"The quick, brown fox."}
