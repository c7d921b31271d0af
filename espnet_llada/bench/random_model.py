"""The model of a train config with random weights: full size where none can be had.

Time and memory depend on sizes, not on what the weights are. Frozen parts have the
config's dtype, trained ones fp32, as in a model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from espnet_llada.build import POSTENCODER, DecoderConf
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.objective import Objective
from espnet_llada.core.prefix import LinearPrefix
from espnet_llada.extensions.lm_cache import CachedPasses
from espnet_llada.networks.llama import Rotary
from espnet_llada.plan.meta_model import PROMPT_TOKENS, build
from espnet_llada.types import UserError

_KNOWN = {field.name for field in fields(DecoderConf)} | {"cached_prefix"}
_STD = 0.02


class NumberTokenizer:
    """Tokens as numbers."""

    eos_id = 0

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [*map(str, ids)]


def random_model(
    config: Mapping[str, Any], device: str, training: bool = False, seed: int = 0
) -> WhisperLLM:
    """Build it on ``device``; the host holds no weights.

    Audio is not padded, whatever the config says: ``ways.released`` does that. EOS
    and the mask token never win, since their rows of the head are 0 and the largest of
    many random logits is above that: a decoding takes the tokens or passes that its
    options allow.

    Args:
        config: a train config with the paper's parts.
        device: "cpu", "cuda", ...
        training: with LoRA, as a training has it; without, as if merged.
        seed: of the weights.

    Raises:
        UserError: other parts, or sizes that are not known.
    """
    model = empty_model(config, training)
    _fill(model, device, seed)
    return model.train(training)


def empty_model(config: Mapping[str, Any], training: bool = False) -> WhisperLLM:
    """The same on the meta device: shapes without weights."""
    conf = dict(config.get("decoder_conf") or {})
    strange = [name for name in conf if name not in _KNOWN]
    if strange or config.get("postencoder") != POSTENCODER:
        part = f"decoder_conf {strange[0]}" if strange else config.get("postencoder")
        raise UserError(f"random weights: for the paper's parts only, not for {part}")
    if not training:
        conf["lora"] = None
    encoder = config.get("encoder_conf") or {}
    encoder = {**encoder, "pad_seconds": 0.0, "keep_padding": False}
    network = build({**config, "encoder_conf": encoder, "decoder_conf": conf})
    lm, cached = network.lm, conf.get("cached_prefix", False)
    decoder = LMDecoder(
        lm,
        LinearPrefix(network.projection),
        NumberTokenizer(),
        [1 + i % (lm.vocab_size - 1) for i in range(PROMPT_TOKENS)],
        Objective(network.loss, network.max_eos_padding),
        prefix_attends=not cached,
        passes=CachedPasses if cached else None,
    )
    return WhisperLLM(network.encoder, network.postencoder, decoder)


@torch.no_grad()
def _fill(model: WhisperLLM, device: str, seed: int) -> None:
    """Give each tensor memory on ``device`` and noise."""
    model.to_empty(device=device)
    lm, special = model.decoder.lm, model.decoder.special
    config = lm.body.config
    lm.body.rotary_emb = Rotary(config).to(device)
    if config.tie_word_embeddings:
        lm.head = lm.embedding.weight
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or name.endswith("mask_embedding"):
            parameter.normal_(0.0, _STD, generator=generator)
        else:  # of norms, and biases
            parameter.fill_(float(name.endswith("weight")))
    ids = [i for i in (special.eos, special.mask) if i < lm.vocab_size]
    lm.head[ids] = 0.0
