"""Time, work and memory of a model's stages, taken from outside while it decodes."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_llada.bench.ways import Way

STAGES = ("encoder", "adapter", "prefix", "LLM", "head")
"""Whisper's encoder; the Q-Former; what makes the LM's prefix of its vectors, with a
CTC and a scorer where there are any; the LLM's layers, all passes; its output layer."""


class Meter:
    """Within ``with``, adds up what a model's stages do, by forward hooks.

    Args:
        way: how the model is run.
        count_flops: count the FLOPs of matrix products too, which takes time.

    Attributes:
        seconds: {stage: seconds}.
        flops: {stage: FLOPs}, 0 where they are not counted.
        calls: {stage: number of calls}.
    """

    def __init__(self, way: Way, count_flops: bool = False):
        decoder = way.model.decoder
        self._modules = [
            ("encoder", way.model.encoder),
            ("adapter", way.model.postencoder),
            ("prefix", decoder.audio_prefix),
            ("head", decoder.lm.scores),
            *(("LLM", module) for module in (decoder.lm, *way.llm)),
        ]
        self._count, self._counter, self._stack = count_flops, None, ExitStack()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.flops = dict.fromkeys(STAGES, 0)
        self.calls = dict.fromkeys(STAGES, 0)

    def __enter__(self) -> Meter:
        from torch.utils.flop_counter import FlopCounterMode

        if self._count:
            self._counter = self._stack.enter_context(FlopCounterMode(display=False))
        for stage, module in self._modules:
            begin = module.register_forward_pre_hook(self.begin)
            end = partial(self.end, stage)
            # In a failure too, or the next begin would be one too many.
            end = module.register_forward_hook(end, always_call=True)
            self._stack.callback(begin.remove)
            self._stack.callback(end.remove)
            if stage == "prefix":
                watch = module.register_forward_hook(self._watch_scorer)
                self._stack.callback(watch.remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def begin(self, *_: Any) -> None:
        """A stage begins; none is part of another."""
        synchronize()
        self._before, self._start = self._total(), time.perf_counter()

    def end(self, stage: str, *_: Any) -> None:
        """It ends."""
        synchronize()
        self.seconds[stage] += time.perf_counter() - self._start
        self.flops[stage] += self._total() - self._before
        self.calls[stage] += 1

    def _total(self) -> int:
        return self._counter.get_total_flops() if self._counter else 0

    def _watch_scorer(self, module: nn.Module, given: Any, prefix: Any) -> None:
        """A scorer that a batch has is asked later on, and not by its ``forward``."""
        if (scorer := getattr(prefix, "scorer", None)) is not None:
            scorer.network = _Watched(scorer.network, self)


class _Watched:
    """A scorer's network, whose work is part of the prefix."""

    def __init__(self, network: Any, meter: Meter):
        self._network, self._meter = network, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def along(self, *given: Any) -> Any:
        self._meter.begin()
        try:
            return self._network.along(*given)
        finally:
            self._meter.end("prefix")


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; of one in int8 those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def model_bytes(model: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(map(stored_bytes, model.parameters()))


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """{stage: bytes of the weights that one call reads}."""
    decoder = model.decoder
    prefix, layers = decoder.audio_prefix, decoder.lm.body.layers
    sizes = map(model_bytes, (model.encoder, model.postencoder, prefix, layers))
    return dict(zip(STAGES, [*sizes, stored_bytes(decoder.lm.head)], strict=True))


def _on_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def synchronize() -> None:
    """Wait for the GPU, where one is in use."""
    if _on_gpu():
        torch.cuda.synchronize()


class PeakMemory:
    """Within ``with``, the most memory in use above what was in use at its start.

    Attributes:
        mebibytes: of the GPU, or else of the process (0 where the system has no peak
            that can be reset: other than Linux).
    """

    def __enter__(self) -> PeakMemory:
        if _on_gpu():
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            _return_free_memory()
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *error: Any) -> None:
        gpu = _on_gpu()
        peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else _status("VmHWM")
        self.mebibytes = max(0.0, peak - self._before)


def _return_free_memory() -> None:
    """What earlier runs have left with malloc would hide what this one takes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


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
    copy = _best(target.copy_, big)
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
    n, largest, seconds = 128, 2048 if device == "cpu" else 8192, 0.0
    while n < largest and seconds <= 0.02:
        n *= 2
        a = torch.randn(n, n, device=device, dtype=dtype)
        seconds = _best(torch.mm, a, a)
    return 2 * n**3 / seconds / 1e9


def _best(function: Callable[..., Any], *given: Any) -> float:
    return min(timed(function, *given)[0] for _ in range(5))


def timed(function: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """The seconds of a call, what it leaves to the GPU included; and its result."""
    synchronize()
    start = time.perf_counter()
    result = function(*given)
    synchronize()
    return time.perf_counter() - start, result


def kernels_of(function: Callable[[], Any]) -> tuple[int, float] | None:
    """Kernels and copies that a call launches, and the seconds in which any ran.

    A GPU that is busy for less than the call takes waits for the host.

    Returns:
        None where no GPU is in use.
    """
    if not _on_gpu():
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
        synchronize()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA
    ]
    return len(spans), 1e-6 * covered(spans)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what spans cover together; where they overlap it counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def failure(what: str, error: Exception) -> str:
    """Why something cannot be measured, in a line that the user is told too."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    logging.warning(f"left out: {what}: {text}")
    return text
