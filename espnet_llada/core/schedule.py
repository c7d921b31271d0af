"""How many positions each pass commits, and how a budget is shared by sub-blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def passes_per_block(steps: int, num_blocks: int) -> list[int]:
    """``steps`` passes shared by the blocks; the earlier ones take what is left."""
    share, rest = divmod(steps, num_blocks)
    return [share + (i < rest) for i in range(num_blocks)]


def commits_per_pass(masked: Tensor, passes: int) -> Tensor:
    """Positions that each pass commits, so that ``passes`` passes fill a block.

    Args:
        masked: (B,) int64, masked positions of each row.
        passes: passes of the block, >= 1; more than there are masked positions are
            not made.

    Returns:
        (B, passes) int64 summing to ``masked``; the earlier passes take the remainder
        (as LLaDA's get_num_transfer_tokens). A row with fewer masked positions than
        passes commits one at a time and is done early.
    """
    passes = min(passes, max([1, *masked.tolist()]))
    share, rest = masked // passes, masked % passes
    places = torch.arange(passes, device=masked.device)
    return share[:, None] + (places < rest[:, None]).long()
