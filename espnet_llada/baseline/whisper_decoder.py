"""Whisper's own decoder, behind the same call as ``Transcriber``: what it is all about.

Greedy, English, without timestamps, in batches: of an openai-whisper ``.pt`` by that
package, of a Hugging Face directory by transformers. Both hear the same and write the
same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct

from espnet_llada.io.files import read_json
from espnet_llada.io.waveform import split_long
from espnet_llada.networks.device import check_device
from espnet_llada.networks.features import HOP_LENGTH, log_mel
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.types import SAMPLE_RATE, Hypothesis, UserError

_MEND = "pip install --no-deps openai-whisper==20250625 tiktoken more-itertools numba"
_WINDOW = 30 * SAMPLE_RATE  # what Whisper hears at once
_PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def plain_capitals(text: str) -> str:
    """Text as LibriSpeech writes it: capitals, no punctuation.

    What belongs to a number ($, %, a decimal point) stays: it is read aloud, and
    Whisper's normaliser knows it.
    """
    text = text.upper().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = re.sub(r"(?<!\d)[.,]|[.,](?!\d)", " ", text)
    return " ".join(re.sub(r"[^\w\s'.,$\u00a3\u20ac%]|_", " ", text).split())


class WhisperDecoder:
    """Whisper with its own decoder.

    Args:
        path: an openai-whisper ``.pt``, or a Hugging Face directory.
        device: "cpu", "cuda", ...

    Raises:
        UserError: openai-whisper is not installed, or the weights do not fit.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        check_device(device)
        if not open_whisper(path, "decoder").tensors:  # refuses what holds code
            raise UserError(
                f"{path}: it has no decoder; name a whole Whisper, or take the row "
                "'system: whisper' out"
            )
        self._model = (_HuggingFace if path.is_dir() else _OpenAI)(path, device)

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Transcribe a batch; see ``Transcriber``. ``score`` and tokens stay empty."""
        pieces = [split_long(w) for w in waveforms]
        flat = iter(self._model.decode([p for parts in pieces for p in parts]))
        return [_joined([next(flat) for _ in parts]) for parts in pieces]


class _OpenAI:
    def __init__(self, path: Path, device: str):
        try:
            import whisper
        except ImportError as e:
            raise UserError(
                f"{path}: Whisper's own decoder needs {e.name}: {_MEND}; or name a "
                "Hugging Face directory of it"
            ) from e
        self._whisper = whisper
        self._model = whisper.load_model(str(path), device=device)

    def decode(self, waveforms: list[np.ndarray]) -> list[tuple[str, int]]:
        """Text and decoder passes of each."""
        whisper, model = self._whisper, self._model
        mels = [
            whisper.log_mel_spectrogram(whisper.pad_or_trim(w), model.dims.n_mels)
            for w in waveforms
        ]
        options = whisper.DecodingOptions(
            language="en",
            temperature=0.0,
            without_timestamps=True,
            fp16=model.device.type == "cuda",
        )
        results = whisper.decode(model, torch.stack(mels).to(model.device), options)
        return [(r.text, len(r.tokens) + 1) for r in results]  # and the end


class _Generation(Struct):
    """Of generation_config.json; tokens that are never said, or not at first."""

    is_multilingual: bool = False
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None


class _HuggingFace:
    def __init__(self, path: Path, device: str):
        from espnet_llada.import_guards import import_torchaudio

        import_torchaudio()  # transformers imports it
        from tokenizers import Tokenizer
        from transformers import WhisperForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        for name in ("tokenizer.json", "generation_config.json"):
            if not (path / name).is_file():
                raise UserError(
                    f"{path}: no {name} in it, which Whisper's own decoder needs; copy "
                    "the whole repository, or name an openai-whisper .pt"
                )
        settings = read_json(path / "generation_config.json", _Generation)
        try:
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            self._model = WhisperForConditionalGeneration.from_pretrained(
                path,
                dtype=torch.float16 if device.startswith("cuda") else torch.float32,
                use_safetensors=True,
                local_files_only=True,
            )
        except Exception as e:  # of Rust's, and of each kind of file
            reason = " ".join(str(e).split())[:160]
            raise UserError(
                f"{path}: no complete Whisper ({reason}); copy it again"
            ) from e
        self._model.eval().to(device)
        self._prompt, self._end = self._special(settings.is_multilingual)
        size, never = self._model.config.vocab_size, settings.suppress_tokens or []
        self._never = _bias(never, size, device)
        # As OpenAI's: neither a blank nor the end as the first token.
        first = (settings.begin_suppress_tokens or []) + never
        self._not_first = _bias(first, size, device)

    def _special(self, multilingual: bool) -> tuple[list[int], int]:
        """Ids of the prompt and of the end."""
        known = self._tokenizer.token_to_id
        end = known("<|endoftext|>")
        names = _PROMPT if multilingual else (_PROMPT[0], _PROMPT[-1])
        ids = [known(name) for name in names]
        if end is None or None in ids:
            raise UserError(
                f"{self._model.name_or_path}: tokenizer.json lacks "
                f"{' or '.join((*names, '<|endoftext|>'))}; copy Whisper's own"
            )
        return ids, end

    def decode(self, waveforms: list[np.ndarray]) -> list[tuple[str, int]]:
        """Text and decoder passes of each."""
        tokens = self._greedy(self._encode(waveforms))
        texts = self._tokenizer.decode_batch(tokens, skip_special_tokens=True)
        return [(t, len(ids) + 1) for t, ids in zip(texts, tokens, strict=True)]

    def _encode(self, waveforms: list[np.ndarray]) -> Any:
        config, device = self._model.config, self._model.device
        padded = np.zeros((len(waveforms), _WINDOW), np.float32)
        for row, samples in zip(padded, waveforms, strict=True):
            row[: min(len(samples), _WINDOW)] = samples[:_WINDOW]
        mel = log_mel(torch.from_numpy(padded).to(device), config.num_mel_bins)
        assert mel.shape[-1] == _WINDOW // HOP_LENGTH
        return self._model.get_encoder()(mel.to(self._model.dtype))

    def _greedy(self, encoded: Any) -> list[list[int]]:
        """Tokens of each row up to its end, at most half of what the decoder holds."""
        rows = len(encoded.last_hidden_state)
        device, longest = self._model.device, self._model.config.max_target_positions
        given = torch.tensor([self._prompt] * rows, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        said, cache = [], None
        for step in range(min(longest // 2, longest - len(self._prompt))):
            out = self._model(
                encoder_outputs=encoded,
                decoder_input_ids=given,
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            logits = out.logits[:, -1].float()
            logits = logits + (self._never if step else self._not_first)
            best = logits.argmax(-1).masked_fill(ended, self._end)
            said.append(best)
            ended |= best == self._end
            if ended.all():
                break
            given = best[:, None]
        rows = torch.stack(said, 1).tolist()
        return [row[: [*row, self._end].index(self._end)] for row in rows]


def _bias(ids: list[int], size: int, device: str) -> torch.Tensor:
    """Added to logits of shape (B, size): minus infinity for some tokens."""
    bias = torch.zeros(size)
    bias[[i for i in ids if 0 <= i < size]] = -torch.inf
    return bias.to(device)


def _joined(parts: list[tuple[str, int]]) -> Hypothesis:
    text = plain_capitals(" ".join(text for text, _ in parts))
    return Hypothesis(text, passes=sum(passes for _, passes in parts))
