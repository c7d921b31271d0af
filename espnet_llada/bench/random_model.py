"""The model of a train config with random weights: full size where none can be had.

Time and memory depend on sizes, not on what the weights are. Frozen parts have the
config's dtype, trained ones fp32, as in a model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from espnet_llada.build import POSTENCODER, WhisperLLM
from espnet_llada.core.decoder import LMDecoder
from espnet_llada.core.projection import LinearProjection
from espnet_llada.networks.llama import Rotary
from espnet_llada.plan.meta_model import PROMPT_TOKENS, Network, build
from espnet_llada.types import SpecialTokens, UserError

_PLAIN = ("lm", "lora", "loss", "canvas_slack", "dtype")
_OF_TRAINING = ("compile_layers",)
_OF_TOKENIZERS = ("prompt", "chat_template", "text_case")
_KNOWN = _PLAIN + _OF_TRAINING + _OF_TOKENIZERS
_STD = 0.02


class RandomDecoder(LMDecoder):
    """The paper's parts around a network; neither files nor a tokenizer.

    EOS and the mask token never win, since their rows of the head are 0 and the
    largest of many random logits is above that: a decoding takes the tokens or passes
    that its options allow.
    """

    def __init__(self, network: Network):
        nn.Module.__init__(self)
        self.lm = network.lm
        none = torch.zeros(1, self.lm.width)
        self.projection = LinearProjection(network.postencoder.hidden, none)
        self.loss_name, self.canvas_slack = network.loss, network.slack
        self.prefix_blind = self.text_as_audio = False
        self.misheard = self.slots = self.text_random = 0.0
        self.compiles = False
        self.audio_positions = "before"
        self.ctc = self.pointer = self.text_qformer = self.read_again = None
        self._width = network.postencoder.hidden
        self.special = SpecialTokens(mask=self.lm.mask_id, eos=0)
        self.tokenizer = NumberTokenizer()
        vocabulary = self.lm.vocab_size
        self.prompt_ids = [1 + i % (vocabulary - 1) for i in range(PROMPT_TOKENS)]


class NumberTokenizer:
    """Tokens as numbers."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [*map(str, ids)]


def random_model(
    config: Mapping[str, Any], device: str, training: bool = False, seed: int = 0
) -> WhisperLLM:
    """Build it on ``device``; the host holds no weights.

    Audio is not padded, whatever the config says: ``padding`` does that.

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
    decoder = dict(config.get("decoder_conf") or {})
    strange = [name for name in decoder if name not in _KNOWN]
    if strange or config.get("postencoder") != POSTENCODER:
        part = f"decoder_conf {strange[0]}" if strange else config.get("postencoder")
        raise UserError(f"random weights: for the paper's parts only, not for {part}")
    if not training:
        decoder["lora"] = None
    encoder = {**(config.get("encoder_conf") or {}), "pad_seconds": 0.0}
    encoder["keep_padding"] = False
    network = build({**config, "encoder_conf": encoder, "decoder_conf": decoder})
    return WhisperLLM(network.encoder, network.postencoder, RandomDecoder(network))


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


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; of one in int8 those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def model_bytes(model: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(map(stored_bytes, model.parameters()))
