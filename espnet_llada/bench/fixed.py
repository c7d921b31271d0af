"""Decoding with shapes and addresses that never change: compiled, or as a CUDA graph.

What a server would do to be fast: a GPU waits for nothing that the host decides. The
tokens are those of the plain ways, ``beam_search`` with one hypothesis and
``core.model.Passes``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada.bench.memories import Canvas, Continuation, FixedLM, Step
from espnet_llada.bench.ways import Way, sharing
from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import Stages
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.networks.backbone import OutputHead
from espnet_llada.networks.encoder import WhisperEncoder
from espnet_llada.networks.llama import run_layer
from espnet_llada.types import UserError

_MULTIPLE = 8
"""A mask of such a width needs no padding for torch's attention kernels."""

_SHAPES = 256
"""Shapes that one function may be compiled for; torch's default of 8 is for servers."""

_GRAPHS: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()


def fixed(model: nn.Module, runtime: str, backend: str = "inductor") -> Way:
    """A model that decodes so.

    Args:
        model: a ``WhisperLLM``.
        runtime: one of ``sweep.rows.RUNTIMES``, not ``plain``.
        backend: torch.compile's.
    """
    encoder = sharing(model.encoder, FixedEncoder)
    encoder.runtime = runtime
    same = WhisperLLM(encoder, model.postencoder, model.decoder)
    if model.decoder.diffuses:
        passes = FixedPasses(model.decoder, runtime, backend)
        return Way(same, Stages(same.encode, passes=passes.passes), (passes,))
    greedy = StaticGreedy(model.decoder, runtime, backend)
    return Way(same, Stages(same.encode, search=greedy.search), (greedy,))


class FixedEncoder(WhisperEncoder):
    """Has memory of its own for each shape of a batch.

    Attributes:
        runtime: see ``runner``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.runtime = "static"
        self._shapes: dict[torch.Size, tuple[Tensor, Step]] = {}

    def _encode(self, mel: Tensor) -> Tensor:
        if mel.shape not in self._shapes:
            given, encode = mel.clone(), super()._encode
            run = runner(lambda: encode(given), self.runtime, mel.device)
            self._shapes[mel.shape] = given, run
        given, run = self._shapes[mel.shape]
        given.copy_(mel)
        return run()


class Fixed(nn.Module):
    """What both ways share: one memory for each shape, and how its steps are run.

    A module, so that forward hooks see what stands in for the LM's own ``forward``.

    Args:
        decoder: one with the paper's parts.
        runtime: see ``fixed``.
        backend: torch.compile's.
    """

    def __init__(self, decoder: LMDecoder, runtime: str, backend: str = "inductor"):
        super().__init__()
        layer = compiled(run_layer, backend) if runtime == "compile" else run_layer
        self.lm, self.runtime = FixedLM(decoder, layer), runtime
        self.memories: dict[tuple[int, ...], Any] = {}

    def memory(self, make: Callable[..., Any], *shape: int) -> Any:
        """The memory for this shape, made when it is first needed."""
        if shape not in self.memories:
            memory, device = make(self.lm, *shape), self.lm.table.device
            memory.runs = [runner(s, self.runtime, device) for s in memory.steps]
            self.memories[shape] = memory
        return self.memories[shape]

    def whole(self, prefix: Prefix) -> Prefix:
        """All rows of a prefix.

        Raises:
            UserError: an output layer that needs other shapes in each pass.
        """
        prefix = prefix.rows(range(len(prefix)))
        if type(prefix.head) is not OutputHead:
            raise UserError(f"runtime {self.runtime}: not for a model with copy_head")
        return prefix


class StaticGreedy(Fixed):
    """Greedy search over a static KV cache.

    The next token is chosen and fed where it is; the host looks whether all rows have
    ended once in ``check_every`` tokens.
    """

    check_every = 16

    @torch.no_grad()
    def search(
        self,
        decoder: LMDecoder,
        prefix: Prefix,
        max_tokens: int,
        beam_size: int = 1,
        next_token: object = None,
    ) -> SamplerResult:
        """See ``beam_search``; ``next_token`` is not used.

        Raises:
            UserError: a beam.
        """
        if beam_size != 1:
            raise UserError(f"runtime {self.runtime}: beam_size {beam_size}; set it 1")
        prefix = self.whole(prefix)
        batch, asked = prefix.valid.shape
        room = -(-(asked + max_tokens) // _MULTIPLE) * _MULTIPLE
        memory = self.memory(Continuation, batch, room)
        memory.begin(prefix)
        self(memory, max_tokens)
        return memory.result(max_tokens)

    def forward(self, memory: Continuation, max_tokens: int) -> None:
        """All tokens but the first."""
        for count in range(1, max_tokens):
            if count % self.check_every == 0 and memory.ended(count):
                break
            memory.runs[0]()


class FixedPasses(Fixed):
    """Passes of masked diffusion over all rows, with logits of the whole canvas."""

    def passes(self, decoder: LMDecoder, prefix: Prefix, lengths: Tensor) -> LogitsFn:
        """See ``core.model.Passes``."""
        prefix, begun = self.whole(prefix), []

        def logits_fn(tokens: Tensor, wanted: Tensor) -> Tensor:
            memory = self.memory(Canvas, *prefix.valid.shape, tokens.shape[1])
            if not begun:
                memory.begin(prefix, lengths)
            memory.tokens.copy_(tokens)
            logits = self(memory, memory.runs[-1 if begun else 0])
            begun.append(memory)
            return logits[wanted]

        return logits_fn

    def forward(self, memory: Canvas, run: Step) -> Tensor:
        """One pass."""
        return run()


def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """``function`` by torch.compile, anew for each shape; never in silence without."""
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = _SHAPES
    return torch.compile(function, backend=backend, dynamic=False, fullgraph=True)


def runner(step: Step, runtime: str, device: torch.device) -> Step:
    """What runs a step: itself, or on a GPU one CUDA graph of all that it does.

    Args:
        step: reads and writes tensors that stay where they are. It is run a few times
            here, so what it works on has to be set afterwards. What it returns is
            overwritten by the next run.
        runtime: one of ``sweep.rows.RUNTIMES``; ``static`` runs kernel by kernel.
        device: where the tensors are.
    """
    if runtime == "static" or device.type != "cuda":
        return step
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # as torch's notes on CUDA graphs ask for
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pool()):
            result = step()
    _GRAPHS.add(graph)

    def replay() -> Tensor | None:
        graph.replay()
        return result

    return replay


def _pool() -> Any:
    """One of all graphs: each has been read out before another one is replayed.

    It lives as long as one of them does.
    """
    return next((graph.pool() for graph in _GRAPHS), None)
