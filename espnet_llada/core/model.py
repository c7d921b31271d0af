"""Whisper-LLaDA, and Whisper-LLaMA: encoder, Q-Former, and an LM behind a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.objective import (
    Objective,
    Targets,
    causal_loss,
    diffusion_loss,
    noisy_canvas,
)
from espnet_llada.core.prefix import AudioPrefix, Prefix, Prompt
from espnet_llada.networks.backbone import Backbone, OutputHead
from espnet_llada.networks.rows import Loss
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.types import SpecialTokens


class LMDecoder(nn.Module):
    """An LM that denoises (LLaDA) or continues (LLaMA) what follows prompt and audio.

    Args:
        lm: bidirectional attention for LLaDA, causal for LLaMA.
        audio_prefix: maps the adapter's vectors to LM inputs before the response.
        tokenizer: of the LM.
        prompt_ids: token ids of the instruction before the audio.
        objective: training objective of masked diffusion.
        prefix_attends: False masks the response from prompt and audio, so that
            decoding can compute these once.
        passes: factory of the sampler's ``LogitsFn``; default: ``Passes``.
        compiles: torch.compile the layers in training.
    """

    def __init__(
        self,
        lm: Backbone,
        audio_prefix: AudioPrefix,
        tokenizer: LMTokenizer,
        prompt_ids: Sequence[int],
        objective: Objective | None = None,
        prefix_attends: bool = True,
        passes: MakePasses | None = None,
        compiles: bool = False,
    ):
        super().__init__()
        self.audio_prefix, self.lm = audio_prefix, lm
        self.tokenizer, self.prompt_ids = tokenizer, list(prompt_ids)
        self.special = SpecialTokens(lm.mask_id, tokenizer.eos_id)
        self.objective = objective or Objective()
        self.prefix_attends, self.passes = prefix_attends, passes or Passes
        self.compiles = compiles

    @property
    def diffuses(self) -> bool:
        """True for LLaDA, False for LLaMA."""
        return self.lm.attention == "bidirectional"

    @property
    def prompt(self) -> Prompt:
        """The instruction before the audio, with the LM that embeds it."""
        return Prompt(self.lm, self.prompt_ids, self.special)

    def prefix(self, audio: Tensor, lengths: Tensor, transcripts: Any = None) -> Prefix:
        """Prompt and audio of a batch; see ``AudioPrefix.forward``."""
        return self.audio_prefix(self.prompt, audio, lengths, transcripts)

    def hidden(
        self, prefix: Prefix, tokens: Tensor, lengths: Tensor, cache: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, P, d) of prefix and (B, L, d) of response, one LLM pass.

        Row r has ``lengths[r]`` of the ``tokens`` (B, L). An empty cache is filled.
        """
        embeds = self.lm.join(prefix.embeds, self.lm.embed(tokens))
        valid, behind = response_places(prefix, tokens, lengths)
        positions = torch.cat([prefix.positions, behind], dim=1)
        length = prefix.valid.shape[1]
        blind = 0 if self.prefix_attends else length
        hidden = self.lm(embeds, valid, cache, positions, blind)
        return hidden[:, :length], hidden[:, length:]

    def canvas_logits(self, prefix: Prefix, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, L, V) of all positions of a canvas; see ``hidden``."""
        first, hidden = self.hidden(prefix, tokens, lengths)
        return prefix.head.given(first).all_logits(hidden)

    def next_token_hidden(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> tuple[OutputHead, Tensor]:
        """Output head, and (B, T + 1, d): state i predicts token i, the last EOS."""
        first, rest = self.hidden(prefix, text.clamp(min=0), lengths)
        last = last_valid(first, prefix.valid)
        return prefix.head.given(first), self.lm.join(last[:, None], rest)

    def training_loss(
        self,
        audio: Tensor | None,
        lengths: Tensor | None,
        targets: Targets,
        seeds: Sequence[int] | None = None,
        longest: int = 0,
    ) -> Loss:
        """Loss of a batch.

        Args:
            audio, lengths: (B, A, width) vectors of the adapter and (B,) their counts;
                None trains on text alone.
            targets: the transcripts.
            seeds: random seed of each row's masks; by default ``row_seeds``.
            longest: see ``noisy_canvas``.
        """
        seeds = self.row_seeds(len(targets.text)) if seeds is None else seeds
        spoken = audio, lengths, targets
        step = self.audio_prefix.training_step(self.prompt, *spoken, seeds)
        if step.prefix is None:
            return Loss.without_lm(step.extra)
        loss = self.loss(step.prefix, step.targets, seeds, longest)
        return loss if step.extra is None else loss.plus(step.extra)

    def loss(
        self, prefix: Prefix, targets: Targets, seeds: Sequence[int], longest: int = 0
    ) -> Loss:
        """The LM's part of ``training_loss``."""
        if not self.diffuses:
            text, lengths, eos = targets.text, targets.lengths, self.special.eos
            given = text if targets.given is None else targets.given
            head, hidden = self.next_token_hidden(prefix, given, lengths)
            return causal_loss(hidden, text, lengths, eos, head.nll)
        given = self.special, self.objective, [int(seed) for seed in seeds], longest
        canvas = noisy_canvas(targets, *given)
        first, hidden = self.hidden(prefix, canvas.tokens, canvas.lengths)
        nll = prefix.head.given(first).nll
        return diffusion_loss(hidden, canvas, self.objective.loss, nll)

    def row_seeds(self, rows: int) -> list[int]:
        """Random seeds in training; the row numbers in evaluation."""
        drawn = torch.randint(2**62, (rows,)) if self.training else torch.arange(rows)
        return drawn.tolist()

    def merge_lora(self) -> None:
        """Merge LoRA, if any, into the LM; see ``networks.lora.merge_lora``."""
        if any("lora_" in name for name, _ in self.lm.named_parameters()):
            from espnet_llada.networks.lora import merge_lora

            merge_lora(self.lm.body)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of transcripts, in the LM's text case, without EOS."""
        return [self.tokenizer.encode(text) for text in texts]


class Passes:
    """A ``LogitsFn``: the logits of ``LMDecoder.canvas_logits``.

    Rows without a wanted position are skipped, and the output head runs on the wanted
    positions only.

    Args:
        decoder: the LM.
        prefix: prompt and audio of B rows.
        lengths: (B,) int64, canvas positions of each row.
    """

    def __init__(self, decoder: LMDecoder, prefix: Prefix, lengths: Tensor):
        self.decoder, self.lengths, self.every_row = decoder, lengths, prefix
        self.held: list[int] = []  # rows of ``prefix``
        self.prefix: Prefix | None = None

    def __call__(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """One pass: see ``LogitsFn``."""
        asked, lm = wanted.any(dim=1).tolist(), self.decoder.lm
        rows = [row for row, any_of_it in enumerate(asked) if any_of_it]
        if not rows:
            return lm.logits(lm.embedding.weight[:0])
        if len(rows) < len(tokens):
            tokens, wanted = tokens[rows], wanted[rows]
        head, hidden, wanted = self.run(rows, tokens, wanted)
        return head.logits(hidden, wanted)

    def run(
        self, rows: list[int], tokens: Tensor, wanted: Tensor
    ) -> tuple[OutputHead, Tensor, Tensor]:
        """Run the LM over rows (R, L): output head, hidden states, wanted positions."""
        lengths = self.lengths[rows]
        width = int(lengths.max())
        prefix = self.shown(rows)
        first, hidden = self.decoder.hidden(prefix, tokens[:, :width], lengths)
        return prefix.head.given(first), hidden, wanted[:, :width]

    def shown(self, rows: list[int]) -> Prefix:
        """The prefix of some rows; only rows that were asked for are copied."""
        if not set(rows) <= set(self.held):
            self.held = sorted({*self.held, *rows})
            self.prefix = self.every_row.rows(self.held)
        return self.prefix.rows([self.held.index(row) for row in rows])


MakePasses = Callable[[LMDecoder, Prefix, Tensor], LogitsFn]


def response_places(
    prefix: Prefix, tokens: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, P + L) bool, valid positions; (B, L), position ids of the response."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
    return valid, prefix.start[:, None] + places


def last_valid(hidden: Tensor, valid: Tensor) -> Tensor:
    """The last valid position of each row: (B, P, d), (B, P) -> (B, d)."""
    places = torch.arange(valid.shape[1], device=valid.device)
    last = (valid * places).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


class WhisperLLM(nn.Module):
    """Whisper-LLaDA or Whisper-LLaMA without ESPnet.

    Submodules have the same names as in ESPnet's model, so that checkpoints fit both.

    Args:
        encoder: waveforms to frames: Whisper's, frozen.
        postencoder: frames to vectors: the window Q-Former.
        decoder: the LM.
    """

    def __init__(self, encoder: Any, postencoder: Any, decoder: LMDecoder):
        super().__init__()
        self.encoder, self.postencoder, self.decoder = encoder, postencoder, decoder

    def encode(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, T) and samples (B,) -> (B, A, hidden), vectors (B,)."""
        return self.postencoder(*self.encoder(speech, lengths))
