"""Encodes utterances into one shard of a feature cache (``io.feature_cache``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import torch

from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.files import sha256, write_text
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.types import SAMPLE_RATE, UserError, atomic_write


@dataclass(frozen=True)
class Utterance:
    """What is to be encoded.

    Attributes:
        utt_id: of the utterance.
        path: what ``load_audio`` takes.
        samples: its length at 16 kHz, nearly; batches are made by it.
    """

    utt_id: str
    path: str
    samples: int


def write_shard(
    ark: Path,
    utterances: Sequence[Utterance],
    encoder: WhisperEncoder,
    storage: str,
    batch_seconds: float,
) -> None:
    """Encode utterances into ``ark``, and describe it in a ``.json`` next to it.

    Args:
        ark: file to make.
        utterances: best of similar length, since they run together.
        encoder: on the device where it shall run.
        storage: ``float16`` or ``float32``.
        batch_seconds: of audio at once, padding included.

    Raises:
        UserError: a recording cannot be read or does not fit; the disk is full.
    """
    entries: dict[str, list[Any]] = {}
    with atomic_write(ark) as temporary:
        with open(temporary, "wb") as f:
            for utterance, frames in _encoded(utterances, encoder, batch_seconds):
                array = _stored(utterance, frames, storage)
                offset = f.tell() + len(f"{utterance.utt_id} ".encode())
                entries[utterance.utt_id] = [offset, len(array), utterance.path]
                kind = "numpy" if storage == "float16" else None
                kaldiio.save_ark(f, {utterance.utt_id: array}, write_function=kind)
        content = {"sha256": sha256(temporary), "bytes": temporary.stat().st_size}
    content |= {"storage": storage, "entries": entries}
    write_text(ark.with_suffix(".json"), json.dumps(content) + "\n")


def _stored(utterance: Utterance, frames: torch.Tensor, storage: str) -> np.ndarray:
    array = frames.float().cpu().numpy().astype(storage)
    if not np.isfinite(array).all():
        raise UserError(
            f"{utterance.path}: its frames do not fit into {storage}; "
            "use --storage float32"
        )
    return array


def _encoded(
    utterances: Sequence[Utterance], encoder: WhisperEncoder, batch_seconds: float
) -> Iterator[tuple[Utterance, torch.Tensor]]:
    """Each utterance with its own frames (F, d); audio is read one batch ahead."""
    device = encoder.conv1.weight.device
    alike = sorted(utterances, key=lambda u: u.samples)  # so little is padding
    batches = list(_batches(alike, encoder, batch_seconds))
    with ThreadPoolExecutor(4) as readers:
        ahead = [readers.submit(load_audio, u.path) for u in batches[0]]
        for i, batch in enumerate(batches):
            waveforms = [future.result() for future in ahead]
            following = batches[i + 1] if i + 1 < len(batches) else []
            ahead = [readers.submit(load_audio, u.path) for u in following]
            for utterance, waveform in zip(batch, waveforms, strict=True):
                _check_length(utterance, len(waveform), encoder.max_samples)
            lengths = torch.tensor([len(w) for w in waveforms])
            speech = torch.zeros(len(batch), int(lengths.max()))
            for row, waveform in zip(speech, waveforms, strict=True):
                row[: len(waveform)] = torch.from_numpy(waveform)
            frames, counts = encoder(speech.to(device), lengths)
            for utterance, own, count in zip(batch, frames, counts, strict=True):
                yield utterance, own[: int(count)]


def _batches(
    utterances: Sequence[Utterance], encoder: WhisperEncoder, seconds: float
) -> Iterator[list[Utterance]]:
    batch: list[Utterance] = []
    for utterance in utterances:
        longest = max(u.samples for u in (*batch, utterance))
        size = encoder.padded_samples(longest) * (len(batch) + 1)
        if batch and size > seconds * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(utterance)
    yield batch


def _check_length(utterance: Utterance, samples: int, longest: int) -> None:
    if samples > longest:
        raise UserError(
            f"{utterance.path}: '{utterance.utt_id}' is {samples / SAMPLE_RATE:.2f} s "
            f"long, the encoder takes {longest / SAMPLE_RATE:g} s; cut it first, or "
            "leave it out of the wav.scp"
        )
