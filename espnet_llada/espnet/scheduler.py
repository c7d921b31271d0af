"""The published learning rate: a linear warm-up, then a cosine."""

from __future__ import annotations

import math

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler
from torch.optim.lr_scheduler import LRScheduler

from espnet_llada.types import UserError


class LinearWarmupCosine(LRScheduler, AbsBatchStepScheduler):
    """``scheduler: linear_warmup_cosine``; the peak is the optimizer's ``lr``.

    Step i (from 0) below ``warmup_steps`` is made at
    ``warmup_start_lr + (lr - warmup_start_lr) * i / warmup_steps``, later ones at
    ``min_lr + (lr - min_lr) * (1 + cos(pi * i / total_steps)) / 2``. The cosine counts
    from step 0, as in the paper's release (``LinearWarmupCosineLRScheduler`` in its
    utils/optims.py, whose names these are), so the warm-up ends a little above it:
    0.01 % for 3,000 of 360,000 steps. Past ``total_steps`` the rate stays at
    ``min_lr``.

    Args:
        optimizer: its ``lr`` is the published ``init_lr``.
        warmup_steps: optimizer steps.
        warmup_start_lr: rate of the first step.
        min_lr: rate of the last one.
        total_steps: published as max_epoch * iters_per_epoch.
        last_epoch: as in torch.

    Raises:
        UserError: a warm-up longer than the training, or a negative rate.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int = 3000,
        warmup_start_lr: float = 1e-6,
        min_lr: float = 1e-5,
        total_steps: int = 360_000,
        last_epoch: int = -1,
    ):
        if not 0 <= warmup_steps < total_steps:
            raise UserError(
                f"scheduler_conf: warmup_steps {warmup_steps} does not fit into "
                f"total_steps {total_steps}; make it smaller"
            )
        if min(warmup_start_lr, min_lr) < 0:
            raise UserError("scheduler_conf: warmup_start_lr and min_lr must be >= 0")
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.warmup_start_lr, self.min_lr = warmup_start_lr, min_lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each parameter group for the step to come."""
        step = self.last_epoch  # torch's name for the number of steps made
        if step < self.warmup_steps:
            start = self.warmup_start_lr
            share = step / self.warmup_steps
            return [start + (peak - start) * share for peak in self.base_lrs]
        share = min(step / self.total_steps, 1.0)
        height = (1 + math.cos(math.pi * share)) / 2
        return [self.min_lr + (peak - self.min_lr) * height for peak in self.base_lrs]
