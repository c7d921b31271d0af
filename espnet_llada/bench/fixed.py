"""Decoding with shapes and addresses that never change: compiled, or as one CUDA graph.

What a server would do to be fast: a GPU waits for nothing that the host decides. The
tokens are those of the plain ways, ``autoregressive.beam_search`` with one hypothesis
and ``LMDecoder.logits_fn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from espnet_llada.bench.graphs import Replayed, compiled, runner
from espnet_llada.decoder import LMDecoder, last_valid
from espnet_llada.listening import Listening
from espnet_llada.lm.backbone import Backbone
from espnet_llada.lm.cache import StaticKVCache
from espnet_llada.lm.llama import Llama, run_layer
from espnet_llada.prefix import Prefix
from espnet_llada.recognizer import Recognizer
from espnet_llada.sampler import SamplerResult
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
        if decoder.pointer is not None or decoder.prefix_blind:
            raise UserError(
                f"runtime {runtime}: not for a model with pointer or prefix_blind"
            )
        self.decoder, self.runtime = decoder, runtime
        self.layer = compiled(run_layer, backend) if runtime == "compile" else run_layer
        self._memories: dict[tuple[int, ...], Any] = {}
        self._encodings: dict[tuple[int, ...], Replayed] = {}

    def memory(self, make: Callable[..., Any], *shape: int) -> Any:
        """The memory for this shape, made when it is first needed."""
        if shape not in self._memories:
            memory = make(self.decoder, self.layer, *shape)
            memory.run = runner(memory.step, self.runtime, self.decoder.lm.head.device)
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
        memory = self.memory(_Continuation, batch, room)
        memory.begin(prefix)
        self.run(memory, max_tokens)
        return memory.result(max_tokens)

    def run(self, memory: _Continuation, max_tokens: int) -> None:
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
        prefix = heard.prefix

        def logits(tokens: Tensor, wanted: Tensor) -> Tensor:
            memory = self.memory(_Pass, *prefix.valid.shape, tokens.shape[1])
            memory.begin(prefix, lengths, tokens)
            self.run(memory)
            return memory.logits[wanted]

        return logits

    def run(self, memory: _Pass) -> None:
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


def _hidden(body: Llama, run, embeds, mask, positions, caches) -> Tensor:
    """As ``Llama.forward``, each layer by ``run``: code for one fits them all."""
    turn = body.rotary_emb(positions, embeds.dtype)
    for layer, cache in zip(body.layers, caches, strict=True):
        embeds = run(layer, embeds, mask, turn, cache, body.kernel)
    return body.norm(embeds)


def _logits(lm: Backbone, hidden: Tensor) -> Tensor:
    """The class's own: a ``Meter`` around it would stop a graph's capture."""
    return Backbone.logits(lm, hidden)


def _closed(mask: Tensor) -> Tensor:
    return mask.fill_(torch.finfo(mask.dtype).min)


@dataclass
class _Continuation:
    """Greedy search of B rows in memory for K positions.

    Attributes:
        cache: keys and values.
        mask: (B, 1, 1, K), see ``Llama``.
        token, position: (B, 1) int64, the last token and the number of its position.
        tokens, log_probs: (B, K), what has been written.
        column: (1,) int64, where the next one goes.
    """

    decoder: LMDecoder
    layer: Callable[..., Tensor]
    rows: int
    room: int
    run: Callable[[], None] = field(init=False)

    def __post_init__(self) -> None:
        table = self.decoder.lm.embedding.weight
        self.cache = StaticKVCache(
            self.decoder.lm.body.config, self.rows, self.room, table
        )
        self.mask = table.new_zeros(self.rows, 1, 1, self.room)
        ones = torch.ones(self.rows, 1, dtype=torch.long, device=table.device)
        self.token, self.position = ones.clone(), ones.clone()
        self.tokens = ones.repeat(1, self.room)
        self.log_probs = torch.zeros_like(self.tokens, dtype=torch.float32)
        self.column = torch.zeros_like(self.cache.places)

    def begin(self, prefix: Prefix) -> None:
        """Take a prefix with a cache up, and choose the first token."""
        self.cache.fill(prefix.cache)
        asked = prefix.valid.shape[1]
        _closed(self.mask)[..., :asked].masked_fill_(prefix.valid[:, None, None], 0.0)
        self.position.copy_(prefix.start[:, None])
        self.column.zero_()
        self._choose(last_valid(prefix.hidden, prefix.valid))

    def step(self) -> None:
        """Feed the last token and choose the next one."""
        lm, places = self.decoder.lm, self.cache.places
        self.mask.index_fill_(3, places, 0.0)
        embeds, caches = lm.embed(self.token), self.cache.layers
        hidden = _hidden(lm.body, self.layer, embeds, self.mask, self.position, caches)
        self._choose(hidden[:, 0])
        self.position.add_(1)
        places.add_(1)

    def _choose(self, hidden: Tensor) -> None:
        """The most probable token of (B, d)."""
        log_probs = _logits(self.decoder.lm, hidden).float().log_softmax(dim=-1)
        best, token = log_probs.max(dim=-1, keepdim=True)
        self.token.copy_(token)
        self.tokens.index_copy_(1, self.column, token)
        self.log_probs.index_copy_(1, self.column, best)
        self.column.add_(1)

    def ended(self, count: int) -> bool:
        """Whether each row has an EOS among its first ``count`` tokens."""
        written = self.tokens[:, :count] == self.decoder.special.eos
        return bool(written.any(dim=1).all())

    def result(self, max_tokens: int) -> SamplerResult:
        """Up to the longest row's end, or to ``max_tokens``."""
        eos = self.decoder.special.eos
        tokens, log_probs = self.tokens[:, :max_tokens], self.log_probs[:, :max_tokens]
        ends = (tokens == eos).long()
        behind = ends.cumsum(dim=1) - ends > 0
        passes = (~behind).sum(dim=1)
        longest = int(passes.max())
        return SamplerResult(
            tokens.masked_fill(behind, eos)[:, :longest],
            log_probs.masked_fill(behind, 0.0)[:, :longest],
            passes,
        )


@dataclass
class _Pass:
    """One pass over B rows of P prefix and L canvas positions.

    Attributes:
        embeds: (B, P, d), the prefix.
        mask: (B, 1, 1, P + L), see ``Llama``.
        positions: (B, P + L) int64.
        tokens: (B, L) int64, the canvas.
        logits: (B, L, V), what comes of it.
    """

    decoder: LMDecoder
    layer: Callable[..., Tensor]
    rows: int
    asked: int
    length: int
    run: Callable[[], None] = field(init=False)

    def __post_init__(self) -> None:
        lm = self.decoder.lm
        table, width = lm.embedding.weight, self.asked + self.length
        self.embeds = table.new_zeros(self.rows, self.asked, lm.width)
        self.mask = table.new_zeros(self.rows, 1, 1, width)
        numbers = torch.arange(width, device=table.device)
        self.positions = numbers.repeat(self.rows, 1)
        self.tokens = torch.zeros_like(self.positions[:, self.asked :])
        self.logits: Tensor | None = None

    def begin(self, prefix: Prefix, lengths: Tensor, tokens: Tensor) -> None:
        """Take prefix and canvas up."""
        places = torch.arange(self.length, device=tokens.device)
        valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
        _closed(self.mask).masked_fill_(valid[:, None, None], 0.0)
        self.embeds.copy_(prefix.embeds)
        self.positions[:, : self.asked] = prefix.positions
        self.positions[:, self.asked :] = prefix.start[:, None] + places
        self.tokens.copy_(tokens)

    def step(self) -> None:
        """The pass."""
        lm = self.decoder.lm
        embeds = lm.join(self.embeds, lm.embed(self.tokens))
        caches = [None] * len(lm.body.layers)
        hidden = _hidden(lm.body, self.layer, embeds, self.mask, self.positions, caches)
        self.logits = _logits(lm, hidden[:, self.asked :])
