"""What a training trains and what it leaves, for one line of its log."""

from __future__ import annotations

from collections import Counter

from torch import nn


def trained_parameters(model: nn.Module) -> str:
    """``trained 29.9 M of 8.68 G parameters (0.34 %): Q-Former 20.5 M, …; frozen: …``.

    Args:
        model: of ESPnet, with one of our decoders; what is to be frozen is so already.
    """
    trained, frozen = Counter(), Counter()
    for name, parameter in model.named_parameters():
        kind = trained if parameter.requires_grad else frozen
        kind[_part(name, model)] += parameter.numel()
    number, total = trained.total(), trained.total() + frozen.total()
    return (
        f"trained {_count(number)} of {_count(total)} parameters "
        f"({number / max(total, 1):.2%}): {_listed(trained)}; frozen: {_listed(frozen)}"
    ).replace("%)", " %)")


def _part(name: str, model: nn.Module) -> str:
    """Of the model, in the words of the paper."""
    if "lora_" in name:
        return "LoRA"
    top, _, rest = name.partition(".")
    if top == "postencoder" and "QFormer" in type(model.postencoder).__name__:
        return "Q-Former"
    if top != "decoder":
        return top
    part, _, rest = rest.partition(".")
    inner = rest.partition(".")[0]
    if part == "audio_prefix":
        return {"ctc": "CTC"}.get(inner, inner.replace("_", " "))
    return "mask embedding" if inner == "mask_embedding" else "LM"


def _listed(parts: Counter[str]) -> str:
    return ", ".join(f"{n} {_count(c)}" for n, c in parts.most_common()) or "nothing"


def _count(number: int) -> str:
    """Three digits: ``29.9 M``."""
    for factor, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= factor:
            value = number / factor
            return f"{value:.{2 - (value >= 10) - (value >= 100)}f}{unit}"
    return str(number)
