"""ESPnet's usual decode options: taken, ignored with a warning, or refused by name."""

from __future__ import annotations

import json
import logging

import pytest
import yaml

from espnet_llada import Speech2Text
from espnet_llada.bin import asr_inference, cli
from espnet_llada.inference.espnet_options import ESPNET
from espnet_llada.inference.options import job_options
from espnet_llada.io.kaldi.table import read_text
from espnet_llada.types import UserError

# ESPnet's librispeech conf/decode_asr.yaml, without its beam, and what is neutral.
USUAL = """\
beam_size: 1
ctc_weight: 0.3
lm_weight: 0.6
penalty: 0.0
maxlenratio: 0.0
minlenratio: 0.0
nbest: 1
dtype: float32
num_workers: 4
token_type: bpe
bpemodel: null
lm_file: none
streaming: false
transducer_conf: null
quantize_modules: [Linear]
"""


@pytest.fixture
def decode(model_dir, speech, tmp_path):
    """The command, with options behind it; returns the transcripts."""
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{file.stem} {file}\n" for file in speech))

    def run(*more: object) -> str:
        out = tmp_path / "out"
        model = model_dir / "llada"
        words = ["--data_path_and_name_and_type", f"{scp},speech,sound"]
        words += ["--asr_train_config", model / "config.yaml", "--output_dir", out]
        words += ["--asr_model_file", model / "valid.acc.ave.pth", "--steps", 2, *more]
        asr_inference.main([str(word) for word in words])
        return (out / "1best_recog/text").read_text()

    return run


def test_a_usual_yaml_is_taken_with_one_warning(decode, tmp_path, caplog):
    plain = decode()
    config = tmp_path / "decode_asr.yaml"
    config.write_text(USUAL)
    with caplog.at_level(logging.WARNING):
        assert decode("--config", config) == plain
    said = [record.message for record in caplog.records if "effect" in record.message]
    names = "ctc_weight, lm_weight, num_workers, token_type"
    assert said == [f"{names}: without effect on this decoder, ignored"]


def test_a_number_of_tokens_is_the_canvas_length(decode):
    six = decode("--canvas_length", 6)
    assert decode("--maxlenratio", -6) == six
    assert decode("--maxlenratio", -6, "--canvas_length", 6) == six
    with pytest.raises(UserError, match="maxlenratio -6: is canvas_length; give one"):
        decode("--maxlenratio", -6, "--canvas_length", 7)


def test_nbest_writes_espnets_directories(decode, tmp_path):
    plain = decode("--temperature", 1)
    given = "--nbest", 3, "--temperature", 1
    assert decode(*given) == plain  # the best is the same
    out = tmp_path / "out"
    lines = [(out / f"{n}best_recog/text").read_text().splitlines() for n in (1, 2, 3)]
    ids = [[line.partition(" ")[0] for line in of] for of in lines]
    assert ids[0] == sorted(ids[0]) and set(ids[2]) <= set(ids[1]) <= set(ids[0])
    assert ids[1] and not set(lines[0]) & set(lines[1])
    files = "score", "text", "token", "token_int"
    assert sorted(p.name for p in (out / "2best_recog").iterdir()) == sorted(files)
    (out / "2best_recog/text").unlink()
    decode(*given)  # which has nothing left to decode
    assert (out / "2best_recog/text").read_text().splitlines() == lines[1]


def test_word_times_write_the_words_of_each_utterance(decode, tmp_path):
    decode("--word_times", "true")
    recog = tmp_path / "out/1best_recog"
    words, texts = (read_text(recog / name) for name in ("words", "text"))
    assert words.keys() == texts.keys()
    for utt, line in words.items():
        assert [text for text, *_ in json.loads(line)] == texts[utt].split()


def test_nbest_of_a_beam_is_the_beams(model_dir, speech):
    llama = Speech2Text.from_pretrained(model_dir, "llama", beam_size=4, nbest=3)
    found, best = llama(speech[0]), llama(speech[0], nbest=1)
    assert 1 < len(found) <= 3 and len(best) == 1 and found[0][0] == best[0][0]
    assert len({row[0] for row in found}) == len(found)
    means = [h.score / (len(h.token_ids) + 1) for *_, h in found]
    assert means == sorted(means, reverse=True) or len({*means}) < len(means)
    with pytest.raises(UserError, match=r"nbest: the release \(profile: release\)"):
        Speech2Text.from_pretrained(model_dir, profile="release", nbest=2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("maxlenratio", 0.3, "maxlenratio 0.3: .*canvas_size.tokens_per_second"),
        ("minlenratio", 0.1, "minlenratio 0.1: the LM itself"),
        ("dtype", "float16", "dtype float16: it is that of the training"),
        ("quantize_lm", "true", "quantize_lm True: no second LM"),
        ("streaming", "true", "streaming True: an utterance"),
    ],
)
def test_what_would_matter_is_refused_with_the_reason(decode, option, value, message):
    with pytest.raises(UserError, match=message) as e:
        decode(f"--{option}", value)
    assert "did you mean" not in str(e.value) and "\n" not in str(e.value)


def test_some_matter_with_a_ctc_or_a_beam_only(model_dir, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"decoder_conf": {"ctc": {"weight": 0.3}}}))
    with pytest.raises(UserError, match=r"ctc_weight 0\.3: .*mask_ctc"):
        job_options(config, "decode", {"ctc_weight": 0.3})
    llama = model_dir / "llama/config.yaml"
    given = {"penalty": 0.5, "normalize_length": True}
    assert job_options(llama, "decode", given) == job_options(llama, "decode", {})
    for name, value in given.items():
        with pytest.raises(UserError, match=f"{name} {value}: the beam search"):
            job_options(llama, "decode", {name: value, "beam_size": 2})


@pytest.mark.parametrize("name", ESPNET)
def test_other_ways_in_take_them_too(model_dir, name):
    if ESPNET[name].asks_nothing:
        value = ESPNET[name].asks_nothing[0]
        assert Speech2Text.from_pretrained(model_dir, **{name: value})
    with pytest.raises(UserError) as e:
        cli.main(["score", f"--{name}", "x"])  # no hint names an unrelated option
    assert "did you mean" not in str(e.value)
