"""What a decoder is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import nn

from espnet_llada.core.objective import LOSSES
from espnet_llada.core.prefix import AUDIO_POSITIONS
from espnet_llada.core.projection import LinearProjection
from espnet_llada.extensions.copy_head import Pointer
from espnet_llada.extensions.posterior_prefix.ctc import AlignmentCTC
from espnet_llada.extensions.posterior_prefix.words import WordProjection
from espnet_llada.extensions.whisper_scorer.text_qformer import TextQFormer
from espnet_llada.io import weights
from espnet_llada.io.schema import Dtype, OptionsOf, Share
from espnet_llada.networks.lm.backbone import Backbone
from espnet_llada.networks.lm.lora import LoraOptions, add_lora, merge_lora
from espnet_llada.networks.lm.tokenizer import CASES, LMTokenizer
from espnet_llada.types import SpecialTokens, UserError


class Parts(nn.Module):
    """Projection, prompt, CTC, pointer and LM; what stands before the response.

    Args:
        encoder_output_size: width of the audio vectors.
        attention: ``bidirectional`` (LLaDA, masked diffusion) or ``causal`` (LLaMA).
        whisper: the adapter's, or else the encoder's, whose words and whose decoder
            ``projection: words`` and ``text_qformer`` read; None where neither is one.
        lm: name or directory of the LM (see ``espnet_llada.io.weights``).
        lora: fields of ``LoraOptions``; None trains no LoRA.
        compile_layers: training runs the layers of encoder, Q-Former and LM by
            torch.compile (``build.compile_layers``); for a GPU.
        train_lm: train the LM's layers themselves, for a small LM; its embedding and
            head stay frozen.
        prompt: the instruction before the audio.
        chat_template: wrap the prompt in the LM's chat template.
        text_case: ``lower``, ``upper`` or ``keep``, see ``LMTokenizer``.
        loss: one of ``core.objective.LOSSES``; read by masked diffusion only.
        canvas_slack: see ``core.objective.noisy_canvas``; masked diffusion only.
        dtype: of the frozen LM: ``float32``, ``bfloat16``.
        ctc: fields of ``AlignmentCTC``, a loss beside the LM's; None for none. With a
            weight of 0 it is not trained.
        projection: ``linear``, as in the paper, or ``words`` (``WordProjection``), for
            ``postencoder: whisper_qformer`` and an LM with Whisper's tokens; it needs
            ``ctc``.
        audio_positions: ``before`` the response, as in the paper, or ``beside`` it, for
            ``projection: words``; see ``core.prefix.join``.
        prefix_blind: prompt and audio do not see the response, so decoding runs them
            once, not in every pass. A causal LM is blind in any case.
        pointer: let response positions point at what was heard (``Pointer``); for
            ``projection: words``.
        text_as_audio: where a training has no speech, let the LM hear its text
            (``rough_audio``); otherwise it sees none.
        text_random: with that, share of the text's tokens that are replaced by any
            others in training, so that the LM learns to copy what it would not guess.
        misheard: share of the tokens that the response already has, in training, that
            are replaced by others that sound alike (``augmentation.rough``); needs
            ``projection: words``.
        text_qformer: options of ``TextQFormer``, {} for its defaults:
            read the audio a second time with a transcript at hand, the CTC's draft or
            the first pass, and show the LM both; for ``projection: words`` and an
            adapter with ``hand_on``. None reads once.
        slots: share of the gaps between the tokens of a training's first passes that
            have an empty position, so that deliberation learns to add words and to
            take some away (``slots``); for masked diffusion with a ``text_qformer``.

    What fits is what the annotations say; ``check_config`` holds a config to it.

    Raises:
        UserError: options that exclude one another.
    """

    def __init__(
        self,
        encoder_output_size: int,
        attention: str,
        whisper: weights.Weights | None,
        lm: str = "smollm2-135m",
        lora: Annotated[Mapping[str, Any], OptionsOf(LoraOptions)] | None = None,
        train_lm: bool = False,
        compile_layers: bool = False,
        prompt: str = "Transcribe the audio:",
        chat_template: bool = True,
        text_case: Literal[CASES] = "lower",
        loss: Literal[LOSSES] = "llada",
        canvas_slack: Annotated[int, Meta(ge=0, le=8192)] = 32,
        dtype: Dtype = "float32",
        ctc: Annotated[Mapping[str, Any], OptionsOf(AlignmentCTC)] | None = None,
        projection: Literal["linear", "words"] = "linear",
        audio_positions: Literal[AUDIO_POSITIONS] = "before",
        prefix_blind: bool = False,
        pointer: bool = False,
        text_as_audio: bool = False,
        text_random: Share = 0.0,
        misheard: Share = 0.0,
        text_qformer: Annotated[Mapping[str, Any], OptionsOf(TextQFormer)]
        | None = None,
        slots: Share = 0.0,
    ):
        super().__init__()
        if projection == "words" and ctc is None:
            raise UserError("projection: words needs ctc; give it a weight")
        if whisper is None and (projection == "words" or text_qformer is not None):
            name = "text_qformer" if text_qformer is not None else "projection: words"
            raise UserError(
                f"{name} needs a Whisper; set postencoder: whisper_qformer, or "
                "encoder: whisper_frozen"
            )
        self.loss_name, self.canvas_slack = loss, canvas_slack
        self.prefix_blind, self.text_random = prefix_blind, text_random
        self.text_as_audio, self.audio_positions = text_as_audio, audio_positions
        self.misheard, self.slots = misheard, slots
        self.compiles = compile_layers
        self.weights = weights.resolve(lm, "lm")
        self.tokenizer = LMTokenizer(self.weights.path, text_case)
        self.lm = Backbone.from_pretrained(
            self.weights.path,
            attention,
            self.tokenizer.mask_id,
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
        self.text_qformer = None
        if text_qformer is not None:
            self.text_qformer = TextQFormer.from_pretrained(
                whisper.name, **text_qformer
            )
        self._width = encoder_output_size
        if self.text_qformer is not None:
            self._width = self.text_qformer.places.shape[1]
        if projection == "words":
            self.projection = WordProjection.from_pretrained(
                self._width, whisper.name, self.weights.path
            )
            table, scale = self.projection.words, 1.0
        else:
            table, scale = self.lm.embedding.weight, None
            self.projection = LinearProjection(self._width, table)
        self.ctc = None
        if ctc is not None:
            options = {"scale": scale, **ctc}
            self.ctc = AlignmentCTC(table, self._width, **options)
        along = text_qformer is not None
        for name, value in {
            "pointer": pointer,
            "misheard": misheard,
            "text_qformer": along,
        }.items():
            if value and projection != "words":
                raise UserError(f"{name}: {value} needs projection: words")
        if slots and (
            attention == "causal" or not (text_qformer or {}).get("first_pass")
        ):
            raise UserError(
                f"slots: {slots} needs 'decoder: llada' and first_pass above 0 in "
                "text_qformer"
            )
        only = along and self.text_qformer.only
        if along and (encoder_output_size == self._width) != only:
            if only:
                raise UserError(
                    "text_qformer: {only: true} reads the encoder's frames; "
                    "set postencoder: frames"
                )
            raise UserError(
                "text_qformer reads the encoder's frames; put hand_on: true into "
                "postencoder_conf"
            )
        self.pointer = Pointer(self.lm.width) if pointer else None
        self.read_again = None  # tells what was read with a transcript at hand
        if along:
            self.read_again = nn.Parameter(torch.zeros(self.lm.width))

    def merge_lora(self) -> None:
        """Fold LoRA into the LM for decoding; see ``networks.lm.lora.merge_lora``."""
        merge_lora(self.lm.body)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of transcripts, in the LM's text case, without EOS."""
        return [self.tokenizer.encode(text) for text in texts]
