"""Training data that skips unusable utterances.

If a recording is missing, corrupt, empty or too long, the dataset (perhaps in a worker
process) returns the reason in place of the data. The main process counts the reasons
and removes them from the batches before ESPnet sees these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from espnet2.train.dataset import AbsDataset, ESPnetDataset
from torch import Tensor

from espnet_llada.espnet import distributed
from espnet_llada.espnet.bad_utterances import LIMIT, BadUtterances, check
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.kaldi.archive import read_entry
from espnet_llada.io.kaldi.table import read_recordings, read_scp
from espnet_llada.types import SAMPLE_RATE, UserError

WHISPER_SECONDS = 30
Batch = tuple[list[str], dict[str, Any]]

_REASONS = "bad_utterances"  # a batch's key for reasons


class Recordings(Mapping[str, np.ndarray]):
    """``wav.scp``, read as in decoding: 16 kHz mono, corrupt files are errors.

    Args:
        paths: utterance id to audio file.
    """

    def __init__(self, paths: Mapping[str, str]):
        self.paths = paths

    def __getitem__(self, utt_id: str) -> np.ndarray:
        return load_audio(self.paths[utt_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class Archives(Recordings):
    """Entries of Kaldi archives: frames unchanged, waveforms as ``Recordings``.

    Read by kaldiio, which wrote the frames: omniio, the reader of ESPnet 202611, does
    not support its NumPy entries.
    """

    def __getitem__(self, utt_id: str) -> np.ndarray:
        entry = read_entry(self.paths[utt_id])
        return super().__getitem__(utt_id) if isinstance(entry, tuple) else entry


class UsableDataset(AbsDataset):
    """An ``ESPnetDataset`` that returns a reason (str) for unusable utterances.

    Args:
        dataset: its ``sound`` files are read by ``Recordings``, its ``kaldi_ark``
            files by ``Archives``.
        total: utterances of the set; by default those of the dataset.
        max_samples: longest speech; None for any.
        allow_pipes: run commands that tables name in place of files.
    """

    def __init__(
        self,
        dataset: ESPnetDataset,
        total: int | None = None,
        max_samples: int | None = None,
        allow_pipes: bool = False,
    ):
        self.dataset, self.max_samples = dataset, max_samples
        loaders = dataset.loader_dict
        for name, (path, kind) in dataset.debug_info.items():
            if kind == "sound":
                loaders[name] = Recordings(read_recordings(path, allow_pipes))
            elif kind == "kaldi_ark":
                loaders[name] = Archives(read_scp(path, allow_pipes))
        source, first = next(iter(dataset.debug_info.values()))[0], next(iter(loaders))
        self.bad = BadUtterances(source, total or len(loaders[first]))

    def __getitem__(self, utt_id: str) -> tuple[str, dict[str, np.ndarray] | str]:
        if utt_id in self.bad.reasons:  # not read, not reported again
            return utt_id, self.bad.reasons[utt_id]
        try:
            _, data = self.dataset[utt_id]
        except MemoryError:
            raise
        except Exception as e:
            if isinstance(e, UserError):
                return utt_id, str(e)
            return utt_id, f"{self._path(utt_id)}: {type(e).__name__}: {_line(e)}"
        complaint = self._complaint(data["speech"]) if "speech" in data else None
        return utt_id, f"{self._path(utt_id)}: {complaint}" if complaint else data

    def _complaint(self, speech: np.ndarray) -> str | None:
        if not len(speech):
            return "holds no samples"
        if self.max_samples is not None and len(speech) > self.max_samples:
            seconds, most = len(speech) / SAMPLE_RATE, self.max_samples / SAMPLE_RATE
            return f"{seconds:.2f} s long, the encoder takes {most:g} s"
        if not np.isfinite(speech).all():
            return "has NaN or infinite samples"
        return None

    def _path(self, utt_id: str) -> str:
        recordings = self.dataset.loader_dict.get("speech")
        return getattr(recordings, "paths", {}).get(utt_id, self.bad.source)

    def has_name(self, name: str) -> bool:
        """As ``ESPnetDataset.has_name``."""
        return self.dataset.has_name(name)

    def names(self) -> tuple[str, ...]:
        """As ``ESPnetDataset.names``."""
        return self.dataset.names()

    def __repr__(self) -> str:
        return repr(self.dataset)


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:200]


class UsableCollate:
    """Collates usable utterances, and adds the reasons for the others.

    Args:
        collate: ESPnet's collate function.
        max_samples, allow_pipes: for the ``UsableDataset`` that stage 10 builds from
            this object alone.
    """

    def __init__(
        self,
        collate: Callable,
        max_samples: int | None = None,
        allow_pipes: bool = False,
    ):
        self.collate, self.max_samples = collate, max_samples
        self.allow_pipes = allow_pipes

    def __call__(self, items: Iterable[tuple[str, Any]]) -> Batch:
        items = list(items)
        usable = [(u, data) for u, data in items if not isinstance(data, str)]
        ids, batch = self.collate(usable) if usable else ([], {})
        reasons = [(u, data) for u, data in items if isinstance(data, str)]
        return ids, {**batch, _REASONS: reasons} if reasons else batch


class UsableBatches:
    """A loader's batches without unusable utterances; empty batches are dropped.

    Args:
        loader: of ``UsableDataset`` and ``UsableCollate``; others are not changed.
    """

    def __init__(self, loader: Iterable[Batch]):
        self.loader = loader
        known = getattr(getattr(loader, "dataset", None), "bad", None)
        self.bad = BadUtterances("data", 0) if known is None else known

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        yield from (pair for pair in self._sorted_out() if pair[0])
        if self.bad.total:
            logging.info(str(self.bad))

    def _sorted_out(self) -> Iterator[Batch]:
        loader = iter(self.loader)
        while True:
            ids, batch = next(loader, ([], None))
            for utt_id, reason in (batch or {}).pop(_REASONS, ()):
                self.bad.add(utt_id, reason)
            self.check()
            if batch is None:
                return
            yield ids, batch

    def check(self) -> None:
        """Raise if too many utterances are unusable."""
        self.bad.check()


class TrainingBatches(UsableBatches):
    """The batches of an epoch, with a random seed for each row's masks.

    All processes of a distributed training need the same number of steps: a batch
    without usable rows becomes a stand-in with weight 0.

    Args:
        loader: see ``UsableBatches``.
        seed: from step (from 1) and utterance id to the row's seed.
    """

    def __init__(self, loader: Iterable[Batch], seed: Callable[[int, str], int]):
        super().__init__(loader)
        self.seed, self.step = seed, 0
        self.left_out = self.total = 0
        self._reported = len(self.bad.reasons)

    def __iter__(self) -> Iterator[Batch]:
        for ids, batch in self._sorted_out():
            self.step += 1
            rows = ids or ["stand-in"]
            seeds = torch.tensor([self.seed(self.step, utt_id) for utt_id in rows])
            yield rows, {**(batch if ids else _stand_in()), "seeds": seeds}

    def check(self) -> None:
        """Called by all processes together, once for each batch."""
        mine, before = self.bad, self.left_out
        counts = distributed.total(len(mine.reasons), mine.total)
        self.left_out, self.total = map(int, counts)
        if self.left_out > before:
            self._report_all()
        if self.total and self.left_out > LIMIT * self.total:
            reasons = dict(distributed.gather(list(mine.reasons.items())))
            check(mine.source, reasons, self.left_out, self.total)

    def _report_all(self) -> None:
        """The first process logs for all, since ESPnet silences the others."""
        news = list(self.bad.reasons.items())[self._reported :]
        self._reported += len(news)
        for utt_id, reason in distributed.gather(news):
            if utt_id not in self.bad.reasons:
                self.bad.report(utt_id, reason)

    def __str__(self) -> str:
        return f"{self.left_out} of {self.total} utterances left out"


def _stand_in() -> dict[str, Tensor | bool]:
    """A second of silence; ``stand_in`` gives it no weight in the loss."""
    return {
        "speech": torch.zeros(1, SAMPLE_RATE),
        "speech_lengths": torch.tensor([SAMPLE_RATE]),
        "text": torch.zeros(1, 1, dtype=torch.int64),
        "text_lengths": torch.tensor([1]),
        "stand_in": True,
    }
