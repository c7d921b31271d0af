"""Time, work and memory of a model's stages, taken from outside while it decodes."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

STAGES = ("encoder", "adapter", "reading", "LLM", "head")
"""Whisper's encoder; the Q-Former; the ``text_qformer``, where there is one; the LLM's
layers, all passes; its output head."""


class Meter:
    """Within ``with``, adds up what a model's stages do.

    Args:
        model: a ``WhisperLLM``, or ESPnet's model with our decoder.
        count_flops: count the FLOPs of matrix products too, which takes time.
        more: what else belongs to a stage: its name, an object and its method's name.

    Attributes:
        seconds: {stage: seconds}.
        flops: {stage: FLOPs}, 0 where they are not counted.
        calls: {stage: number of calls}.
    """

    def __init__(
        self,
        model: nn.Module,
        count_flops: bool = False,
        more: Sequence[tuple[str, Any, str]] = (),
    ):
        self._model, self._count, self._more = model, count_flops, more
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.flops = dict.fromkeys(STAGES, 0)
        self.calls = dict.fromkeys(STAGES, 0)
        self._restore = ExitStack()

    def __enter__(self) -> Meter:
        decoder = self._model.decoder
        own = [
            ("encoder", self._model.encoder, "forward"),
            ("adapter", self._model.postencoder, "forward"),
            ("LLM", decoder.lm, "forward"),
            ("head", decoder.lm, "logits"),
        ]
        if (reader := decoder.text_qformer) is not None:
            own += [("reading", reader, "projected"), ("reading", reader, "along")]
        for stage, owner, name in [*own, *self._more]:
            self._wrap(stage, owner, name)
        return self

    def __exit__(self, *error: Any) -> None:
        self._restore.close()

    def _wrap(self, stage: str, owner: Any, name: str) -> None:
        setattr(owner, name, self._measured(stage, getattr(owner, name)))
        self._restore.callback(delattr, owner, name)  # the class's own is back

    def _measured(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            from torch.utils.flop_counter import FlopCounterMode

            synchronize()
            start = time.perf_counter()
            if self._count:
                with FlopCounterMode(display=False) as counter:
                    result = function(*args, **kwargs)
                self.flops[stage] += counter.get_total_flops()
            else:
                result = function(*args, **kwargs)
            synchronize()
            self.seconds[stage] += time.perf_counter() - start
            self.calls[stage] += 1
            return result

        return measured


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """{stage: bytes of the weights that one call reads}."""
    decoder = model.decoder
    reader = decoder.text_qformer or nn.Module()
    parts = (model.encoder, model.postencoder, reader, decoder.lm.body.layers)
    sizes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in parts]
    head = decoder.lm.head
    return dict(zip(STAGES, [*sizes, head.numel() * head.element_size()], strict=True))


def synchronize() -> None:
    """Wait for the GPU, where one is in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class PeakMemory:
    """Within ``with``, the most memory in use above what was in use at its start.

    Attributes:
        mebibytes: of the GPU, or else of the process (0 where the system has no peak
            that can be reset: other than Linux).
    """

    def __enter__(self) -> PeakMemory:
        self.mebibytes = 0.0
        self._on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            _return_free_memory()
            _reset_peak()
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._on_gpu:
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = _status("VmHWM")
        self.mebibytes = max(0.0, peak - self._before)


def _return_free_memory() -> None:
    """What earlier runs have left with malloc would hide what this one takes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> float:
    """MiB of /proc/self/status; the process's peak so far where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith(name)) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(device: str, dtype: str = "float32") -> dict[str, Any]:
    """What measured, and what it can do at best: for the roofline.

    Returns:
        ``processor``, ``threads``, ``versions``; ``gflops`` of a large matrix product
        in ``dtype`` and ``gigabytes_per_second`` of a large copy, both measured here.
    """
    import platform
    from importlib.metadata import version

    from espnet_llada import __version__
    from espnet_llada.bin.sweep import processor

    big = torch.zeros(2**26, device=device)  # 256 MiB
    target = torch.ones_like(big)  # its pages are there, a clone's are not yet
    copy = _best(lambda: target.copy_(big))
    return {
        "processor": processor(device),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "gflops": _gflops(device, getattr(torch, dtype)),
        "gigabytes_per_second": 2 * big.numel() * 4 / copy / 1e9,
        "versions": {
            "espnet_llada": __version__,
            "torch": torch.__version__,
            "tokenizers": version("tokenizers"),
            "python": platform.python_version(),
        },
    }


def _gflops(device: str, dtype: torch.dtype) -> float:
    """Of a product as large as is quickly done: in bf16 some CPUs are very slow."""
    n, largest = 256, 2048 if device == "cpu" else 8192
    while True:
        a = torch.randn(n, n, device=device, dtype=dtype)
        seconds = _best(lambda a=a: a @ a)
        if n == largest or seconds > 0.02:
            return 2 * n**3 / seconds / 1e9
        n *= 2


def _best(function: Callable[[], Any], runs: int = 5) -> float:
    return min(seconds_of(function) for _ in range(runs))


def seconds_of(function: Callable[[], Any]) -> float:
    """How long it takes, what it leaves to the GPU included."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start
