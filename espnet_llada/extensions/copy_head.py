"""A pointer to what was heard, which lifts the adapter's words to the LM's output.

An LM has to learn through all its layers that an embedding it is shown is the token it
is to write, and learns that last for rare words. Here each response position points at
one of the vectors that were heard, or at none, and the tokens of that vector become
more probable: a shorter way for what was heard, while the LM decides how far to trust
it. The logits of what was not heard stay as they are.

Source: the pointer of See et al. 2017 (arXiv 1704.04368), its mixture of probabilities
made a product, as in log-linear fusion of acoustic and language model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.core.audio_embeddings import AudioEmbeddings
from espnet_llada.core.head import OutputHead
from espnet_llada.core.prefix import Prefix
from espnet_llada.networks.lm.backbone import Backbone

FLOOR = 1e-3
"""A token heard with this probability gains log 2 times the strength."""

REACH = 8
"""Distances between vector and response position beyond that are one."""


class Pointer(nn.Module):
    """Which vector a response position points at, and how strongly.

    Args:
        width: of the LM's hidden states.
        size: of queries and keys.
    """

    def __init__(self, width: int, size: int = 64):
        super().__init__()
        self.query = nn.Linear(width, size, bias=False)
        self.key = nn.Linear(width, size, bias=False)
        self.nothing, self.strength = nn.Linear(width, 1), nn.Linear(width, 1)
        # It begins by pointing at the vector of its own number, with strength 1.
        biases = {self.nothing: -2.0, self.strength: math.log(math.e - 1)}
        for layer, bias in biases.items():
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)
        nn.init.normal_(self.query.weight, std=0.1 * width**-0.5)
        nn.init.normal_(self.key.weight, std=width**-0.5)
        self.distance = nn.Parameter(-torch.arange(-REACH, REACH + 1).abs().float())

    def forward(
        self, hidden: Tensor, audio: Tensor, heard: AudioEmbeddings, begins: int = 0
    ) -> Tensor:
        """What is added to the logits of the tokens that were heard.

        Args:
            hidden: (B, L, d), the LM's of the response.
            audio: (B, A, d), the LM's of what was heard.
            heard: of A vectors with K tokens each.
            begins: the number of the first response position.

        Returns:
            (B, L, A K) float32, at least 0, for each of ``heard.tokens``; all of a
            token that is there several times stands at the first of them.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden, audio = hidden.float(), audio.float()
            scores = self.query(hidden) @ self.key(audio).transpose(1, 2)
            response = torch.arange(hidden.shape[1], device=hidden.device) + begins
            apart = heard.places[:, None] - response[:, None]  # (B, L, A)
            apart = apart.clamp(-REACH, REACH)
            scores = scores + self.distance[apart + REACH]
            scores = scores.masked_fill(~heard.valid[:, None], float("-inf"))
            scores = torch.cat([scores, self.nothing(hidden)], dim=-1)
            pointed = scores.softmax(dim=-1)[..., :-1]  # (B, L, A)
            chances = pointed[..., None] * heard.shares[:, None].float()
            chances = chances.flatten(2)
            first = heard.first[:, None].expand_as(chances)
            chances = torch.zeros_like(chances).scatter_add(2, first, chances)
            return F.softplus(self.strength(hidden)) * (chances / FLOOR).log1p()

    def head(self, lm: Backbone, prefix: Prefix, hidden: Tensor) -> CopyHead:
        """An output layer that copies.

        Args:
            lm: the LM.
            prefix: of B rows, with audio.
            hidden: (B, P, d), the LM's of the prefix.
        """
        audio = hidden[:, prefix.begins :][:, : prefix.heard.vectors.shape[1]]
        return CopyHead(lm, self, prefix.heard, audio)


class CopyHead(OutputHead):
    """The LM's output layer, and what the pointer adds to it.

    Args:
        lm: the LM.
        pointer: where a position points.
        heard: what can be pointed at.
        audio: (B, A, d), the LM's hidden states of it.
    """

    def __init__(
        self, lm: Backbone, pointer: Pointer, heard: AudioEmbeddings, audio: Tensor
    ):
        super().__init__(lm)
        self._pointer, self._heard, self._audio = pointer, heard, audio

    def logits(self, hidden: Tensor, wanted: Tensor, begins: int = 0) -> Tensor:
        """See ``OutputHead``."""
        logits = super().logits(hidden, wanted)
        added = self._pointer(hidden, self._audio, self._heard, begins)[wanted]
        tokens = self._heard.tokens.flatten(1)[wanted.nonzero()[:, 0]]
        return logits.scatter_add(1, tokens, added.to(logits.dtype))

    def nll(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``OutputHead``."""
        nll, behind = self._lm.nll(hidden[counted], targets[counted])
        added = self._pointer(hidden, self._audio, self._heard)[counted]
        own, others = self._heard_logits(hidden, targets, counted)
        tokens = self._heard.tokens.flatten(1)[counted.nonzero()[:, 0]]
        target = tokens == targets[counted][:, None]
        gained = added.masked_fill(~target, 0.0).sum(dim=1)
        # nll is log Z - own, so this is each heard token's share of Z.
        shares = (others - (nll + own)[:, None]).exp()
        more = (shares * added.expm1()).sum(dim=1).log1p()
        rivals = (others - own[:, None] + added).masked_fill(target, 0.0)
        rivals = torch.cat([rivals, behind[:, None]], dim=1).detach()
        return nll + more - gained, gained >= rivals.amax(dim=1)

    def _heard_logits(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The LM's logits of the targets (N,) and of what was heard (N, S), fp32."""
        head = self._lm.head.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            words = head[self._heard.tokens.flatten(1)].float()  # (B, S, d)
            own = (hidden[counted] * head[targets[counted]].float()).sum(dim=1)
            return own, (hidden @ words.transpose(1, 2))[counted]

    def rows(self, chosen: Tensor) -> CopyHead:
        """See ``OutputHead``."""
        heard = self._heard.rows(chosen)
        audio = self._audio[chosen][:, : heard.vectors.shape[1]]
        return CopyHead(self._lm, self._pointer, heard, audio)
