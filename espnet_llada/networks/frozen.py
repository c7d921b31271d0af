"""Modules whose pretrained weights are never trained and keep their dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Pretrained(nn.Module):
    """A module with frozen pretrained weights; parts of it (LoRA) may be trained.

    Its frozen parameters and its buffers follow a move to another device, and no
    change of dtype: ESPnet calls ``model.to(dtype=train_dtype)``, which would make
    32 GB of fp32 out of an 8B model in bf16. Trained parameters (LoRA) follow both.
    """

    pretrained = True  # a checkpoint leaves its tensors out, trained ones excepted

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        # What .to(), .cuda(), .float(), .half(), … all come down to.
        kept = {id(p) for p in self.parameters() if not p.requires_grad}
        kept |= {id(b) for b in self.buffers()}

        def apply(tensor: Tensor) -> Tensor:
            if id(tensor) not in kept:
                return fn(tensor)
            probe = fn(tensor.new_empty(0))
            if probe.dtype == tensor.dtype:
                return fn(tensor)
            # Only the move: a detour through another dtype may lose bits.
            return tensor.to(probe.device)

        return super()._apply(apply, recurse)

    def own_precision(self) -> torch.autocast:
        """The surrounding autocast, but for bf16 weights always in bf16.

        Weights in fp32 leave the choice to autocast. Weights in bf16 would be cast to
        fp16 at every use, and overflow there.
        """
        weight = next(p for p in self.parameters() if not p.requires_grad)
        kind = weight.device.type
        wanted = torch.is_autocast_enabled(kind)
        if weight.dtype == torch.float32:
            return torch.autocast(kind, torch.get_autocast_dtype(kind), wanted)
        return torch.autocast(kind, weight.dtype, wanted)
