"""The decoder: audio embeddings in front of an LM that denoises or continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada import weights
from espnet_llada.adapter.ctc import AlignmentCTC, best_path
from espnet_llada.adapter.heard import Heard
from espnet_llada.adapter.projection import LinearProjection
from espnet_llada.adapter.words import WordProjection
from espnet_llada.lm.backbone import Backbone
from espnet_llada.lm.lora import LoraOptions, add_lora, merge_lora
from espnet_llada.lm.tokenizer import LMTokenizer
from espnet_llada.objective import (
    LOSSES,
    Loss,
    causal_loss,
    diffusion_loss,
    noisy_canvas,
)
from espnet_llada.pointer import Head, Pointer
from espnet_llada.prefix import AUDIO_POSITIONS, Prefix, join
from espnet_llada.rough import rough_audio, sprinkled
from espnet_llada.types import SpecialTokens, UserError

PROJECTIONS = ("linear", "words")


class LMDecoder(nn.Module):
    """Projection, prompt and LM; the same class for Whisper-LLaDA and Whisper-LLaMA.

    Args:
        encoder_output_size: width of the audio vectors.
        attention: ``bidirectional`` (LLaDA, masked diffusion) or ``causal`` (LLaMA).
        lm: name or directory of the LM (see ``espnet_llada.weights``).
        num_layers: of the LM, counted from its input; all by default.
        lora: fields of ``LoraOptions``; None trains no LoRA.
        train_lm: train the LM's layers themselves, for a small LM; its embedding and
            head stay frozen.
        prompt: the instruction before the audio.
        chat_template: wrap the prompt in the LM's chat template.
        text_case: ``lower``, ``upper`` or ``keep``, see ``LMTokenizer``.
        loss: one of ``objective.LOSSES``; read by masked diffusion only.
        canvas_slack: see ``objective.noisy_canvas``; masked diffusion only.
        dtype: of the frozen LM: ``float32``, ``bfloat16``.
        ctc: fields of ``AlignmentCTC``, a loss beside the LM's; None for none. With a
            weight of 0 it is not trained.
        projection: ``linear``, as in the paper, or ``words`` (``WordProjection``), for
            ``postencoder: whisper_qformer`` and an LM with Whisper's tokens; it needs
            ``ctc``.
        whisper: whose words those are; the adapter's.
        audio_positions: ``before`` the response, as in the paper, or ``beside`` it, for
            ``projection: words``; see ``prefix.join``.
        prefix_blind: prompt and audio do not see the response, so decoding runs them
            once, not in every pass. A causal LM is blind in any case.
        pointer: let response positions point at what was heard (``Pointer``); for
            ``projection: words``.
        text_as_audio: where a training has no speech, let the LM hear its text
            (``rough_audio``); otherwise it sees none.
        text_random: with that, share of the text's tokens that are replaced by any
            others in training, so that the LM learns to copy what it would not guess.

    Raises:
        UserError: a value that does not fit, or options that exclude one another.
    """

    def __init__(
        self,
        encoder_output_size: int,
        attention: str,
        lm: str = "smollm2-135m",
        num_layers: int | None = None,
        lora: Mapping[str, Any] | None = None,
        train_lm: bool = False,
        prompt: str = "Transcribe the audio:",
        chat_template: bool = True,
        text_case: str = "lower",
        loss: str = "llada",
        canvas_slack: int = 32,
        dtype: str = "float32",
        ctc: Mapping[str, Any] | None = None,
        projection: str = "linear",
        whisper: str = "whisper-tiny.en",
        audio_positions: str = "before",
        prefix_blind: bool = False,
        pointer: bool = False,
        text_as_audio: bool = False,
        text_random: float = 0.0,
    ):
        super().__init__()
        _check("projection", projection, PROJECTIONS)
        _check("audio_positions", audio_positions, AUDIO_POSITIONS)
        _check("loss", loss, LOSSES)
        _check("dtype", dtype, ("float32", "bfloat16"))
        if projection == "words" and ctc is None:
            raise UserError("projection: words needs ctc; give it a weight")
        self.loss_name, self.canvas_slack = loss, canvas_slack
        self.prefix_blind, self.text_random = prefix_blind, text_random
        self.text_as_audio, self.audio_positions = text_as_audio, audio_positions
        self.weights = weights.resolve(lm, "lm")
        self.tokenizer = LMTokenizer(self.weights.path, text_case)
        self.lm = Backbone.from_pretrained(
            self.weights.path,
            attention,
            self.tokenizer.mask_id,
            num_layers,
            getattr(torch, dtype),
        )
        if lora is not None:
            if train_lm:
                raise UserError(
                    "train_lm: true leaves nothing to lora; set one of them"
                )
            add_lora(self.lm.body, LoraOptions(**lora))
        elif train_lm:
            self.lm.train_layers()
        self.special = SpecialTokens(self.lm.mask_id, self.tokenizer.eos_id)
        self.prompt_ids = self.tokenizer.prompt(prompt, chat_template)
        if projection == "words":
            self.projection = WordProjection.from_pretrained(
                encoder_output_size, whisper, self.weights.path
            )
            table, scale = self.projection.words, 1.0
        else:
            table, scale = self.lm.embedding.weight, None
            self.projection = LinearProjection(encoder_output_size, table)
        self.ctc = None
        if ctc is not None:
            options = {"scale": scale, **ctc}
            self.ctc = AlignmentCTC(table, encoder_output_size, **options)
        if pointer and projection != "words":
            raise UserError("pointer: true needs projection: words")
        self.pointer = Pointer(self.lm.width) if pointer else None

    @property
    def diffuses(self) -> bool:
        """True for LLaDA, False for LLaMA."""
        return self.lm.attention == "bidirectional"

    def prefix(self, audio: Tensor | None, lengths: Tensor | None, batch: int = 0):
        """Prompt and audio as embeddings.

        Args:
            audio: (B, A, encoder_output_size), or None: the LM then sees the prompt
                alone (the paper's plain-text ablation).
            lengths: (B,) int64, audio vectors of each row.
            batch: B where there is no audio.

        Returns:
            A ``Prefix``.
        """
        device = self.lm.embedding.weight.device
        batch = batch if audio is None else len(audio)
        prompt = torch.tensor([self.prompt_ids], device=device).expand(batch, -1)
        embeds = self.lm.embed(prompt)
        if audio is not None:
            return self._join(embeds, self._view(audio, lengths))
        return Prefix(embeds, torch.ones_like(prompt, dtype=torch.bool))

    def rough_prefix(
        self, text: Tensor, lengths: Tensor, seeds: Sequence[int]
    ) -> Prefix:
        """Prompt and ``rough_audio`` of transcripts; see there."""
        prompt = self.prefix(None, None, len(text)).embeds
        table = self.lm.embedding.weight
        return self._join(prompt, rough_audio(text, lengths, table, seeds))

    def sprinkled(self, text: Tensor, lengths: Tensor, seeds: Sequence[int]) -> Tensor:
        """Transcripts with ``text_random`` of their tokens replaced."""
        # Other draws than those of the masks and of the audio, which have these seeds.
        others = [~seed & (2**62 - 1) for seed in seeds]
        drawn = sprinkled(text, lengths, self.text_random, self.lm.vocab_size, others)
        return torch.where(drawn == self.special.eos, text, drawn)

    def _join(self, prompt: Tensor, heard: Heard) -> Prefix:
        return join(self.lm, prompt, heard, self.audio_positions)

    def _view(self, audio: Tensor, lengths: Tensor) -> Heard:
        """The adapter's vectors as the LM sees them."""
        return self.projection.view(audio, lengths, self.ctc, self.lm.embedding.weight)

    def _ctc_layer(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.projection.ctc_layer(audio, self.lm.embedding.weight)

    def sequence_hidden(
        self, prefix: Prefix, tokens: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of prefix and response, one LLM pass.

        Args:
            prefix: of B rows, P positions.
            tokens: (B, L) int64.
            lengths: (B,) int64, response positions of each row.

        Returns:
            (B, P, d) and (B, L, d).
        """
        embeds = self.lm.join(prefix.embeds, self.lm.embed(tokens))
        valid, behind = _behind(prefix, tokens, lengths)
        positions = torch.cat([prefix.positions, behind], dim=1)
        length = prefix.valid.shape[1]
        blind = length if self.prefix_blind else 0
        hidden = self.lm(embeds, valid, positions=positions, blind=blind)
        return hidden[:, :length], hidden[:, length:]

    def head(self, prefix: Prefix, hidden: Tensor) -> Head:
        """What makes tokens of hidden states.

        Args:
            prefix: of B rows, P positions.
            hidden: (B, P, d), its own hidden states.
        """
        heard = prefix.heard
        if self.pointer is None or heard is None:
            return Head(self.lm)
        audio = hidden[:, prefix.begins :][:, : heard.vectors.shape[1]]
        return Head(self.lm, self.pointer, heard, audio)

    def _canvas_hidden(
        self, prefix: Prefix, tokens: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``sequence_hidden``, with the prefix's cache where it has one."""
        if prefix.cache is None:
            return self.sequence_hidden(prefix, tokens, lengths)
        valid, behind = _behind(prefix, tokens, lengths)
        embeds, cache = self.lm.embed(tokens), prefix.cache.fixed()
        return prefix.hidden, self.lm(embeds, valid, cache, behind)

    def canvas_logits(self, prefix: Prefix, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, L, V) of all positions of a canvas; see ``sequence_hidden``."""
        first, hidden = self.sequence_hidden(prefix, tokens, lengths)
        return self._all_logits(self.head(prefix, first), hidden)

    def _all_logits(self, head: Head, hidden: Tensor) -> Tensor:
        everywhere = torch.ones_like(hidden[..., 0], dtype=torch.bool)
        return head.logits(hidden, everywhere).unflatten(0, hidden.shape[:2])

    def logits_fn(
        self, prefix: Prefix, lengths: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """What the sampler calls, one LLM pass at a time; see ``sampler.LogitsFn``.

        Rows of which nothing is wanted are left out, the head runs on the wanted
        positions only, and a prefix that is blind to the response runs once: the same
        logits as ``canvas_logits``, for less.
        """

        def logits(tokens: Tensor, wanted: Tensor) -> Tensor:
            nonlocal prefix
            rows = wanted.any(dim=1).nonzero()[:, 0]
            if not len(rows):
                return self.lm.logits(prefix.embeds.new_zeros(0, self.lm.width))
            if self.prefix_blind and prefix.cache is None:
                prefix = prefix.remembered(self.lm)
            here, sizes = prefix, lengths
            if len(rows) < len(tokens):
                here, sizes = prefix.rows(rows), lengths[rows]
                width = int(sizes.max())
                tokens, wanted = tokens[rows, :width], wanted[rows, :width]
            first, hidden = self._canvas_hidden(here, tokens, sizes)
            return self.head(here, first).logits(hidden, wanted)

        return logits

    def loss(
        self,
        prefix: Prefix,
        text: Tensor,
        lengths: Tensor,
        seeds: Sequence[int] | None = None,
        longest: int | None = None,
    ) -> Loss:
        """Training loss of a batch.

        Args:
            prefix: of B rows.
            text: (B, T) int64 transcripts.
            lengths: (B,) int64.
            seeds: of each row's masks; by default torch's global random state decides
                in training, and nothing but the row's number in evaluation.
            longest: see ``objective.noisy_canvas``.
        """
        if not self.diffuses:
            head, hidden = self._next_token_hidden(prefix, text, lengths)
            return causal_loss(hidden, text, lengths, self.special.eos, head.nll)
        if seeds is None:
            rows = len(text)
            seeds = torch.randint(2**62, (rows,)) if self.training else range(rows)
        canvas = noisy_canvas(
            text,
            lengths,
            self.special,
            self.loss_name,
            [int(seed) for seed in seeds],
            self.canvas_slack,
            longest,
        )
        first, hidden = self.sequence_hidden(prefix, canvas.tokens, canvas.lengths)
        head = self.head(prefix, first)
        return diffusion_loss(hidden, canvas, self.loss_name, head.nll)

    def ctc_loss(
        self, audio: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> Tensor:
        """(B,), the auxiliary loss of each row; see ``AlignmentCTC``.

        Args:
            audio: (B, A, encoder_output_size).
            lengths: (B,) int64.
            text: (B, T) int64 transcripts.
            text_lengths: (B,) int64.
        """
        spoken = lengths, text, text_lengths
        return self.ctc(audio, *self._ctc_layer(audio), *spoken)

    def draft(
        self, audio: Tensor, lengths: Tensor
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids that the CTC hears, and how sure it is; see ``adapter.ctc``."""
        log_probs = self.ctc.log_probs(audio, *self._ctc_layer(audio))
        return best_path(log_probs, lengths)

    def next_token_logits(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> Tensor:
        """(B, T + 1, V): position i predicts token i, the last one the end."""
        return self._all_logits(*self._next_token_hidden(prefix, text, lengths))

    def _next_token_hidden(
        self, prefix: Prefix, text: Tensor, lengths: Tensor
    ) -> tuple[Head, Tensor]:
        """(B, T + 1, d): the last of the prefix, and the response."""
        text = text.clamp(min=0)  # ESPnet pads with -1
        first, rest = self.sequence_hidden(prefix, text, lengths)
        last = last_valid(first, prefix.valid)
        return self.head(prefix, first), self.lm.join(last[:, None], rest)

    def merge_lora(self) -> None:
        """Fold LoRA into the LM for decoding; see ``lm.lora.merge_lora``."""
        merge_lora(self.lm.body)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of transcripts, in the LM's text case, without EOS."""
        return [self.tokenizer.encode(text) for text in texts]


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: {value!r}; allowed: {', '.join(allowed)}")


def _behind(prefix: Prefix, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions of prefix and response are there, and the response's numbers."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
    return valid, prefix.start[:, None] + places


def last_valid(hidden: Tensor, valid: Tensor) -> Tensor:
    """The last valid position of each row: (B, P, d), (B, P) -> (B, d)."""
    places = torch.arange(valid.shape[1], device=valid.device)
    last = (valid * places).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
