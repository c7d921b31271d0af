"""Copy mechanism: adds the tokens of the posterior prefix to the LM's output logits.

An LM has to learn through all its layers to write the token whose embedding it is
given, and learns it last for rare words. Here each response position attends to the
audio's vectors, or to none, and the logits of the attended vectors' tokens are raised
by a strength that the LM's state decides. Other logits do not change.

Imports ``posterior_prefix.embeddings``.

Source: the pointer of See et al. 2017 (arXiv 1704.04368), its mixture of probabilities
made a product, as in log-linear fusion of acoustic and language model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.networks.backbone import Backbone, OutputHead

FLOOR = 1e-3
"""A token with this share of a vector gains log 2 times the strength."""

REACH = 8
"""Larger distances between vector and response position are clipped to it."""


class CopyMechanism(nn.Module):
    """Attention of response positions over the audio's vectors, and its strength.

    Args:
        width: width of the LM's hidden states.
        size: width of queries and keys.
    """

    stays_float = True  # see networks.quantize

    def __init__(self, width: int, size: int = 64):
        super().__init__()
        self.query = nn.Linear(width, size, bias=False)
        self.key = nn.Linear(width, size, bias=False)
        self.nothing, self.strength = nn.Linear(width, 1), nn.Linear(width, 1)
        # Initially it attends to the vector of its own index, with strength 1.
        biases = {self.nothing: -2.0, self.strength: math.log(math.e - 1)}
        for layer, bias in biases.items():
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)
        nn.init.normal_(self.query.weight, std=0.1 * width**-0.5)
        nn.init.normal_(self.key.weight, std=width**-0.5)
        self.distance = nn.Parameter(-torch.arange(-REACH, REACH + 1).abs().float())

    def forward(
        self, hidden: Tensor, states: Tensor, audio: AudioEmbeddings, begins: int = 0
    ) -> Tensor:
        """The amounts to add to the logits of the audio's tokens.

        Args:
            hidden: (B, L, d), the LM's states of the response.
            states: (B, A, d), the LM's states of the audio.
            audio: A vectors with K tokens each.
            begins: index of the first response position.

        Returns:
            (B, L, A K) float32, >= 0, for each of ``audio.tokens``; a token that occurs
            several times has its sum at the first place.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden, states = hidden.float(), states.float()
            scores = self.query(hidden) @ self.key(states).transpose(1, 2)
            response = torch.arange(hidden.shape[1], device=hidden.device) + begins
            apart = audio.places[:, None] - response[:, None]  # (B, L, A)
            apart = apart.clamp(-REACH, REACH)
            scores = scores + self.distance[apart + REACH]
            scores = scores.masked_fill(~audio.valid[:, None], float("-inf"))
            scores = torch.cat([scores, self.nothing(hidden)], dim=-1)
            pointed = scores.softmax(dim=-1)[..., :-1]  # (B, L, A)
            chances = pointed[..., None] * audio.shares[:, None].float()
            chances = chances.flatten(2)
            first = audio.first[:, None].expand_as(chances)
            chances = torch.zeros_like(chances).scatter_add(2, first, chances)
            return F.softplus(self.strength(hidden)) * (chances / FLOOR).log1p()


class CopyHead(OutputHead):
    """The LM's output layer with the copy mechanism.

    Args:
        lm: the LM.
        copy: the copy mechanism.
        audio: the vectors to copy from.
        begins: index of its first vector in the prefix.
        states: (B, A, d), the LM's hidden states of it, once computed.
    """

    def __init__(
        self,
        lm: Backbone,
        copy: CopyMechanism,
        audio: AudioEmbeddings,
        begins: int,
        states: Tensor | None = None,
    ):
        super().__init__(lm)
        self._copy, self._audio = copy, audio
        self._begins, self._states = begins, states

    def given(self, hidden: Tensor) -> CopyHead:
        """See ``OutputHead``."""
        width = self._audio.vectors.shape[1]
        states = hidden[:, self._begins :][:, :width]
        return CopyHead(self._lm, self._copy, self._audio, self._begins, states)

    def rows(self, chosen: Tensor) -> CopyHead:
        """See ``OutputHead``."""
        audio, states = self._audio.rows(chosen), self._states
        if states is not None:
            states = states[chosen][:, : audio.vectors.shape[1]]
        return CopyHead(self._lm, self._copy, audio, self._begins, states)

    def logits(self, hidden: Tensor, wanted: Tensor, begins: int = 0) -> Tensor:
        """See ``OutputHead``."""
        logits = super().logits(hidden, wanted)
        added = self._copy(hidden, self._states, self._audio, begins)[wanted]
        tokens = self._audio.tokens.flatten(1)[wanted.nonzero()[:, 0]]
        return logits.scatter_add(1, tokens, added.to(logits.dtype))

    def nll(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``OutputHead``."""
        nll, behind = self._lm.nll(hidden[counted], targets[counted])
        added = self._copy(hidden, self._states, self._audio)[counted]
        own, others = self._audio_logits(hidden, targets, counted)
        tokens = self._audio.tokens.flatten(1)[counted.nonzero()[:, 0]]
        target = tokens == targets[counted][:, None]
        gained = added.masked_fill(~target, 0.0).sum(dim=1)
        # nll is log Z - own, so this is each of these tokens' share of Z.
        shares = (others - (nll + own)[:, None]).exp()
        more = (shares * added.expm1()).sum(dim=1).log1p()
        rivals = (others - own[:, None] + added).masked_fill(target, 0.0)
        rivals = torch.cat([rivals, behind[:, None]], dim=1).detach()
        return nll + more - gained, gained >= rivals.amax(dim=1)

    def _audio_logits(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The LM's logits of the targets (N,) and of the audio's (N, S), fp32."""
        head = self._lm.head.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            words = head[self._audio.tokens.flatten(1)].float()  # (B, S, d)
            own = (hidden[counted] * head[targets[counted]].float()).sum(dim=1)
            return own, (hidden @ words.transpose(1, 2))[counted]
