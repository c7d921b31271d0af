"""Posterior-weighted embeddings: audio as a mixture of the LM's own embeddings.

If the adapter is initialised from Whisper's decoder and the LM has Whisper's tokens,
the product of a vector and Whisper's token embeddings gives posteriors over the LM's
tokens. The LM's input is the mean of its own embeddings under them: an utterance looks
like an uncertain transcript of itself, which the LM can copy without any training.

Imports ``extensions.ctc``.

Source: LegoSLM (arXiv 2505.11352), which mixes an LM's embeddings by the posteriors of
a CTC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.extensions.ctc import Windows
from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.io import weights
from espnet_llada.io.files import read_json
from espnet_llada.io.schema import LARGEST
from espnet_llada.networks.frozen import Pretrained
from espnet_llada.networks.whisper_file import open_whisper
from espnet_llada.types import UserError

TOKENS_FILE = "whisper_tokens.json"
"""In an LM's directory: Whisper's id of each of its tokens, -1 where there is none."""

_Ids = Annotated[list[Annotated[int, Meta(ge=-1, le=LARGEST)]], Meta(min_length=1)]

SILENT = 0.9
"""A window whose blank is more probable than that is left out."""

LIKELIEST = 8
"""Tokens per vector that ``AudioEmbeddings`` lists."""


class PosteriorEmbeddings(Pretrained):
    """Posteriors over the LM's tokens -> a mixture of its embeddings; never trained.

    Args:
        table: (V, width), Whisper's embedding of each of the LM's tokens.
    """

    scored = ("table",)  # see networks.quantize

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)

    @classmethod
    def from_pretrained(cls, width: int, whisper: str, lm: Path) -> PosteriorEmbeddings:
        """Read the tokens that an LM shares with a Whisper.

        Args:
            width: of the adapter's vectors.
            whisper: name or path of the weights, those of the adapter.
            lm: the LM's directory.

        Raises:
            UserError: the LM has not got Whisper's tokens, or of another width.
        """
        if not (lm / TOKENS_FILE).exists():
            raise UserError(
                f"{lm}/{TOKENS_FILE}: not there; posterior_prefix needs an LM with "
                "Whisper's tokens, as local/make_lm.py makes it"
            )
        ids = read_json(lm / TOKENS_FILE, _Ids)
        file = open_whisper(weights.resolve(whisper, "whisper").path, "decoder")
        table = file.tensors[file.rename("token_embedding.weight")].read(torch.float32)
        if table.shape[1] != width or not 0 <= max(ids) < len(table):
            raise UserError(
                f"{whisper}: its token embeddings {tuple(table.shape)} do not fit "
                f"vectors of width {width} and {lm}/{TOKENS_FILE}; name the adapter's"
            )
        known = torch.tensor(ids)
        words = table[known.clamp(min=0)]
        # The mean of all embeddings is never more probable than the best of them.
        words[known < 0] = words[known >= 0].mean(dim=0)
        return cls(words)

    def view(self, windows: Windows, embedding: Tensor) -> AudioEmbeddings:
        """The LM inputs of the audio: one vector for each token.

        CTC compression (Gaido et al. 2021, arXiv 2102.01578): windows with a blank
        above ``SILENT`` are dropped, and neighbours with the same token are averaged,
        so the result is about as long as the transcript.

        Args:
            windows: of the CTC over ``table``, silent from ``SILENT`` on.
            embedding: (V, lm_width), the LM's; a blank counts as zero.

        Returns:
            Vectors (B, W, lm_width), in the dtype of ``embedding``, and their tokens.
        """
        segments, counts = _segments(windows)
        shape = len(counts), int(counts.max())
        sizes = segments.new_zeros(shape).flatten()
        sizes = sizes.index_add(0, segments, torch.ones_like(segments))
        sums = windows.log_probs.new_zeros(len(sizes), windows.log_probs.shape[-1])
        sums = sums.index_add(0, segments, windows.log_probs.exp())
        words = (sums / sizes.clamp(min=1)[:, None])[:, 1:]
        return mixtures(words.unflatten(0, shape), counts, embedding)


def mixtures(
    words: Tensor, counts: Tensor, embedding: Tensor, places: Tensor | None = None
) -> AudioEmbeddings:
    """Mixtures of LM embeddings under distributions over its tokens.

    Args:
        words: (B, W, V), the share of each token.
        counts: (B,) int64, how many each row has.
        embedding: (V, lm_width), the LM's.
        places: see ``AudioEmbeddings``.
    """
    vectors = words.to(embedding.dtype) @ embedding
    shares, tokens = words.topk(min(LIKELIEST, words.shape[2]), dim=2)
    return AudioEmbeddings(vectors, counts, tokens, shares, places=places)


def _segments(windows: Windows) -> tuple[Tensor, Tensor]:
    """The vector that each window becomes a part of.

    Returns:
        (S,) int64, the vector of each window that speaks, counted through all rows with
        the padding of the shorter ones; and (B,) int64, the vectors of each row.
    """
    kept, best = windows.speaking, windows.best
    again = kept[:, 1:] & kept[:, :-1] & (best[:, 1:] == best[:, :-1])
    again = again & (best[:, 1:] > 0)
    begins = kept & ~F.pad(again, (1, 0))
    counts = begins.sum(dim=1)
    rows = torch.arange(len(counts), device=counts.device)[:, None]
    segments = begins.cumsum(dim=1) - 1 + rows * counts.max()
    return segments[kept], counts
