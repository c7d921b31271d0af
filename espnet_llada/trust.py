"""What a model from elsewhere may do here: hold tensors and plain values, no code.

A pickle runs code while it is read, and some of ESPnet's parts read pickles, or fetch
models with code of their own, while they are built. So a config may name the parts
below only, and whatever reads a file through ``torch.load`` gets tensors and plain
values, or nothing. Whoever trusts the maker of a model can lift both
(``trust_model``); a file cannot.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
from msgspec import Meta

from espnet_llada.build import ATTENTION, ENCODER, POSTENCODERS
from espnet_llada.io.schema import checked
from espnet_llada.io.weights.tensors import check_crc, why_unreadable
from espnet_llada.types import UserError

PLAIN_PARTS = {
    "frontend": {"default", "sliding_window", "wav2vec_cnn"},
    "specaug": {"specaug"},
    "normalize": {"global_mvn", "utterance_mvn"},  # NumPy reads the former's file
    "preencoder": {"linear", "sinc"},
    "encoder": {
        ENCODER,
        *("conformer", "transformer", "branchformer", "e_branchformer"),
        *("contextual_block_conformer", "contextual_block_transformer"),
        *("multiconv_conformer", "rnn", "vgg_rnn"),
    },
    "postencoder": {*POSTENCODERS, "length_adaptor"},
    "decoder": set(ATTENTION),
}
"""Of ESPnet's choices those that read no file by unpickling and fetch nothing, and
ours, which read safetensors and tensors only."""

_NUMBERS = ("bool", "int32", "int64", "float16", "float32", "float64")
_PLAIN_TYPES = [
    datetime.timedelta,
    np.dtype,
    *(type(np.dtype(name)) for name in _NUMBERS),
    # NumPy 1 and 2 call it by different names.
    (np.float64().__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64().__reduce__()[0], "numpy._core.multiarray.scalar"),
]
"""What a checkpoint.pth of ESPnet's holds besides tensors: how long an epoch took, and
its figures."""

ALLOW_UNSAFE = "ESPNET_ALLOW_UNSAFE_TORCH_LOAD"
"""ESPnet 202611's variable that lets it unpickle; ours for its commands, too."""

_ONE_AT_A_TIME = threading.RLock()


_SIZE = Annotated[int, Meta(le=1 << 17)]
_REPEATS = Annotated[int, Meta(le=1 << 10)]
_REPEATED = re.compile("(blocks|layers?|heads)$")


def check_parts(config: Mapping[str, Any], source: object) -> None:
    """Refuse a config with a part that could run code while it is built, or no end.

    Args:
        config: a train config.
        source: where it comes from, for the message.

    Raises:
        UserError: names the part and how to allow it; or a size that no part has.
    """
    for section, plain in PLAIN_PARTS.items():
        name = config.get(section)
        if name is not None and not (isinstance(name, str) and name in plain):
            raise UserError(
                f"{source}: {section} '{name}' may read or fetch files that run code; "
                "if you trust the model's maker, allow it with trust_model "
                "(--trust_model true on the command line)"
            )
        conf = config.get(f"{section}_conf")
        for key, value in conf.items() if isinstance(conf, Mapping) else ():
            if (
                type(value) is int
            ):  # no switch; modules are made before a file can contradict
                kind = _REPEATS if _REPEATED.search(key) else _SIZE
                checked(value, kind, f"{source}: {section}_conf: {key}")


@contextlib.contextmanager
def tensors_only(trusted: bool = False) -> Iterator[None]:
    """Have ``torch.load`` read tensors and plain values only, whoever calls it.

    Args:
        trusted: have it read whatever its caller asks for.

    Raises:
        UserError: from ``torch.load``, where a file is damaged or holds anything else.
    """
    if trusted:
        with mock.patch.dict(os.environ, {ALLOW_UNSAFE: "1"}):
            yield
        return
    with _ONE_AT_A_TIME:  # else the wrapper of one thread may outlive another's
        load = torch.load

        def load_tensors(file, map_location=None, *_, mmap=None, **__):
            is_path = isinstance(file, (str, os.PathLike))
            try:
                if is_path:
                    check_crc(file)
                with torch.serialization.safe_globals(_PLAIN_TYPES):
                    return load(file, map_location, weights_only=True, mmap=mmap)
            except Exception as e:  # of damaged files any
                name = file if is_path else getattr(file, "name", "a file")
                raise UserError(
                    f"{name}: not read ({why_unreadable(e)}); "
                    "copy it again or, if you trust its maker, allow it with "
                    "trust_model (--trust_model true on the command line; "
                    f"{ALLOW_UNSAFE}=1 for ESPnet's own commands)"
                ) from e

        with mock.patch.object(torch, "load", load_tensors):
            yield
