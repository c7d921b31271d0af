"""One denoising loop for decoding and deliberation; see ``loop.denoise``.

The sampler knows torch and ``types``: no tokenizer, no audio, no model size.
"""

from espnet_llada.sampler.canvas import Canvas, blank_canvas, transcript_canvas
from espnet_llada.sampler.loop import (
    Beside,
    LogitsFn,
    OnPass,
    Pass,
    SamplerResult,
    sample,
)

__all__ = [
    "Beside",
    "Canvas",
    "LogitsFn",
    "OnPass",
    "Pass",
    "SamplerResult",
    "blank_canvas",
    "sample",
    "transcript_canvas",
]
