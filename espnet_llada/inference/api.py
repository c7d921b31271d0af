"""``Speech2Text`` and ``Deliberator``, with ESPnet2's signature and result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.inference.options import GROUPS, OPTIONS, job_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.schema import Count, checked
from espnet_llada.io.waveform import as_floats, check_samples
from espnet_llada.types import SAMPLE_RATE, Hypothesis, LoadOptions, UserError

Result = list[tuple[str, list[str], list[int], Hypothesis]]
"""ESPnet's ``Speech2Text`` result: text, tokens, token ids, hypothesis; best first."""


Samples = np.ndarray | torch.Tensor
Speech = Samples | tuple[Samples, int] | tuple[int, Samples] | str | Path | BinaryIO
"""Floats in [-1, 1], or integers as in WAV files, (T,), (1, T) or (T, 1), at 16 kHz or
with their rate (Hz), as soundfile, torchaudio, SciPy and kaldiio return them; or an
audio file by its path, open, or in a ``BytesIO``."""


class InferenceAPI:
    """A loaded model that is called with one utterance, or with a list.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: checkpoint of its trained tensors.
        device, lm, whisper, quantize_asr_model, trust_model: see ``LoadOptions``.
        use_audio, output_case: see ``Transcriber``.
        batch_size: of ``batch_decode``.
        **options: see ``inference.options.make_options``; defaults are those of the
            decode.yaml next to ``asr_train_config``, if there is one. ESPnet's own as
            far as ``inference.espnet_options`` takes them.

    Raises:
        UserError: a file or an option does not fit.
    """

    task = "decode"
    _attributes = ("batch_size", "recognizer", "_config", "_options")

    def __init__(
        self,
        asr_train_config: str | Path,
        asr_model_file: str | Path,
        device: str = "cpu",
        use_audio: bool = True,
        output_case: str = "auto",
        lm: str | Path | None = None,
        whisper: str | Path | None = None,
        quantize_asr_model: bool = False,
        trust_model: bool = False,
        batch_size: int = 1,
        **options: Any,
    ):
        self.batch_size = checked(batch_size, Count, "batch_size")
        self._config, self._options = asr_train_config, options
        decoding = self._decoding(options, use_audio)
        loading = LoadOptions(device, lm, whisper, quantize_asr_model, trust_model)
        files = asr_train_config, asr_model_file
        model = load_model(*files, loading)
        self.recognizer = Transcriber(model, decoding, use_audio, output_case)

    @classmethod
    def from_pretrained(
        cls, model_tag: str | Path | None = None, system: str = "llada", **options: Any
    ):
        """Load a directory, a packed zip, a tag or a hub id; see ``find_model``.

        Without one, as in ESPnet, by ``asr_train_config`` and ``asr_model_file``.
        """
        files = find_model(model_tag, system) if model_tag is not None else ()
        return cls(*files, **options)

    @property
    def asr_model(self) -> nn.Module:
        """The model, by ESPnet's name."""
        return self.recognizer.model

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse an option as attribute, which would have no effect."""
        if name not in self._attributes and _is_option(name):
            kind = type(self).__name__
            raise UserError(
                f"{name}: an option, no attribute of {kind}; give it with the call, as "
                f"{name}={value!r:.40}"
            )
        super().__setattr__(name, value)

    def _decoding(self, options: dict[str, Any], use_audio: bool):
        decoding = job_options(self._config, self.task, options, use_audio)
        if decoding.deliberates != (self.task == "deliberate"):
            needed = "Deliberator" if decoding.deliberates else "Speech2Text"
            raise UserError(
                f"strategy {decoding.strategy}: is for {needed}, not for "
                f"{type(self).__name__}"
            )
        return decoding

    def _transcriber(self, options: dict[str, Any]) -> Transcriber:
        """For one call: with its options over those of the constructor."""
        own = self.recognizer
        if not options:
            return own
        decoding = self._decoding({**self._options, **options}, own.use_audio)
        other = Transcriber(own.model, decoding, own.use_audio, own.output_case)
        other.on_pass = own.on_pass
        return other

    def _run(
        self,
        batch: Sequence[Speech],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None,
        fs: int,
        options: dict[str, Any],
        size: int | None = None,
    ) -> list[Result]:
        """Each utterance as if decoded alone; ``size`` at once, by default all."""
        transcriber = self._transcriber(options)
        if len(utt_ids) != len(batch):
            raise UserError(f"{len(utt_ids)} utt_ids for {len(batch)} utterances")
        if wrong := [name for name in utt_ids if not isinstance(name, str)]:
            raise UserError(f"utt_id {wrong[0]!r}: not a name; is it a rate? write fs=")
        results = []
        for i in range(0, len(batch), size or max(len(batch), 1)):
            part = slice(i, i + (size or len(batch)))
            ids = utt_ids[part]
            pairs = zip(batch[part], ids, strict=True)
            waveforms = [_waveform(speech, utt_id, fs) for speech, utt_id in pairs]
            given = transcripts[part] if transcripts is not None else None
            for best in transcriber(waveforms, ids, given):
                every = best, *best.alternatives
                rows = [(h.text, list(h.tokens), list(h.token_ids), h) for h in every]
                results.append(rows)
        return results


class Speech2Text(InferenceAPI):
    """Transcribes speech, as ``espnet2.bin.asr_inference.Speech2Text``.

        speech2text = Speech2Text("exp/asr_x/config.yaml", "exp/asr_x/1epoch.pth")
        text, tokens, token_int, hypothesis = speech2text(speech)[0]

    The options are those of ``inference.options``; a model trained with ``decoder:
    llama`` decodes greedily. ESPnet itself is imported only if the model's encoder is
    one of ESPnet's.
    """

    def __call__(
        self,
        speech: Speech | Sequence[Speech],
        utt_id: str = "utt",
        fs: int = SAMPLE_RATE,
        **options: Any,
    ) -> Result | list[Result]:
        """Transcribe one utterance, or a list of them as one batch.

        Args:
            speech: see ``Speech``; or a list of those, as in ESPnet 202611's
                ``Speech2Text`` and with ESPnet3's ``batch_size``.
            utt_id: seeds random draws, together with ``seed``.
            fs: rate of arrays and tensors (Hz); other than 16,000 is resampled.
            **options: of decoding, for this call (``steps=8``).

        Returns:
            [(text, tokens, token ids, hypothesis)], with ``nbest`` so many at most;
            for a list, a list of those, each as if its utterance had been decoded
            alone.

        Raises:
            UserError: the speech or an option does not fit.
        """
        many = _is_batch(speech)
        batch = speech if many else [speech]
        found = self._run(batch, [utt_id] * len(batch), None, fs, options)
        return found if many else found[0]

    def batch_decode(
        self,
        speech: Iterable[Speech],
        speech_lengths: Iterable[int] | None = None,
        utt_ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        fs: int = SAMPLE_RATE,
        **options: Any,
    ) -> list[Result]:
        """Transcribe many utterances, ``batch_size`` at once; see ``__call__``.

        Args:
            speech: the utterances; or padded ones (B, T), as ESPnet's.
            speech_lengths: samples of each of those, (B,).
            utt_ids: seed random draws; by default all are called ``utt``.
        """
        size = checked(batch_size or self.batch_size, Count, "batch_size")
        batch = list(speech)
        if speech_lengths is not None:
            batch = _unpadded(batch, [int(n) for n in speech_lengths])
        ids = ["utt"] * len(batch) if utt_ids is None else list(utt_ids)
        return self._run(batch, ids, None, fs, options, size)


class Deliberator(InferenceAPI):
    """Masks parts of a transcript and fills them in again, given the audio.

    deliberate = Deliberator.from_pretrained("mini", mask_ratio=0.3)
    text, *_ = deliberate(speech, "the quick brown fax")[0]
    """

    task = "deliberate"

    def __call__(
        self,
        speech: Speech | Sequence[Speech],
        transcript: str | Sequence[str],
        utt_id: str = "utt",
        fs: int = SAMPLE_RATE,
        **options: Any,
    ) -> Result | list[Result]:
        """Deliberate over one utterance, or a list of them as one batch.

        Args:
            speech: see ``Speech``; or a list of those.
            transcript: another recogniser's, for a list one of each; of an empty one
                only the ``tail`` positions are filled.
            utt_id: seeds the random masks, together with ``seed``.
            fs, **options: see ``Speech2Text``.

        Returns:
            As ``Speech2Text``.

        Raises:
            UserError: speech, transcript or an option does not fit.
        """
        many = _is_batch(speech)
        batch, texts = (speech, transcript) if many else ([speech], [transcript])
        listed = isinstance(texts, (list, tuple)) and len(texts) == len(batch)
        if not listed or not all(isinstance(text, str) for text in texts):
            raise UserError(
                "Deliberator takes one utterance and its transcript, a string; or two "
                "lists of as many"
            )
        found = self._run(batch, [utt_id] * len(batch), texts, fs, options)
        return found if many else found[0]


def _is_option(name: str) -> bool:
    from espnet_llada.inference.espnet_options import ESPNET

    return any(name in names for names in (OPTIONS, GROUPS, ESPNET))


def _unpadded(padded: Sequence[Samples], lengths: Sequence[int]) -> list[Samples]:
    """The rows (T,) of padded ones (B, T), given their lengths (B,)."""
    if len(lengths) != len(padded):
        raise UserError(f"{len(lengths)} speech_lengths for {len(padded)} utterances")
    pairs = list(zip(padded, lengths, strict=True))
    for row, length in pairs:
        if not hasattr(row, "ndim") or not 0 < length <= len(row):
            raise UserError(
                f"speech_lengths {length}: give samples (B, T) and lengths of 1 to T"
            )
    return [row[:length] for row, length in pairs]


def _is_batch(speech: Any) -> bool:
    """Whether it is a list of utterances, not one of them with its rate."""
    return isinstance(speech, (list, tuple)) and _with_rate(speech) is None


def _with_rate(speech: Any) -> tuple[Samples, int] | None:
    if isinstance(speech, tuple) and len(speech) == 2:
        for samples, rate in (speech, speech[::-1]):
            if isinstance(rate, Integral):
                return samples, int(rate)
    return None


def _waveform(speech: Speech, utt_id: str, fs: int) -> np.ndarray:
    """Samples (T,), float32 at 16 kHz; ``fs``: of those without a rate (Hz)."""
    if isinstance(speech, (str, Path)) or hasattr(speech, "read"):
        from espnet_llada.io.audio.reading import load_audio

        return load_audio(speech)
    name = f"speech of utterance {utt_id}"
    speech, fs = _with_rate(speech) or (speech, fs)
    if isinstance(speech, torch.Tensor):
        floats = speech.float() if speech.is_floating_point() else speech
        speech = floats.detach().cpu().numpy()
    if not isinstance(speech, np.ndarray):
        raise UserError(
            f"{name}: a {type(speech).__name__}; give an array, a tensor or a file"
        )
    speech = as_floats(name, speech)
    if speech.ndim == 2 and 1 in speech.shape:  # one channel, as torchaudio.load has it
        speech = speech.reshape(-1)
    if speech.ndim != 1:
        raise UserError(
            f"{name}: shape {speech.shape}; give mono samples (T,), e.g. the mean over "
            "the channels, and several utterances as a list"
        )
    if not len(speech):
        raise UserError(f"{name}: holds no samples")
    check_samples(name, speech)
    if fs == SAMPLE_RATE:
        return np.require(speech, np.float32, "W")  # torch warns of what is read-only
    from espnet_llada.io.audio.reading import resampled

    rate = int(fs) if isinstance(fs, Integral) else fs  # NumPy's
    return resampled(name, speech, checked(rate, Count, f"{name}: fs"))
