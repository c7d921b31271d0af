"""What a scorer is given: frames of an encoder, and the LM's words among Whisper's."""

from __future__ import annotations

import torch

WIDTH = 16  # of tiny_whisper
WORDS = slice(2, 62)  # of its tokens
END = 3  # id of the LM's end, among them


def frames(*lengths: int) -> torch.Tensor:
    torch.manual_seed(1)
    batch = torch.randn(len(lengths), max(lengths), WIDTH)
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return batch * there[..., None]
