"""Frames cut into windows, and the layers that read each window by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.networks.compiling import for_any_shape


def cut_windows(
    frames: Tensor,
    lengths: Tensor,
    window: int,
    drop_last: bool = False,
    context: int = 0,
    early: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a batch into windows, so that a row's padding is never seen by its speech.

    Args:
        frames: (B, F, d), zero behind a row's end.
        lengths: (B,) int64, frames of each row.
        window: frames from one window to the next.
        drop_last: leave out a last window that is not full.
        context: frames on either side that a window has as well.
        early: the first window begins so many frames before the audio.

    Returns:
        Keys (N, K, d) of all windows, K = window + 2 context; (N, 1, 1, K) bool, False
        for a frame that is not there; and (B,) int64, windows of each row. Rows have
        as many windows as the longest.
    """
    ends = lengths + early
    windows = ends // window if drop_last else -(-ends // window)
    batch, count = len(frames), int(windows.max())
    width, reach = count * window, window + 2 * context
    before = context + early
    behind = max(0, width - early - frames.shape[1]) + context
    frames = F.pad(frames, (0, 0, before, behind))
    places = torch.arange(frames.shape[1], device=frames.device) - before
    there = (places >= 0) & (places < lengths[:, None])
    keys = frames[:, : width + 2 * context].unfold(1, reach, window)
    keys = keys.transpose(2, 3).reshape(batch * count, reach, -1)
    seen = there[:, : width + 2 * context].unfold(1, reach, window)
    seen = seen.reshape(batch * count, 1, 1, reach)
    # A window behind the row's end has nothing to see; its output is not used, but
    # softmax over nothing would be NaN.
    return keys, seen | ~seen.any(dim=-1, keepdim=True), windows


class WindowLayers(nn.ModuleList):
    """Layers that read windows one after the other.

    Attributes:
        run: how a layer is run in training: ``read_layer``, or that by torch.compile.
    """

    def __init__(self, layers: list[nn.Module]):
        super().__init__(layers)
        self.run = read_layer

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have training run them by torch.compile, for batches of any shape."""
        self.run = for_any_shape(read_layer, backend)

    def forward(self, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """Queries (N, Q, d) through all layers; see ``cut_windows``."""
        run = self.run if self.training else read_layer
        for layer in self:
            x = run(layer, x, keys, seen)
        return x


def read_layer(layer: nn.Module, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
    """The layer; compiled as a function, code for one fits them all."""
    return layer(x, keys, seen)
