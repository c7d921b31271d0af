"""A projection by way of words: what the adapter hears, as the LM's own embeddings.

Where the adapter began as Whisper's decoder and the LM has Whisper's tokens, a vector
times Whisper's token embeddings says which token is heard. The LM is handed the mean of
its own embeddings under that distribution, so an utterance looks to it like a rough
transcript of itself, rare words included, and it knows before any training how to copy.

Source: LegoSLM (arXiv 2505.11352), which mixes an LM's embeddings by the posteriors of
a CTC.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada import weights
from espnet_llada.adapter.ctc import AlignmentCTC
from espnet_llada.audio.whisper_file import open_whisper
from espnet_llada.frozen import Pretrained
from espnet_llada.types import UserError

TOKENS_FILE = "whisper_tokens.json"
"""In an LM's directory: Whisper's id of each of its tokens, -1 where there is none."""

SILENT = 0.9
"""A window whose blank is more probable than that is left out."""


class WordProjection(Pretrained):
    """Posteriors over the LM's tokens -> a mixture of its embeddings; never trained.

    Args:
        words: (V, width), Whisper's embedding of each of the LM's tokens.
    """

    def __init__(self, words: Tensor):
        super().__init__()
        self.words = nn.Parameter(words, requires_grad=False)

    @classmethod
    def from_pretrained(cls, width: int, whisper: str, lm: Path) -> WordProjection:
        """Read the words that an LM shares with a Whisper.

        Args:
            width: of the adapter's vectors.
            whisper: name or path of the weights, those of the adapter.
            lm: the LM's directory.

        Raises:
            UserError: the LM has not got Whisper's tokens, or of another width.
        """
        try:
            ids = json.loads((lm / TOKENS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(
                f"{lm}/{TOKENS_FILE}: not readable ({e}); projection: words needs an "
                "LM with Whisper's tokens, as local/make_lm.py makes it"
            ) from e
        file = open_whisper(weights.resolve(whisper, "whisper").path, "decoder")
        table = file.tensors[file.rename("token_embedding.weight")].read(torch.float32)
        if table.shape[1] != width or max(ids) >= len(table):
            raise UserError(
                f"{whisper}: its token embeddings {tuple(table.shape)} do not fit "
                f"vectors of width {width} and {lm}/{TOKENS_FILE}; name the adapter's"
            )
        known = torch.tensor(ids)
        words = table[known.clamp(min=0)]
        # The mean of all words is never more probable than the best of them.
        words[known < 0] = words[known >= 0].mean(dim=0)
        return cls(words)

    def ctc_layer(self, audio: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors and the table whose products are the CTC's logits."""
        return audio.to(self.words.dtype), self.words

    def view(
        self, audio: Tensor, lengths: Tensor, ctc: AlignmentCTC, embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The LM's view of what was heard: one vector for each word.

        Windows that are almost surely without a word are left out, and neighbours that
        hear the same one are averaged (as in CTC compression, Gaido et al. 2021,
        arXiv 2102.01578). What is left is about as long as the transcript.

        Args:
            audio: (B, A, width).
            lengths: (B,) int64, vectors of each row.
            ctc: over ``words``.
            embedding: (V, lm_width), the LM's; a blank counts as zero.

        Returns:
            (B, W, lm_width), in the dtype of ``embedding``; (B,), vectors of each row.
        """
        posteriors = ctc.log_probs(audio, *self.ctc_layer(audio, embedding)).exp()
        mixture = posteriors[..., 1:].to(embedding.dtype) @ embedding
        segments, counts = _segments(posteriors, lengths)
        # One more than there are, for what is left out.
        shape = len(audio), int(counts.max()) + 1
        sums = mixture.new_zeros(*shape, mixture.shape[-1])
        sums = sums.scatter_add(1, segments[..., None].expand_as(mixture), mixture)
        windows = mixture.new_zeros(shape)
        windows = windows.scatter_add(1, segments, torch.ones_like(mixture[..., 0]))
        return (sums / windows.clamp(min=1)[..., None])[:, :-1], counts


def _segments(posteriors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Which vector a window becomes a part of.

    Args:
        posteriors: (B, A, 1 + V), blank first.
        lengths: (B,) int64.

    Returns:
        (B, A) int64, the largest count where the window is left out; and (B,) int64,
        the vectors of each row.
    """
    places = torch.arange(posteriors.shape[1], device=lengths.device)
    kept = (posteriors[..., 0] < SILENT) & (places < lengths[:, None])
    best = posteriors.argmax(dim=-1)
    again = kept[:, 1:] & kept[:, :-1] & (best[:, 1:] == best[:, :-1])
    again = again & (best[:, 1:] > 0)
    begins = kept & ~F.pad(again, (1, 0))
    counts = begins.sum(dim=1)
    segments = (begins.cumsum(dim=1) - 1).masked_fill(~kept, int(counts.max()))
    return segments, counts
