"""From the adapter's vectors to what the LM sees: the paper's linear projection."""

from __future__ import annotations

from torch import Tensor, nn


class LinearProjection(nn.Linear):
    """One LM vector for each of the adapter's.

    Args:
        width: of the adapter's vectors.
        embedding: (V, d), the LM's.
    """

    def __init__(self, width: int, embedding: Tensor):
        super().__init__(width, embedding.shape[1])
        # The Q-Former's LayerNorm gives unit variance: start the audio at the scale
        # of the LM's own embeddings (torch's default is 5 times SmolLM2's).
        std = float(embedding.float().std()) * width**-0.5
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def ctc_layer(self, audio: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors and the table whose products are the CTC's logits."""
        return self(audio.to(self.weight.dtype)), embedding
