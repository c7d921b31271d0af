"""--feats_type extracted: trained on cached frames, decoded from recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_llada.recipe import train_stages
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.options import parse_options
from espnet_llada.types import UserError

SETS = ["--train_set", "tr", "--valid_set", "dev", "--test_sets", "te"]


def layout(*options: str) -> Layout:
    return Layout(parse_options([*SETS, *options]))


@pytest.mark.parametrize(
    ("kind", "speech"),
    [("raw", "wav.scp,speech,sound"), ("extracted", "feats.scp,speech,kaldi_ark")],
)
def test_training_reads_frames_and_decoding_recordings(kind, speech):
    chosen = layout("--feats_type", kind)
    command = train_stages._train_command(chosen, {})
    assert f"dump/{kind}/tr/{speech}" in command
    assert f"dump/{kind}/dev/{speech}" in command
    assert [data for data, _ in chosen.decoded_sets()] == [Path("dump/raw/te")]
    assert kind in chosen.stats.name and kind in chosen.exp.name


def test_missing_frames_are_named_with_the_command_that_makes_them(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"espnet-llada features .*dump/extracted/tr"):
        train_stages.collect_stats(layout("--feats_type", "extracted"))


def test_text_alone_is_trained_on():
    chosen = layout("--feats_type", "text")
    command = train_stages._train_command(chosen, {})
    given = [command[i + 1] for i, x in enumerate(command) if "_data_path" in x]
    assert given == ["dump/text/tr/text,text,text", "dump/text/dev/text,text,text"]
