"""Greedy decoding of the causal LM (Whisper-LLaMA, the baseline)."""

from __future__ import annotations

import torch

from espnet_llada.decoder import LMDecoder, Prefix, last_valid
from espnet_llada.sampler import SamplerResult


@torch.no_grad()
def greedy(decoder: LMDecoder, prefix: Prefix, max_tokens: int) -> SamplerResult:
    """Continue each row with its most probable token until EOS, with a KV cache.

    Args:
        decoder: one with causal attention.
        prefix: prompt and audio of B rows.
        max_tokens: longest response, EOS included.

    Returns:
        The result as the sampler's: (B, <= max_tokens) tokens, EOS behind a row's
        end. A row has cost one LLM pass for each of its tokens, EOS included.
    """
    from transformers import DynamicCache

    cache, eos = DynamicCache(), decoder.special.eos
    hidden = decoder.lm(prefix.embeds, prefix.valid, cache)
    last, valid = last_valid(hidden, prefix.valid), prefix.valid
    alive = torch.ones(len(prefix), dtype=torch.bool, device=valid.device)
    tokens, log_probs, passes = [], [], torch.zeros_like(alive, dtype=torch.long)
    for i in range(max_tokens):
        passes += alive
        best = decoder.lm.logits(last).float().log_softmax(dim=-1).max(dim=-1)
        tokens.append(best.indices.masked_fill(~alive, eos))
        log_probs.append(best.values.masked_fill(~alive, 0.0))
        alive = alive & (tokens[-1] != eos)
        if i + 1 == max_tokens or not alive.any():
            break
        # A row that has ended goes on with EOS, which nobody reads.
        valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        last = decoder.lm(decoder.lm.embed(tokens[-1][:, None]), valid, cache)[:, 0]
    return SamplerResult(torch.stack(tokens, 1), torch.stack(log_probs, 1), passes)
