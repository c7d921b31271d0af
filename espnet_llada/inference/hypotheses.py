"""Token ids as text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from espnet_llada.core.canvas import word_places
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.types import Hypothesis


def hypotheses(decoder: LMDecoder, result: SamplerResult) -> list[Hypothesis]:
    """The rows of a result as text."""
    each = result.tokens.tolist(), result.log_probs, result.passes.tolist()
    return [hypothesis(decoder, *row) for row in zip(*each, strict=True)]


def hypothesis(
    decoder: LMDecoder, tokens: Sequence[int], log_probs: Tensor, passes: int = 0
) -> Hypothesis:
    """A row as text: (L) tokens and a tensor (L,) of their log-probabilities."""
    places = word_places(tokens, decoder.special)
    ids = [tokens[i] for i in places]
    return Hypothesis(
        text=decoder.tokenizer.decode(ids),
        tokens=tuple(decoder.tokenizer.tokens(ids)),
        token_ids=tuple(ids),
        score=float(log_probs.sum()),
        passes=passes,
        confidence=tuple(log_probs[places].exp().tolist()),
    )
