"""local/make_bpe_lm.py: an LM with a small vocabulary of byte pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipe_helpers import local_script

from espnet_llada import UserError
from espnet_llada.io.weights.assets import MINI
from espnet_llada.networks.backbone import Backbone
from espnet_llada.networks.tokenizer import LMTokenizer

script = local_script("make_bpe_lm")
LINES = ["THE OTHER MOTHER", "SHE GATHERED THE FEATHERS", "IT ISN'T THERE"] * 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("".join(f"u{i} {line}\n" for i, line in enumerate(LINES)))
    return path


def test_the_layers_stay_and_the_tokens_are_new(text, tmp_path, capsys):
    made = tmp_path / "exp/lm"
    script.main(["--text", str(text), "--tokens", "30", "--output", str(made)])
    assert capsys.readouterr().out == f"{made}: 30 tokens\n"
    new, old = (Backbone.from_pretrained(p, "causal") for p in (made, MINI / "lm"))
    assert new.vocab_size == 30
    for name, tensor in new.state_dict().items():
        if "embed" not in name and name != "head":
            assert torch.equal(tensor, old.state_dict()[name]), name

    ours, theirs = (LMTokenizer(p) for p in (made, MINI / "lm"))
    for line in (*LINES, "SHE ISN'T IT"):
        assert ours.decode(ours.encode(line)) == line.lower()
    assert len(ours.encode("THE OTHER")) < len("THE OTHER") / 2
    # A token of both has its embedding, another the mean direction of its parts.
    (one,), (same,) = ours.encode("the"), theirs.encode("the")
    rows, table = new.embedding.weight, old.embedding.weight
    assert torch.equal(rows[one], table[same])
    assert torch.equal(rows[:3], table[:3])
    assert rows.norm(dim=1)[3:].min() > 0.1 * table.norm(dim=1).mean()


def test_another_kind_of_lm_is_refused(text, tmp_path, tiny_lm):
    argv = ["--text", str(text), "--lm", str(tiny_lm), "--output", str(tmp_path / "lm")]
    with pytest.raises(UserError, match="first tokens are not <unk> <s> </s>"):
        script.main(argv)
    assert not (tmp_path / "lm").exists()
