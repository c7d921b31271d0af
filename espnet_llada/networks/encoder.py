"""The frozen Whisper encoder: waveforms in, one frame for each 20 ms out.

Source: ``AudioEncoder`` and ``ResidualAttentionBlock`` in openai/whisper
``whisper/model.py``, whose parameter names are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_llada.io.weights import Weights
from espnet_llada.networks.features import HOP_LENGTH, log_mel
from espnet_llada.networks.frozen import Pretrained
from espnet_llada.networks.whisper_file import WhisperConfig, open_whisper
from espnet_llada.types import SAMPLE_RATE, UserError

SAMPLES_PER_FRAME = 2 * HOP_LENGTH  # the second convolution has stride 2
PAD_MULTIPLE = SAMPLE_RATE
"""Samples; rows are padded to a multiple of it. A feature cache's identity has it."""
CPU_BATCH = 16 * SAMPLE_RATE
"""Samples that a CPU encodes together: more of them leave its caches."""


Projected = tuple[Tensor, Tensor]
"""Keys and values, (B, H, K, D) each."""


class Attention(nn.Module):
    """Multi-head self-attention of (B, L, d_model)."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        if x.shape[1] == 1:  # the weight of one position is 1, whatever query and key
            return self.out(self.value(x))
        q, k, v = (self._heads(p(x)) for p in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def behind(
        self, x: Tensor, past: Projected, seen: Tensor
    ) -> tuple[Tensor, Projected]:
        """Attention of new positions, with the cached keys and values of earlier ones.

        Args:
            x: (B, L, d_model).
            past: of P positions.
            seen: (B, 1, L, P + L) bool, what each position attends to.

        Returns:
            (B, L, d_model), and the keys and values of ``x``.
        """
        own = self._heads(self.key(x)), self._heads(self.value(x))
        k, v = (torch.cat(pair, dim=2) for pair in zip(past, own, strict=True))
        query = self._heads(self.query(x))
        mixed = F.scaled_dot_product_attention(query, k, v, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).flatten(2)), own

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, d_model) -> (B, H, L, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """A layer; one of the decoder has cross-attention as well."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.attn_ln = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.ffn), nn.GELU(), nn.Linear(config.ffn, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class WhisperEncoder(Pretrained):
    """Whisper's encoder with its log-mel front end; never trained.

    Args:
        config: sizes.
        pad_seconds: every row is padded with silence to at least this, and to the
            next whole second; Whisper was trained at 30. With 0 the encoder costs
            less, and rows of similar length still run together.
        keep_padding: return the frames of the padding as well (the paper's release:
            1500 frames whatever the duration) instead of a row's own frames.

    Attributes:
        d_model: width of a frame.
        max_samples: the longest row that fits, 30 s for every published Whisper.
        run: how a layer is run in training: ``run_block``, or that by torch.compile.

    Raises:
        UserError: a duration that is no multiple of 0.02 s or does not fit the
            position table.
    """

    def __init__(
        self,
        config: WhisperConfig,
        pad_seconds: float = 30.0,
        keep_padding: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.keep_padding = keep_padding
        self.padding = {
            "pad_seconds": float(pad_seconds),
            "keep_padding": keep_padding,
            "pad_multiple_seconds": PAD_MULTIPLE / SAMPLE_RATE,
        }
        self.d_model = width = config.d_model
        self.max_samples = config.max_frames * SAMPLES_PER_FRAME
        self._pad = self._pad_samples(pad_seconds)
        self.conv1 = nn.Conv1d(config.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positional_embedding = nn.Parameter(torch.zeros(config.max_frames, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_post = nn.LayerNorm(width)
        self.run, self._in_training = run_block, False
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        pad_seconds: float = 30.0,
        keep_padding: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> WhisperEncoder:
        """Load the encoder's weights, and nothing else of the model.

        Args:
            path: an openai-whisper ``.pt``, or a Hugging Face directory with
                ``config.json`` and ``model.safetensors`` (or its sharded index).
            pad_seconds, keep_padding: see the class.
            dtype: of the weights and of the frames returned.

        Raises:
            UserError: no such weights, or an encoder tensor is missing, unexpected
                or of another shape.
        """
        file = open_whisper(Path(path))
        with torch.device("meta"):
            encoder = cls(file.config, pad_seconds, keep_padding)
        shapes = {name: v.shape for name, v in encoder.state_dict().items()}
        encoder.load_state_dict(file.read(shapes, dtype), assign=True)
        return encoder

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the frames."""
        return self.positional_embedding.dtype

    def identity(self, weights: Weights) -> dict[str, Any]:
        """What its frames depend on: weights, dtype and padding."""
        return {
            "whisper": weights.name,
            "sha256": weights.sha256,
            "dtype": str(self.dtype).removeprefix("torch."),
            "d_model": self.d_model,
            **self.padding,
        }

    def train(self, mode: bool = True) -> WhisperEncoder:
        """Stay in eval mode, whatever the model around this one does."""
        self._in_training = mode
        return super().train(False)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have training run the layers by torch.compile, for batches of any shape.

        In bf16 the frames then differ by rounding: fewer of its steps are stored.
        """
        from espnet_llada.networks.compiling import for_any_shape

        self.run = for_any_shape(run_block, backend)

    @torch.no_grad()
    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of waveforms.

        A row's frames do not depend on the rest of the batch, and no attention mask
        is needed: each row is padded to a length that follows from its own alone, and
        rows of equal padded length run together.

        Args:
            speech: samples of shape (B, T) at 16 kHz; what lies beyond a row's
                length is ignored.
            lengths: samples of each row, shape (B,), int64.

        Returns:
            Frames of shape (B, F, d_model), zeros beyond a row's own, and the
            number of frames of each row, shape (B,), int64: ceil(samples / 320), or
            those of the padded row with ``keep_padding``.

        Raises:
            UserError: a row is empty or longer than the position table (30 s).
        """
        samples = lengths.tolist()
        self._check_lengths(samples)
        padded = [self.padded_samples(n) for n in samples]
        covered = padded if self.keep_padding else samples
        counts = [-(-n // SAMPLES_PER_FRAME) for n in covered]
        frames = torch.zeros(
            (len(samples), max(counts, default=0), self.d_model),
            dtype=self.dtype,
            device=speech.device,
        )
        for size, rows in _groups(padded, speech.device):
            group = speech.new_zeros((len(rows), size), dtype=torch.float32)
            for i, row in enumerate(rows):
                group[i, : samples[row]] = speech[row, : samples[row]]
            # Not under autocast: frames are those of the weights' own dtype, so that
            # they are the same in training, in decoding and in a feature cache.
            with torch.autocast(speech.device.type, enabled=False):
                encoded = self._encode(log_mel(group, self.config.n_mels))
            for i, row in enumerate(rows):
                frames[row, : counts[row]] = encoded[i, : counts[row]]
        return frames, torch.tensor(counts, dtype=torch.int64, device=lengths.device)

    def _encode(self, mel: Tensor) -> Tensor:
        """(B, n_mels, 2F) to (B, F, d_model)."""
        x = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        run = self.run if self._in_training else run_block
        for block in self.blocks:
            x = run(block, x)
        return self.ln_post(x)

    def padded_samples(self, samples: int) -> int:
        """Samples that a row of ``samples`` is padded to."""
        multiple = -(-samples // PAD_MULTIPLE) * PAD_MULTIPLE
        return min(max(self._pad, multiple), self.max_samples)

    def _check_lengths(self, samples: list[int]) -> None:
        for row, n in enumerate(samples):
            if n < 1:
                raise UserError(f"row {row} of the batch holds no samples; remove it")
            if n > self.max_samples:
                raise UserError(
                    f"row {row} of the batch is {n / SAMPLE_RATE:.2f} s long, the "
                    f"encoder takes {self.max_samples / SAMPLE_RATE:g} s; cut it first"
                )

    def _pad_samples(self, seconds: float) -> int:
        samples = round(seconds * SAMPLE_RATE)
        if samples % SAMPLES_PER_FRAME or not 0 <= samples <= self.max_samples:
            raise UserError(
                f"pad_seconds: {seconds!r} does not fit; allowed: multiples of 0.02 "
                f"from 0 to {self.max_samples / SAMPLE_RATE:g}"
            )
        return samples


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """Run a layer; a function, so that torch.compile shares its code among layers."""
    return block(x)


def _groups(
    padded: Sequence[int], device: torch.device
) -> Iterator[tuple[int, list[int]]]:
    """Groups of rows with one padded length: the length and the rows."""
    for size in sorted(set(padded)):
        rows = [row for row, n in enumerate(padded) if n == size]
        step = max(1, CPU_BATCH // size) if device.type == "cpu" else len(rows)
        for start in range(0, len(rows), step):
            yield size, rows[start : start + step]
