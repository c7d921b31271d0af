"""What a decoder is made of, and what it shows its LM before the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_llada import weights
from espnet_llada.adapter.ctc import AlignmentCTC, best_path
from espnet_llada.adapter.heard import Heard
from espnet_llada.adapter.numbering import beside
from espnet_llada.adapter.projection import LinearProjection
from espnet_llada.adapter.words import WordProjection
from espnet_llada.lm.backbone import Backbone
from espnet_llada.lm.lora import LoraOptions, add_lora, merge_lora
from espnet_llada.lm.tokenizer import LMTokenizer
from espnet_llada.objective import LOSSES
from espnet_llada.pointer import Pointer
from espnet_llada.prefix import AUDIO_POSITIONS, Prefix, join
from espnet_llada.rough import rough_audio, sprinkled
from espnet_llada.types import SpecialTokens, UserError

PROJECTIONS = ("linear", "words")


class Listener(nn.Module):
    """Projection, prompt, CTC, pointer and LM; what stands before the response.

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
        misheard: share of the tokens that the response already has, in training, that
            are replaced by others that sound alike (``rough.misheard``); needs
            ``projection: words``.

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
        misheard: float = 0.0,
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
        self.misheard = misheard
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
        for name, value in {"pointer": pointer, "misheard": misheard}.items():
            if value and projection != "words":
                raise UserError(f"{name}: {value} needs projection: words")
        self.pointer = Pointer(self.lm.width) if pointer else None

    def prefix(
        self,
        audio: Tensor | None,
        lengths: Tensor | None,
        batch: int = 0,
        transcripts: Sequence[Sequence[int]] | None = None,
    ) -> Prefix:
        """Prompt and audio as embeddings.

        Args:
            audio: (B, A, encoder_output_size), or None: the LM then sees the prompt
                alone (the paper's plain-text ablation).
            lengths: (B,) int64, audio vectors of each row.
            batch: B where there is no audio.
            transcripts: B rows of token ids, where the response begins as a transcript
                (deliberation): with ``audio_positions: beside`` the audio then stands
                beside its tokens, see ``adapter.numbering``.
        """
        device = self.lm.embedding.weight.device
        batch = batch if audio is None else len(audio)
        prompt = torch.tensor([self.prompt_ids], device=device).expand(batch, -1)
        embeds = self.lm.embed(prompt)
        if audio is not None:
            heard = self._view(audio, lengths)
            if transcripts is not None and self.audio_positions == "beside":
                heard = beside(heard, transcripts)
            return self._join(embeds, heard)
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
        others = other_seeds(seeds)
        drawn = sprinkled(text, lengths, self.text_random, self.lm.vocab_size, others)
        return torch.where(drawn == self.special.eos, text, drawn)

    def _join(self, prompt: Tensor, heard: Heard) -> Prefix:
        return join(self.lm, prompt, heard, self.audio_positions)

    def _view(self, audio: Tensor, lengths: Tensor) -> Heard:
        """The adapter's vectors as the LM sees them."""
        return self.projection.view(audio, lengths, self.ctc, self.lm.embedding.weight)

    def _ctc_layer(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.projection.ctc_layer(audio, self.lm.embedding.weight)

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

    def merge_lora(self) -> None:
        """Fold LoRA into the LM for decoding; see ``lm.lora.merge_lora``."""
        merge_lora(self.lm.body)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of transcripts, in the LM's text case, without EOS."""
        return [self.tokenizer.encode(text) for text in texts]


def other_seeds(seeds: Sequence[int]) -> list[int]:
    """For other draws than those of the masks and of the audio."""
    return [~int(seed) & (2**62 - 1) for seed in seeds]


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: {value!r}; allowed: {', '.join(allowed)}")
