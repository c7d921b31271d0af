"""What a decoder is made of, and what it shows its LM before the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_llada import weights
from espnet_llada.adapter.ctc import AlignmentCTC, best_path
from espnet_llada.adapter.heard import Heard
from espnet_llada.adapter.numbering import beside
from espnet_llada.adapter.projection import LinearProjection
from espnet_llada.adapter.reader import Reader, own_log_probs
from espnet_llada.adapter.refining import refined
from espnet_llada.adapter.text_qformer import TextQFormer
from espnet_llada.adapter.words import WordProjection, mixtures
from espnet_llada.lm.backbone import Backbone
from espnet_llada.lm.lora import LoraOptions, add_lora, merge_lora
from espnet_llada.lm.tokenizer import LMTokenizer
from espnet_llada.objective import LOSSES
from espnet_llada.pointer import Pointer
from espnet_llada.prefix import AUDIO_POSITIONS, Draft, Prefix, join
from espnet_llada.slots import opened
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
        compile_layers: training runs the LM's layers by torch.compile; for a GPU.
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
        text_qformer: options of ``TextQFormer`` (of ``whisper``), {} for its defaults:
            read the audio a second time with a transcript at hand, the CTC's draft or
            the first pass, and show the LM both; for ``projection: words`` and an
            adapter with ``hand_on``. None reads once.
        slots: share of the gaps between the tokens of a training's first passes that
            have an empty position, so that deliberation learns to add words and to
            take some away (``slots``); for masked diffusion with a ``text_qformer``.

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
        compile_layers: bool = False,
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
        text_qformer: Mapping[str, Any] | None = None,
        slots: float = 0.0,
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
        self.misheard, self.slots = misheard, slots
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
        if compile_layers:
            self.lm.compile_layers()
        self.special = SpecialTokens(self.lm.mask_id, self.tokenizer.eos_id)
        self.prompt_ids = self.tokenizer.prompt(prompt, chat_template)
        self.text_qformer = None
        if text_qformer is not None:
            self.text_qformer = TextQFormer.from_pretrained(whisper, **text_qformer)
        self._width = encoder_output_size
        if self.text_qformer is not None:
            self._width = self.text_qformer.places.shape[1]
        if projection == "words":
            self.projection = WordProjection.from_pretrained(
                self._width, whisper, self.weights.path
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
        if along and encoder_output_size == self._width:
            raise UserError(
                "text_qformer reads the encoder's frames; put hand_on: true into "
                "postencoder_conf"
            )
        self.pointer = Pointer(self.lm.width) if pointer else None
        self.read_again = None  # tells what was read with a transcript at hand
        if along:
            self.read_again = nn.Parameter(torch.zeros(self.lm.width))

    def prefix(
        self,
        audio: Tensor | None,
        lengths: Tensor | None,
        batch: int = 0,
        transcripts: Sequence[Sequence[int]] | None = None,
        draft: bool = False,
        slots_below: float = 0.0,
        refine: int = 0,
        reader: Reader | None = None,
    ) -> Prefix:
        """Prompt and audio as embeddings.

        Args:
            audio: (B, A, encoder_output_size), or None: the LM then sees the prompt
                alone (the paper's plain-text ablation).
            lengths: (B,) int64, audio vectors of each row.
            batch: B where there is no audio.
            transcripts: B rows of token ids, where the response begins as a transcript
                (deliberation): with ``audio_positions: beside`` the audio then stands
                beside its tokens, see ``adapter.numbering``, and a ``text_qformer``
                reads it along with them.
            draft: give the prefix what the CTC hears, as ``Prefix.draft``. With a
                ``text_qformer`` it has one anyway: what was read along, as sure as it
                is of it.
            slots_below: above 0, the draft has a slot before each token that is less
                probable, see ``slots.opened``.
            refine: rounds in which the ``text_qformer`` corrects the CTC's draft before
                it is read along, see ``adapter.refining``.
            reader: of the audio, where there is one already.
        """
        if audio is None:
            prompt = self._prompt(batch)
            return Prefix(prompt, torch.ones_like(prompt[..., 0], dtype=torch.bool))
        heard, own = self._windows(audio, lengths, draft)
        if self.text_qformer is not None:
            reader = reader or self.reader(audio)
            heard, own = self._along(
                reader, heard, own, transcripts, refine, slots_below
            )
        elif transcripts is not None and self.audio_positions == "beside":
            heard = beside(heard, transcripts)
        return self._join(heard, own)

    def reader(self, audio: Tensor) -> Reader:
        """Reads texts along (B, A, encoder_output_size); with a ``text_qformer``."""
        words, eos = self.projection.words, self.special.eos
        return Reader(self.text_qformer, self._frames(audio), words, eos)

    def _along(
        self,
        reader: Reader,
        heard: Heard,
        own: Draft,
        transcripts: Sequence[Sequence[int]] | None,
        refine: int,
        slots_below: float,
    ) -> tuple[Heard, Draft]:
        """Both readings, the second along the draft or along transcripts; see there."""
        eos, device = self.special.eos, heard.counts.device
        if transcripts is not None:
            texts, read = refined(reader, transcripts, 0, eos, device)
        else:
            texts, read = refined(reader, own.ids, refine, eos, device)
        sure = [
            own_log_probs(r, t[: len(r) - 1]) for r, t in zip(read, texts, strict=True)
        ]
        # What is behind the longest text that is read counts as sure.
        more = [[0.0] * (len(t) - len(p)) for t, p in zip(texts, sure, strict=True)]
        along = Draft(texts, [p + q for p, q in zip(sure, more, strict=True)])
        undoubted = transcripts is not None or refine
        own = along if undoubted else own.doubted(along)
        places = None
        if slots_below:
            ends = [r[-1, eos].item() for r in read]
            own, places = opened(own, ends, slots_below, eos)
        counts = torch.tensor([len(r) for r in read], device=device)
        log_probs = pad_sequence(read, batch_first=True)
        return self._both(heard, texts, log_probs, counts, places), own

    def _prompt(self, batch: int) -> Tensor:
        prompt = torch.tensor([self.prompt_ids], device=self.lm.embedding.weight.device)
        return self.lm.embed(prompt.expand(batch, -1))

    def _join(self, heard: Heard, draft: Draft | None = None) -> Prefix:
        prompt = self._prompt(len(heard.counts))
        return join(self.lm, prompt, heard, self.audio_positions, draft)

    def _windows(
        self, audio: Tensor, lengths: Tensor, draft: bool
    ) -> tuple[Heard, Draft | None]:
        """The adapter's vectors as the LM sees them; the draft if asked or needed."""
        layer = self._ctc_layer(audio)
        words = isinstance(self.projection, WordProjection)
        draft = draft or self.text_qformer is not None
        log_probs = own = None
        if words or draft:
            log_probs = self.ctc.log_probs(self._vectors(audio), *layer)
        if draft:
            own = Draft(*best_path(log_probs, lengths))
        if not words:
            return Heard(layer[0], lengths), own
        table = self.lm.embedding.weight
        return self.projection.view(log_probs, lengths, table), own

    def _read(
        self, audio: Tensor, texts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What ``TextQFormer`` reads along a transcript of each row, in training."""
        words, eos = self.projection.words, self.special.eos
        return self.text_qformer(self._frames(audio), texts, words, eos)

    def _frames(self, audio: Tensor) -> Tensor:
        """The encoder's frames, which the adapter hands on behind its vectors."""
        return audio[..., self._width :].unflatten(2, (-1, self._width)).flatten(1, 2)

    def _both(
        self,
        heard: Heard,
        texts: Sequence[Sequence[int]],
        log_probs: Tensor,
        counts: Tensor,
        places: Sequence[Sequence[int]] | None = None,
    ) -> Heard:
        """What was heard beside transcripts, and what was read along them.

        ``places``: of the transcripts' tokens, and of their ends, on the canvas.
        """
        width = log_probs.shape[1]
        if places is None:
            numbers = torch.arange(width, device=counts.device).expand(len(texts), -1)
        else:
            rows = [[*row[:width], *[0] * (width - len(row))] for row in places]
            numbers = torch.tensor(rows, device=counts.device)
        table = self.lm.embedding.weight
        again = mixtures(log_probs.exp(), counts, table, numbers)
        again = replace(again, vectors=again.vectors + self.read_again)
        return beside(heard, texts, places).with_more(again)

    def _vectors(self, audio: Tensor) -> Tensor:
        """The adapter's vectors, without the frames that it hands on."""
        return audio[..., : self._width]

    def _ctc_layer(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.projection.ctc_layer(self._vectors(audio), self.lm.embedding.weight)

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
        return self.ctc(self._vectors(audio), *self._ctc_layer(audio), *spoken)

    def merge_lora(self) -> None:
        """Fold LoRA into the LM for decoding; see ``lm.lora.merge_lora``."""
        merge_lora(self.lm.body)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of transcripts, in the LM's text case, without EOS."""
        return [self.tokenizer.encode(text) for text in texts]


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: {value!r}; allowed: {', '.join(allowed)}")
