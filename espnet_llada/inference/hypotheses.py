"""Results of the sampler as hypotheses, and hypotheses of segments joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from espnet_llada.core.canvas import word_places
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.types import Hypothesis


def joined(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Join the hypotheses of segments."""
    if len(parts) == 1:
        return parts[0]
    return Hypothesis(
        text=" ".join(p.text for p in parts if p.text),
        tokens=sum((p.tokens for p in parts), ()),
        token_ids=sum((p.token_ids for p in parts), ()),
        score=sum(p.score for p in parts),
        passes=sum(p.passes for p in parts),
        confidence=sum((p.confidence for p in parts), ()),
        eos=parts[0].eos,
        words=sum((p.words for p in parts), ()),
        calibrated=all(p.calibrated for p in parts if p.tokens),
        evidence=sum((p.evidence for p in parts), ()),
    )


def placed(
    whole: list[Hypothesis], rows: Sequence[int], own: Sequence[Hypothesis]
) -> list[Hypothesis]:
    """Replace some rows of a batch."""
    found = dict(zip(rows, own, strict=True))
    return [found.get(row, h) for row, h in enumerate(whole)]


def hypotheses(
    decoder: LMDecoder, result: SamplerResult, nbest: int = 1
) -> list[Hypothesis]:
    """The rows of a result as hypotheses; above 1 with the others of a beam."""
    each = result.tokens.tolist(), result.log_probs, result.passes.tolist()
    found = [hypothesis(decoder, *row) for row in zip(*each, strict=True)]
    if nbest == 1 or not hasattr(result, "others"):
        return found
    out = []
    for best, others in zip(found, result.others, strict=True):
        rows = [(tokens, torch.tensor(values)) for tokens, values in others]
        made = [hypothesis(decoder, *row) for row in rows]
        out.append(with_distinct(best, made, nbest))
    return out


def with_distinct(
    best: Hypothesis, others: Sequence[Hypothesis], nbest: int
) -> Hypothesis:
    """With alternatives: of ``others`` the first ones with a text of their own."""
    first = {h.text: h for h in reversed(others) if h.text != best.text}
    distinct = [h for h in others if first.get(h.text) is h]
    return replace(best, alternatives=tuple(distinct[: nbest - 1]))


def hypothesis(
    decoder: LMDecoder, tokens: Sequence[int], log_probs: Tensor, passes: int = 0
) -> Hypothesis:
    """A row as hypothesis: L tokens, and (L,) their log-probabilities."""
    places = word_places(tokens, decoder.special)
    ids = [tokens[i] for i in places]
    return Hypothesis(
        text=decoder.tokenizer.decode(ids),
        tokens=tuple(decoder.tokenizer.tokens(ids)),
        token_ids=tuple(ids),
        score=float(log_probs.sum()),
        passes=passes,
        confidence=tuple(log_probs[places].exp().tolist()),
        eos=decoder.special.eos,
    )
