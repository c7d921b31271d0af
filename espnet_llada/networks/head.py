"""Cross-entropy through a frozen output head, without the logits of a whole batch.

Logits of 126,464 tokens for each position are the largest tensor of a training, and
softmax over them in fp32, its copies and its gradient cost more time than the layers
of a small LM. Here a few rows at a time go through the head; each leaves its loss and
the gradient of its hidden state, which is all that a frozen head has to give.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_llada.networks.frozen import at_once


def head_nll(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(target) of each row, softmax in fp32.

    Args:
        hidden: (N, d); the products are computed in its dtype.
        head: (V, d), not trained.
        targets: (N,) int64.

    Returns:
        (N,) float32, nats; and (N,) float32, without a gradient, how far the target's
        logit is below the largest one: 0 where it is the most probable.
    """
    return _HeadNLL.apply(hidden, head.detach().to(hidden.dtype), targets)


class _HeadNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor):
        wanted = ctx.needs_input_grad[0]
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        behind = torch.empty_like(nll)
        gradient = torch.empty_like(hidden) if wanted else None
        step = at_once(hidden.device, len(head))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), step):
                rows = slice(start, start + step)
                target = targets[rows, None]
                logits = (hidden[rows] @ head.T).float()
                top = logits.amax(dim=1, keepdim=True)
                at_target = logits.gather(1, target)
                p = logits.sub_(top).exp_()
                total = p.sum(dim=1, keepdim=True)
                nll[rows] = (total.log() + top - at_target)[:, 0]
                behind[rows] = (top - at_target)[:, 0]
                if gradient is not None:
                    p /= total
                    p.scatter_add_(1, target, torch.full_like(total, -1.0))
                    gradient[rows] = p.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(behind)
        return nll, behind

    @staticmethod
    def backward(ctx: Any, nll_gradient: Tensor, _: Tensor):
        (gradient,) = ctx.saved_tensors
        return (gradient * nll_gradient[:, None]).to(gradient.dtype), None, None


def logits_nll(
    logits: Tensor, targets: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor]:
    """-log p(target) of the N counted positions of logits (B, L, V), and who is best.

    Args:
        logits: (B, L, V).
        targets: (B, L) int64.
        counted: (B, L) bool.
    """
    logits, targets = logits[counted], targets[counted]
    nll = F.cross_entropy(logits.float(), targets, reduction="none")
    return nll, logits.argmax(dim=-1) == targets
