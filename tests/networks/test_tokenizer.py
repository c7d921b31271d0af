from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_llada.networks.tokenizer import LMTokenizer, to_case
from espnet_llada.types import UserError


def test_text_survives_in_the_lms_case(tiny_lm):
    tokenizer = LMTokenizer(tiny_lm, "lower")
    ids = tokenizer.encode("  THE QUICK   BROWN FOX ")
    assert tokenizer.decode(ids) == "the quick brown fox"
    assert tokenizer.eos_id not in ids
    assert len(tokenizer.tokens(ids)) == len(ids)
    assert all(t and " " not in t for t in tokenizer.tokens(ids))


def test_special_tokens_are_not_text(tiny_lm):
    tokenizer = LMTokenizer(tiny_lm)
    ids = tokenizer.encode("the dog")
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == "the dog"


def test_an_empty_transcript_has_no_tokens(tiny_lm):
    assert LMTokenizer(tiny_lm).encode("") == []
    assert LMTokenizer(tiny_lm).decode([]) == ""


def test_a_chat_template_must_exist(tiny_lm):
    with pytest.raises(UserError, match="chat_template"):
        LMTokenizer(tiny_lm).prompt("Transcribe the audio:", chat_template=True)


def test_bad_case_and_bad_directory(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="title"):
        to_case("x", "title")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        LMTokenizer(tmp_path)


@pytest.fixture
def plain(tiny_lm, tmp_path) -> Path:
    """A tokenizer.json and the tokenizer_config.json of the shipped LMs."""
    shutil.copy(tiny_lm / "tokenizer.json", tmp_path)
    settings = {"eos_token": "<|end|>", "clean_up_tokenization_spaces": False}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_a_plain_tokenizer_is_read_without_transformers(plain):
    code = "import sys; from pathlib import Path"
    code += "; from espnet_llada.networks import tokenizer"
    code += f"; tokenizer.LMTokenizer(Path({str(plain)!r})).encode('a dog')"
    code += "; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_that_panics_is_refused_in_one_line(plain):
    """Its Rust ends in what is no Exception; here, for an unknown special token."""
    content = json.loads((plain / "tokenizer.json").read_text())
    special = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    (plain / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"\(PanicException: .*fetch it again"):
        LMTokenizer(plain).prompt("a dog", chat_template=False)


def test_it_is_what_transformers_reads(plain):
    ours = LMTokenizer(plain)
    theirs = ours._hf
    assert ours._tokenizer is not theirs and ours.eos_id == theirs.eos_token_id
    assert ours.mask_id is None and theirs.mask_token_id is None
    for text in ("the quick brown fox", "", "it's <|end|> a d\u00e9g", "a  b"):
        for special in (True, False):
            ids = ours._tokenizer.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            decoded = ours._tokenizer.decode(ids, skip_special_tokens=special)
            assert decoded == theirs.decode(ids, skip_special_tokens=special)
        strings = ours._tokenizer.convert_ids_to_tokens(ids)
        assert strings == theirs.convert_ids_to_tokens(ids)


@pytest.mark.parametrize(
    "change",
    [
        {"clean_up_tokenization_spaces": True},
        {"added_tokens_decoder": {}},
        {"eos_token": "the"},
        {"pad_token": {"__type": "AddedToken", "content": "<|end|>"}},
    ],
)
def test_what_is_not_plain_is_left_to_transformers(plain, change):
    file = plain / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    tokenizer = LMTokenizer(plain)
    assert tokenizer._tokenizer is tokenizer._hf
