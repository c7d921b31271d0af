"""Combines the decoding hooks of the extensions in use into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.masking import LogitsFn, Plan
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook, MakeHook
from espnet_llada.core.sampler import MakePlan, SamplerResult
from espnet_llada.inference.options import EXTENSIONS
from espnet_llada.io.schema import named
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import UserError

_WITHOUT_AUDIO = ("block_cache",)


def make_hook(
    decoder: LMDecoder,
    sampler: SamplerOptions,
    extensions: Mapping[str, Any],
    use_audio: bool = True,
) -> MakeHook | None:
    """The combined hook of the extensions in use; None without any.

    Args:
        decoder: of the model.
        sampler: the paper's options.
        extensions: {name: its options}; names outside ``EXTENSIONS`` are ignored.
        use_audio: whether the LM is given audio.

    Raises:
        UserError: an extension does not fit the model, or another option.
    """
    kinds = []
    for name, module in EXTENSIONS.items():
        if name not in extensions:
            continue
        if not use_audio and name not in _WITHOUT_AUDIO:
            raise UserError(f"{name}: needs audio; leave it out")
        make = partial(named(f"{module}:Hook"), extensions[name])
        make(decoder, sampler, ()).check(extensions)
        kinds.append(make)
    return partial(_chain, kinds) if kinds else None  # a partial can be pickled


def _chain(kinds: Sequence[Callable[..., DecodingHook]], *given: Any) -> _Chain:
    return _Chain([kind(*given) for kind in kinds], *given)


class _Chain(DecodingHook):
    """Several hooks, applied in order."""

    def __init__(self, hooks: Sequence[DecodingHook], *given: Any):
        super().__init__(None, *given)
        self._hooks = hooks

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        for hook in self._hooks:
            prefix, canvas = hook.open(prefix, canvas)
        return prefix, canvas

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        for hook in self._hooks:
            make = partial(hook.plan, make)
        return make(logits_fn, canvas, random)

    def passes(self, prefix: Prefix, lengths: Tensor) -> LogitsFn | None:
        found = (hook.passes(prefix, lengths) for hook in self._hooks)
        return next((passes for passes in found if passes is not None), None)

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        first = None
        for hook in self._hooks:
            log_probs, settled = hook.process(tokens, masked, log_probs)
            if settled is not None:
                first = settled if first is None else first | settled
        return log_probs, first

    def next_token(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor | None:
        found = [hook.next_token(rows, texts) for hook in self._hooks]
        found = [values for values in found if values is not None]
        return sum(found) if found else None

    def accept(self, canvas: Canvas, result: SamplerResult) -> SamplerResult:
        for hook in self._hooks:
            result = hook.accept(canvas, result)
        return result
