"""espnet-llada convert, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from espnet_llada.bin import cli
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.types import UserError


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [f for f in sorted(directory.rglob("*")) if f.is_file()]
    return {
        str(f.relative_to(directory)): (f.read_bytes(), f.stat().st_mtime_ns)
        for f in files
    }


def test_a_second_run_writes_nothing_and_damage_is_mended(
    release_checkpoint, tiny_whisper, tiny_llada, tmp_path, capsys
):
    output = tmp_path / "model"
    command = ["convert", "--release", release_checkpoint, "--whisper", tiny_whisper]
    command += ["--lm", tiny_llada, "--output", output, "--qformer_heads", 4]
    command = [str(c) for c in command]
    assert cli.main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"{output}: written"
    assert out[0] == (
        "unused tensor: adapter.bert.embeddings.position_embeddings.weight"
    )
    first = snapshot(output)
    assert cli.main(command) == 0
    assert "up to date" in capsys.readouterr().out and snapshot(output) == first
    (output / "decode.log").write_text("kept")
    (output / "config.yaml").write_text("decoder: damaged")
    assert cli.main(command) == 0
    second = snapshot(output)
    assert (output / "decode.log").read_text() == "kept"
    assert {k: v[0] for k, v in second.items() if k != "decode.log"} == {
        k: v[0] for k, v in first.items()
    }
    record = json.loads((output / "convert.json").read_text())
    assert record["sources"]["release"]["name"] == "checkpoint_best.pth"
    assert all(len(s["sha256"]) == 64 for s in record["sources"].values())
    assert len(record["unused"]) == 16
    files = {"config.yaml", "model.safetensors"}
    assert set(record["outputs"]) == files | {f"{name}.sha256" for name in files}


@pytest.mark.parametrize("option", ["--lm", "--whisper"])
def test_a_layout_alone(request, tmp_path, capsys, option):
    name = {"--lm": "tiny_llada", "--whisper": "tiny_whisper"}[option]
    source, output = request.getfixturevalue(name), tmp_path / "out"
    for state in ("written", "up to date, nothing written"):
        assert cli.main(["convert", option, str(source), "--output", str(output)]) == 0
        assert capsys.readouterr().out == f"{output}: {state}\n"
    if option == "--whisper":
        one, other = (
            WhisperEncoder.from_pretrained(p).state_dict() for p in (source, output)
        )
        assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to convert"),
        (["--lm", "a", "--whisper", "b"], "name what to convert"),
        (["--release", "a.pth", "--lm", "b"], "name the --whisper"),
        (["--lm", "a", "--merge_lora"], "need --release"),
        (["--lm", "a", "--merge_lora", "true"], "need --release"),
    ],
)
def test_options_that_do_not_fit(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        cli.main(["convert", *arguments, "--output", str(tmp_path / "out")])


def test_a_link_leads_to_where_it_is_written(tiny_whisper, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        (tmp_path / f"to_{name}").symlink_to(name)
        output = str(tmp_path / f"to_{name}")
        cli.main(["convert", "--whisper", str(tiny_whisper), "--output", output])
        assert (tmp_path / name / "convert.json").is_file()


@pytest.mark.parametrize("name", ["../thesis.txt", "/{tmp}/thesis.txt", "a/../../t"])
def test_a_record_has_no_file_removed_elsewhere(tiny_lm, tmp_path, name):
    (tmp_path / "thesis.txt").write_text("mine")
    command = ["convert", "--lm", str(tiny_lm), "--output", str(tmp_path / "out")]
    cli.main(command)
    record = tmp_path / "out/convert.json"
    content = json.loads(record.read_text())
    content["version"] = "0"
    content["outputs"][name.format(tmp=tmp_path)] = {"bytes": 4, "sha256": "0"}
    record.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no earlier conversion"):
        cli.main(command)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_other_directories_are_left_alone(tiny_llada, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no earlier conversion"):
        cli.main(["convert", "--lm", str(tiny_llada), "--output", str(tmp_path)])
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]
