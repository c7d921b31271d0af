"""Decoding with shapes and addresses that never change: compiled, or as a CUDA graph.

What a server would do to be fast: a GPU waits for nothing that the host decides. The
tokens are those of the plain ways, ``beam_search`` with one hypothesis
and ``LMDecoder.logits_fn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from espnet_llada.bench.graphs import Replayed, compiled, runner
from espnet_llada.bench.memories import BlindPass, Continuation, LaterPass, Pass
from espnet_llada.core.decoder import LMDecoder
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.extensions.posterior_prefix.listening import Listening
from espnet_llada.networks.llama import run_layer
from espnet_llada.types import UserError

_MULTIPLE = 8
"""A mask of such a width needs no padding for torch's attention kernels."""


class Fixed:
    """What both ways share: one memory for each shape, and how its step is run.

    Args:
        decoder: one with the paper's parts.
        runtime: one of ``sweep_rows.RUNTIMES``, not ``plain``.
        backend: torch.compile's.

    Raises:
        UserError: parts that need other shapes in each pass.
    """

    def __init__(self, decoder: LMDecoder, runtime: str, backend: str = "inductor"):
        if decoder.pointer is not None:
            raise UserError(f"runtime {runtime}: not for a model with pointer")
        self.decoder, self.runtime = decoder, runtime
        self.layer = compiled(run_layer, backend) if runtime == "compile" else run_layer
        self._memories: dict[tuple[int, ...], Any] = {}
        self._encodings: dict[tuple[int, ...], Replayed] = {}

    def memory(self, make: Callable[..., Any], *shape: int) -> Any:
        """The memory for this shape, made when it is first needed."""
        if shape not in self._memories:
            memory = make(self.decoder, self.layer, *shape)
            device = self.decoder.lm.head.device
            for part in memory.parts:
                part.run = runner(part.step, self.runtime, device)
            self._memories[shape] = memory
        return self._memories[shape]

    @contextmanager
    def installed(self, recognizer: Recognizer) -> Iterator[None]:
        """Have a recognizer's encoder run so, and undo it in the end."""
        encoder = recognizer.model.encoder
        plain = encoder._encode

        def encode(mel: Tensor) -> Tensor:
            if mel.shape not in self._encodings:
                self._encodings[mel.shape] = Replayed(plain, mel, self.runtime)
            return self._encodings[mel.shape](mel)

        encoder._encode = encode
        try:
            yield
        finally:
            del encoder._encode


class StaticGreedy(Fixed):
    """Greedy search over a static KV cache.

    The next token is chosen and fed where it is; the host looks whether all rows have
    ended once in ``check_every`` tokens.
    """

    check_every = 16

    def __call__(
        self, decoder: LMDecoder, prefix: Prefix, max_tokens: int, beam_size: int = 1
    ) -> SamplerResult:
        """See ``beam_search``.

        Raises:
            UserError: a beam.
        """
        if beam_size != 1:
            raise UserError(f"runtime {self.runtime}: beam_size {beam_size}; set it 1")
        prefix = prefix.remembered(decoder.lm)
        batch, asked = prefix.valid.shape
        room = -(-(asked + max_tokens) // _MULTIPLE) * _MULTIPLE
        memory = self.memory(Continuation, batch, room)
        memory.begin(prefix)
        self.run(memory, max_tokens)
        return memory.result(max_tokens)

    def run(self, memory: Continuation, max_tokens: int) -> None:
        """All tokens but the first."""
        for count in range(1, max_tokens):
            if count % self.check_every == 0 and memory.ended(count):
                break
            memory.run()

    @contextmanager
    def installed(self, recognizer: Recognizer) -> Iterator[None]:
        before, recognizer.search = recognizer.search, self
        try:
            with super().installed(recognizer):
                yield
        finally:
            recognizer.search = before


class FixedPass(Fixed):
    """Passes of masked diffusion over all rows, with logits of the whole canvas."""

    def logits_fn(
        self, heard: Listening, lengths: Tensor, block_cache: bool = False
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """See ``LMDecoder.logits_fn``.

        Raises:
            UserError: a block cache, whose passes have shapes of their own.
        """
        if block_cache:
            raise UserError(f"runtime {self.runtime}: block_cache; leave it out")
        prefix, begun = heard.prefix, set()
        make = BlindPass if self.decoder.prefix_blind else Pass

        def logits(tokens: Tensor, wanted: Tensor) -> Tensor:
            memory = self.memory(make, *prefix.valid.shape, tokens.shape[1])
            if memory in begun:
                memory = memory.following(tokens)
            else:
                memory.begin(prefix, lengths, tokens)
                begun.add(memory)
            self.run(memory)
            return memory.logits[wanted]

        return logits

    def run(self, memory: Pass | LaterPass) -> None:
        """One pass."""
        memory.run()

    @contextmanager
    def installed(self, recognizer: Recognizer) -> Iterator[None]:
        self.decoder.logits_fn = self.logits_fn
        try:
            with super().installed(recognizer):
                yield
        finally:
            del self.decoder.logits_fn
