"""The LM: one Llama network, read causally (LLaMA) or in both directions (LLaDA).

LLaDA-8B is a Llama without the causal mask, so one ``Llama`` carries both; what differs
is the attention mask that we hand it, and the tensor names of the checkpoint
(``espnet_llada.networks.llama_files``).
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from espnet_llada.networks.frozen import Pretrained, Scores
from espnet_llada.networks.llama import Llama, run_layer
from espnet_llada.networks.llama_files import load_llama
from espnet_llada.types import UserError

if TYPE_CHECKING:
    from espnet_llada.networks.cache import KVCache

ATTENTION = ("causal", "bidirectional")
_ALIGNED = 16


class Backbone(Pretrained):
    """A Llama body with its output head.

    Args:
        body: everything but the head.
        head: (V, d) weight of the output head; the embedding itself where tied.
        attention: ``causal`` or ``bidirectional``.
        mask_id: id of the mask token; at ``vocab_size`` a trained embedding of ours
            stands in for it, for a Llama that has none.
    """

    scored = ("head",)  # see networks.quantize

    def __init__(self, body: Llama, head: nn.Parameter, attention: str, mask_id: int):
        super().__init__()
        if attention not in ATTENTION:
            raise UserError(
                f"attention: {attention!r}; allowed: {', '.join(ATTENTION)}"
            )
        self.body, self.head, self.attention = body, head, attention
        self.mask_id, self.scores = mask_id, Scores()
        self.requires_grad_(False)
        self.mask_embedding = None
        if attention == "bidirectional" and mask_id == self.vocab_size:
            mean = self.embedding.weight.float().mean(dim=0)
            self.mask_embedding = nn.Parameter(mean)

    @classmethod
    def from_pretrained(
        cls,
        path: Path,
        attention: str,
        mask_id: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Backbone:
        """Read a directory in Hugging Face's Llama layout or in LLaDA's.

        Args:
            path: directory with config.json and safetensors.
            attention: see the class.
            mask_id: by default what config.json says, or one past the vocabulary.
            dtype: of the weights.

        Raises:
            UserError: files or tensors are missing, unexpected or of another shape.
        """
        body, head, config_mask_id = load_llama(path, dtype)
        known = (mask_id, config_mask_id, body.config.vocab_size)
        mask_id = next(i for i in known if i is not None)
        if mask_id > body.config.vocab_size:
            raise UserError(
                f"{path}: mask token {mask_id} of {body.config.vocab_size} tokens; "
                "fetch its config.json and tokenizer again"
            )
        return cls(body, head, attention, mask_id)

    def train_layers(self) -> None:
        """Train all layers and the final norm; embedding and head stay frozen."""
        self.body.layers.requires_grad_(True)
        self.body.norm.requires_grad_(True)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have training run the layers by torch.compile, for batches of any shape."""
        from espnet_llada.networks.compiling import for_any_shape

        self.body.run = for_any_shape(run_layer, backend)

    @property
    def embedding(self) -> nn.Embedding:
        return self.body.embed_tokens

    @property
    def vocab_size(self) -> int:
        return self.body.config.vocab_size

    @property
    def width(self) -> int:
        """Embedding dimension d."""
        return self.body.config.hidden_size

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64 -> (B, L, d); the mask id as described in the class."""
        if self.mask_embedding is None:
            return self.embedding(tokens)
        masked = tokens == self.mask_id
        embedded = self.embedding(tokens.masked_fill(masked, 0))
        vector = self.mask_embedding.to(embedded.dtype)
        return torch.where(masked[..., None], vector, embedded)

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, K, d) and (B, L, d) -> (B, K + L, d), in the dtype of ``first``."""
        with self.own_precision():  # autocast to fp16 refuses to join bf16 tensors
            return torch.cat([first, second.to(first.dtype)], dim=1)

    def forward(
        self,
        embeds: Tensor,
        valid: Tensor,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        blind: int = 0,
    ) -> Tensor:
        """Hidden states (B, Q, d) of the ``Q`` newest positions.

        Padding cannot leak: no position attends to an invalid one.

        Args:
            embeds: (B, Q, d).
            valid: (B, K) bool for all positions, those in the cache first; K >= Q.
            cache: of the K - Q earlier positions, or None.
            positions: (B, Q) int64, the numbers that the rotary embedding sees; by
                default ``counted(valid)``, so a row is computed as if it were alone.
            blind: so many positions, the first ones, see one another only.
        """
        queries = embeds.shape[1]
        if positions is None:
            positions = counted(valid)[:, -queries:]
        mixed = self.training and torch.is_autocast_enabled(embeds.device.type)
        casts = nullcontext()
        if mixed:
            from espnet_llada.networks.lora import casts_by_autocast

            casts = casts_by_autocast(self._updated)
        with self.own_precision(), casts:
            mask = self._additive_mask(valid, queries, embeds.dtype, blind)
            return self.body(embeds, mask, positions, cache)

    @cached_property
    def _updated(self) -> list[nn.Module]:
        """Found once: to walk through the modules of an 8B LM takes 1 ms."""
        from espnet_llada.networks.lora import updated_layers

        return updated_layers(self.body)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d) -> (…, V)."""
        with self.own_precision():
            return self.scores(hidden, self.head.to(hidden.dtype))

    def nll(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``head_nll`` of hidden states (N, d); see there."""
        from espnet_llada.networks.head import head_nll

        kind = hidden.device.type
        with self.own_precision():
            if torch.is_autocast_enabled(kind):
                hidden = hidden.to(torch.get_autocast_dtype(kind))
            return head_nll(hidden, self.head, targets)

    def attend(self, kernel: str) -> None:
        """Choose the attention kernel, see ``Llama``."""
        self.body.kernel = kernel

    def _additive_mask(
        self, valid: Tensor, queries: int, dtype: torch.dtype, blind: int
    ) -> Tensor:
        """(B, 1, Q or 1, K): 0 where a query may look, the lowest number elsewhere."""
        allowed = valid[:, None, None, :]
        keys = torch.arange(valid.shape[1], device=valid.device)
        asking = keys[-queries:, None]
        if self.attention == "causal":
            allowed = allowed & (keys <= asking)
        elif blind:
            allowed = allowed & ((keys < blind) | (asking >= blind))
        return additive_mask(allowed, dtype)


class OutputHead:
    """From hidden states to tokens: the LM's output layer.

    What stands in for it has the same methods.

    Args:
        lm: the LM.
    """

    def __init__(self, lm: Backbone):
        self._lm = lm

    def rows(self, chosen: Tensor) -> OutputHead:
        """Of some rows, (N,) int64, or of some of them several times."""
        return self

    def given(self, hidden: Tensor) -> OutputHead:
        """The same, now that the LM's hidden states (B, P, d) of the prefix are known.

        Nothing else may be asked of a head before.
        """
        return self

    def logits(self, hidden: Tensor, wanted: Tensor, begins: int = 0) -> Tensor:
        """Logits (N, V) of the N wanted positions.

        Args:
            hidden: (B, L, d).
            wanted: (B, L) bool.
            begins: the number of the first of the L response positions.
        """
        return self._lm.logits(hidden[wanted])

    def all_logits(self, hidden: Tensor) -> Tensor:
        """(B, L, V) of hidden states (B, L, d)."""
        everywhere = torch.ones_like(hidden[..., 0], dtype=torch.bool)
        return self.logits(hidden, everywhere).unflatten(0, hidden.shape[:2])

    def nll(
        self, hidden: Tensor, targets: Tensor, counted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-log p(target) (N,) of the N counted positions; whether it is the best."""
        nll, behind = self._lm.nll(hidden[counted], targets[counted])
        return nll, behind <= 0


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """(…, K) bool -> (…, K): 0 where it is allowed, the lowest number elsewhere.

    Rows begin at multiples of ``_ALIGNED`` numbers: a mask whose rows do not is copied
    into one by torch's attention on a GPU, in each layer anew.
    """
    *shape, keys = allowed.shape
    width = -(-keys // _ALIGNED) * _ALIGNED
    mask = torch.zeros(*shape, width, dtype=dtype, device=allowed.device)[..., :keys]
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def counted(valid: Tensor) -> Tensor:
    """Position ids (B, K) int64: the valid positions are counted from 0."""
    return (valid.long().cumsum(dim=1) - 1).clamp(min=0)
