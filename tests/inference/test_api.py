"""``Speech2Text`` and ``Deliberator``: what they take, and what they return."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import soundfile
import torch

from espnet_llada import Deliberator, Speech2Text, UserError


@pytest.fixture(scope="module")
def speech2text(model_dir) -> Speech2Text:
    return Speech2Text.from_pretrained(model_dir, steps=3, canvas_length=12)


@pytest.fixture(scope="module")
def deliberate(model_dir) -> Deliberator:
    return Deliberator.from_pretrained(model_dir, strategy="random", steps=2)


def texts(results) -> list[str]:
    return [result[0][0] for result in results]


def test_options_of_a_call_hold_for_it_alone(
    speech2text, deliberate, model_dir, speech
):
    assert speech2text(speech[0], threshold=0.0, steps=8)[0][3].passes == 8
    assert speech2text(speech[0])[0][3].passes == 3
    longer = Speech2Text.from_pretrained(model_dir, steps=3, canvas_length=6)
    assert speech2text(speech[1], canvas_length=6)[0][0] == longer(speech[1])[0][0]
    assert deliberate(speech[0], "the dog", mask_ratio=0.0)[0][0] == "the dog"
    with pytest.raises(UserError, match=r"unknown option 'stepz' \(did you mean 'st"):
        speech2text(speech[0], stepz=8)
    with pytest.raises(UserError, match="unknown option 'device'"):
        speech2text(speech[0], device="cpu")
    with pytest.raises(UserError, match="is for Deliberator, not for Speech2Text"):
        speech2text(speech[0], strategy="deliberation_random")


@pytest.mark.parametrize("name", ["steps", "joint", "maxlenratio"])
def test_an_option_is_no_attribute(speech2text, name):
    with pytest.raises(UserError, match=f"{name}: an option, .*give it with the call"):
        setattr(speech2text, name, 8)
    speech2text.of_the_user = 8


def test_speech_comes_in_several_forms(speech2text, speech, tmp_path):
    samples, rate = soundfile.read(speech[2], dtype="float32")
    wanted = speech2text(speech[2])[0][0]
    content = speech[2].read_bytes()
    read = io.BytesIO(content)
    read.read()
    for given in (samples, (samples, rate), io.BytesIO(content), read, [samples][0]):
        assert speech2text(given)[0][0] == wanted
    with open(speech[2], "rb") as f:
        assert speech2text(f)[0][0] == wanted
    with pytest.raises(UserError, match="StringIO given: holds text; open"):
        speech2text(io.StringIO("x"))
    with pytest.raises(UserError, match="BytesIO given: holds no bytes"):
        speech2text(io.BytesIO())
    with pytest.raises(UserError, match="BytesIO given"):
        speech2text(io.BytesIO(b"no audio at all"))


def test_arrays_as_other_readers_return_them(speech2text, tmp_path):
    """torchaudio (1, T); SciPy and kaldiio (rate, integers); soundfile (T, 1)."""
    file = tmp_path / "a.wav"
    samples = np.random.default_rng(3).normal(0, 0.1, 20_000).astype(np.float32)
    soundfile.write(file, samples, 8_000, subtype="PCM_16")
    wanted = speech2text(file)[0][0]
    small, _ = soundfile.read(file, dtype="int16")
    large, _ = soundfile.read(file, dtype="int32")
    floats, _ = soundfile.read(file, always_2d=True)
    assert floats.shape == (20_000, 1)
    for given in (small, large, floats, torch.tensor(floats.T), torch.tensor(small)):
        assert speech2text(given, fs=8_000)[0][0] == wanted
    assert texts(speech2text([(8_000, small), (small, 8_000)])) == [wanted] * 2
    assert speech2text((8_000, small))[0][0] == wanted
    eight = (np.round(small / 256) + 128).astype(np.uint8)
    same = (eight.astype(np.float32) - 128) / 128
    assert speech2text(eight)[0][0] == speech2text(same)[0][0]
    for wrong, why in (
        (small.astype(np.int64), r"int64 samples; give floats in \[-1, 1\], or uint8"),
        (np.zeros((2, 16_000)), r"shape \(2, 16000\); .*several utterances as a list"),
        (np.zeros((1, 0)), "holds no samples"),
    ):
        with pytest.raises(UserError, match=why):
            speech2text(wrong)


def test_espnets_names(speech2text, model_dir, speech):
    files = (model_dir / "llada" / n for n in ("config.yaml", "valid.acc.ave.pth"))
    named = dict(zip(("asr_train_config", "asr_model_file"), files, strict=True))
    options = {"steps": 3, "canvas_length": 12}
    other = Speech2Text.from_pretrained(**named, **options)
    assert other(speech[0])[0][0] == speech2text(speech[0])[0][0]
    assert isinstance(other.asr_model, torch.nn.Module)
    assert not other.asr_model.training


def test_arrays_of_another_rate_are_resampled(speech2text, tmp_path):
    file = tmp_path / "a.wav"
    samples = np.random.default_rng(3).normal(0, 0.1, 20_000).astype(np.float32)
    soundfile.write(file, samples, 8_000, subtype="FLOAT")
    wanted = speech2text(file)[0][0]
    assert speech2text(samples, fs=8_000)[0][0] == wanted
    assert speech2text((torch.tensor(samples), 8_000))[0][0] == wanted
    assert texts(speech2text([(samples, np.int64(8_000)), file])) == [wanted] * 2
    for wrong in (0, 8_000.5, 10):
        with pytest.raises(UserError, match=r"fs: .* does not fit|implausible rate"):
            speech2text(samples, fs=wrong)


def test_batch_decode(speech2text, model_dir, speech):
    alone = [speech2text(file)[0][0] for file in speech]
    for size in (None, 1, 2, 5):
        assert texts(speech2text.batch_decode(speech, batch_size=size)) == alone
    assert speech2text.batch_decode([]) == []
    drawn = {"temperature": 1.0, "canvas_length": 30}
    named = speech2text.batch_decode(iter(speech), None, ["a", "b", "c"], 2, **drawn)
    for i, utt_id in enumerate("abc"):
        assert (
            texts([speech2text(speech[i], utt_id, **drawn)]) == texts(named)[i : i + 1]
        )
    with pytest.raises(UserError, match="1 utt_ids for 3 utterances"):
        speech2text.batch_decode(speech, utt_ids=["a"])
    with pytest.raises(UserError, match="batch_size: 0 does not fit"):
        Speech2Text.from_pretrained(model_dir, batch_size=0)


def test_padded_batches_as_espnets(speech2text, speech):
    each = [soundfile.read(file, dtype="float32")[0] for file in speech]
    lengths = [len(samples) for samples in each]
    padded = np.zeros((3, max(lengths)), np.float32)
    for row, samples in zip(padded, each, strict=True):
        row[: len(samples)] = samples
    alone = [speech2text(samples)[0][0] for samples in each]
    assert texts(speech2text.batch_decode(padded, np.array(lengths))) == alone
    given = torch.tensor(padded), torch.tensor(lengths)
    assert texts(speech2text.batch_decode(*given, batch_size=2)) == alone
    for wrong in (lengths[:2], [0, 1, 1], [1, 1, lengths[2] + 1]):
        with pytest.raises(UserError, match="speech_lengths"):
            speech2text.batch_decode(padded, wrong)
    with pytest.raises(UserError, match=r"speech_lengths 9: give samples \(B, T\)"):
        speech2text.batch_decode(speech, [9, 9, 9])


def test_a_rate_is_no_name(speech2text, speech):
    samples = soundfile.read(speech[0], dtype="float32")[0]
    with pytest.raises(UserError, match="utt_id 8000: not a name; is it a rate"):
        speech2text(samples, 8_000)


def test_read_only_samples_are_taken_without_a_warning(speech2text, speech, recwarn):
    samples = soundfile.read(speech[0], dtype="float32")[0]
    wanted = speech2text(samples)[0][0]
    samples.flags.writeable = False
    assert speech2text(samples)[0][0] == wanted
    assert not [w for w in recwarn if "not writable" in str(w.message)]


def test_it_goes_to_other_processes(model_dir, speech):
    """As multiprocessing hands it over; with hooks."""
    made = Speech2Text.from_pretrained(model_dir, steps=3, word_times=True)
    hooked = Deliberator.from_pretrained(model_dir, confidence={"passes": 1})
    again = pickle.loads(pickle.dumps(made))
    assert again(speech[0]) == made(speech[0])
    given = speech[0], "the dog"
    assert pickle.loads(pickle.dumps(hooked))(*given) == hooked(*given)


def test_a_hypothesis_has_espnets_fields(speech2text, speech):
    *_, ids, hypothesis = speech2text(speech[1])[0]
    assert isinstance(hypothesis.yseq, torch.Tensor)
    assert hypothesis.yseq[1:-1].tolist() == ids
    eos = speech2text.recognizer.model.decoder.special.eos
    assert hypothesis.yseq[0] == hypothesis.yseq[-1] == eos
    assert isinstance(hypothesis.score, float)


def test_a_deliberator_takes_lists(deliberate, speech):
    given = ["the dog", "a fox", "she sang"]
    together = deliberate(speech, given)
    assert texts(together) == [
        deliberate(file, text)[0][0] for file, text in zip(speech, given, strict=True)
    ]
    for wrong in ((speech, given[:2]), (speech, "x"), (speech[0], given), ([], ["x"])):
        with pytest.raises(UserError, match="two lists of as many"):
            deliberate(*wrong)
    assert deliberate([], []) == []


@pytest.mark.parametrize("name", ["random", "low_confidence", "semi_ar"])
def test_a_deliberator_knows_the_shells_strategies(deliberate, speech, name):
    full = deliberate(speech[0], "a dog", strategy=f"deliberation_{name}")
    assert deliberate(speech[0], "a dog", strategy=name)[0][0] == full[0][0]
