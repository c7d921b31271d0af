"""LoRA on the LM's linear layers, by peft."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import nn

from espnet_llada.io.schema import Share, Weight

Linears = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]
"""Of a layer of the LM."""


@dataclass(frozen=True)
class LoraOptions:
    """LoRA's size. The defaults are the paper's: r 8, alpha 32, q, k and v.

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update, in training.
        target_modules: names of the Linear layers that get an update.
    """

    r: Annotated[int, Meta(ge=1, le=4096)] = 8
    alpha: Weight = 32
    dropout: Share = 0.1
    target_modules: Annotated[Sequence[Linears], Meta(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
    )


def add_lora(body: nn.Module, options: LoraOptions) -> None:
    """Put LoRA updates into ``body`` in place; they alone require gradients."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.target_modules),
    )
    inject_adapter_in_model(config, body)
    for name, parameter in body.named_parameters():
        if "lora_" in name:
            # fp32 whatever the frozen weights are: an update of 1e-5 is below what
            # bf16 can add to a weight.
            parameter.data = parameter.data.float()


def updated_layers(body: nn.Module) -> list[nn.Module]:
    """The layers with LoRA."""
    return [m for m in body.modules() if hasattr(m, "cast_input_dtype_enabled")]


@contextmanager
def casts_by_autocast(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Switch off peft's own cast of the input of layers with LoRA.

    peft casts it to the update's fp32, and autocast straight back to bf16: four
    copies in each projection, forward and backward pass, for nothing.
    """
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.cast_input_dtype_enabled = True


@torch.no_grad()
def merge_lora(body: nn.Module) -> None:
    """Add every update to its frozen weight and drop it: W + (alpha / r) B A.

    One matmul fewer per projection in decoding; equal to the unmerged network up to
    rounding. The tensors of a checkpoint no longer fit afterwards.
    """
    if not any("lora_" in name for name, _ in body.named_parameters()):
        return  # without importing peft
    from peft.tuners.lora import LoraLayer

    merged = [
        (name, layer)
        for name, layer in body.named_modules()
        if isinstance(layer, LoraLayer)
    ]
    for name, layer in merged:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, layer.get_base_layer())
