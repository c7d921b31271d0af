"""Replaces ESPnet's readers of tables and archives while a task runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from espnet2.fileio import read_text
from espnet2.train import dataset, iterable_dataset

from espnet_llada.io.kaldi.archive import read_entry
from espnet_llada.io.kaldi.table import (
    checked_place,
    read_numbers,
    read_scp,
    read_table,
    refuse_segments,
)


class Entries(Mapping[str, Any]):
    """Entries of archives by utterance, as from ``kaldiio.load_scp``.

    Args:
        scp: the table.
        allow_pipes: run commands that it names in place of files.
    """

    def __init__(self, scp: str, allow_pipes: bool):
        self.places = read_scp(scp, allow_pipes)
        if Path(scp).name == "wav.scp":  # of feats.scp the segments are cut already
            refuse_segments(Path(scp))

    def __getitem__(self, utt_id: str) -> np.ndarray | tuple[int, np.ndarray]:
        return read_entry(self.places[utt_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@contextlib.contextmanager
def our_readers(allow_pipes: bool = False) -> Iterator[None]:
    """Make every dataset and sampler of ESPnet use our readers.

    ESPnet's readers run commands and unpickle objects that a ``kaldi_ark`` table names,
    take a byte order mark as a part of an id, and fail with a traceback.

    Args:
        allow_pipes: run commands that tables name in place of files.
    """
    ours = {"read_2columns_text": _columns, "load_num_sequence_text": _numbers}
    modules = [m for name, m in sys.modules.items() if name.startswith("espnet2.")]
    kinds = dataset.DATA_TYPES
    changed = {
        "kaldi_ark": {**kinds["kaldi_ark"], "func": _entries(allow_pipes)},
        "text": {**kinds["text"], "func": _columns},
    }
    streamed = {"kaldi_ark": _streamed(allow_pipes)}
    with contextlib.ExitStack() as stack:
        for name, function in ours.items():
            stock = getattr(read_text, name)
            for module in modules:
                if vars(module).get(name) is stock:
                    stack.enter_context(mock.patch.object(module, name, function))
        stack.enter_context(mock.patch.dict(kinds, changed))
        stack.enter_context(mock.patch.dict(iterable_dataset.DATA_TYPES, streamed))
        yield


def _columns(
    path: str | Path, keys_to_load: Collection[str | int] | None = None
) -> dict[str, str]:
    table = read_table(path)
    if keys_to_load is None:
        return table
    return {key: value for key, value in table.items() if key in keys_to_load}


def _numbers(path: str | Path, loader_type: str = "csv_int") -> dict[str, list]:
    separator, _, kind = loader_type.partition("_")
    types = {"int": int, "float": float}
    return read_numbers(path, types[kind], "," if separator == "csv" else None)


def _entries(allow_pipes: bool) -> Callable[..., Mapping[str, np.ndarray]]:
    def load(path: str, allow_multi_rates: bool = False, **_: Any):
        entries = Entries(path, allow_pipes)
        adapt = dataset.AdapterForSoundScpReader
        return adapt(entries, allow_multi_rates=allow_multi_rates)

    return load


def _streamed(allow_pipes: bool) -> Callable[[str], np.ndarray]:
    def load(place: str) -> np.ndarray:
        entry = read_entry(checked_place("kaldi_ark", place, allow_pipes))
        return entry[1] if isinstance(entry, tuple) else entry

    return load
