"""Audio prefix of posterior-weighted LM embeddings (CTC posteriors, LegoSLM).

Imports ``extensions.ctc``, ``ctc_prefix`` and ``ctc_alignment``, ``copy_head``, the
``whisper_scorer`` that scores drafts and first passes, ``placeholders`` for training,
``text_injection`` and ``simulated_errors``.

Source: see ``posterior_prefix.mixture``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.core.objective import Targets
from espnet_llada.core.prefix import AudioPrefix, Prompt, TrainingStep
from espnet_llada.extensions.copy_head import CopyMechanism
from espnet_llada.extensions.ctc import AlignmentCTC, best_path
from espnet_llada.extensions.ctc import Options as CTCOptions
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.ctc_prefix import CTCAnswers
from espnet_llada.extensions.placeholders import Responses, with_placeholders
from espnet_llada.extensions.posterior_prefix.batch import PosteriorBatch, View
from espnet_llada.extensions.posterior_prefix.mixture import (
    SILENT,
    PosteriorEmbeddings,
)
from espnet_llada.extensions.simulated_errors import with_simulated_errors
from espnet_llada.extensions.text_injection import (
    confuse_tokens,
    corrupt_tokens,
    simulated_audio,
)
from espnet_llada.extensions.whisper_scorer.network import Options as ScorerOptions
from espnet_llada.extensions.whisper_scorer.network import WhisperScorer
from espnet_llada.extensions.whisper_scorer.scorer import Scorer
from espnet_llada.io.schema import Share
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import UserError


@dataclass(frozen=True)
class Options:
    """``decoder_conf.posterior_prefix``; all but the first two are for training."""

    positions: Annotated[
        Literal["before", "aligned"],
        Meta(
            description="audio before the response, or at the positions of its tokens"
        ),
    ] = "aligned"
    copy_head: Annotated[
        bool, Meta(description="response positions may copy tokens of the audio")
    ] = False
    text_injection: Annotated[
        bool, Meta(description="without speech, simulate CTC posteriors from text")
    ] = False
    corrupt_tokens: Annotated[
        Share, Meta(description="with that, share of the text's tokens drawn at random")
    ] = 0.0
    acoustic_confusion: Annotated[
        Share,
        Meta(description="share of given tokens replaced by ones that sound alike"),
    ] = 0.0
    placeholders: Annotated[
        Share, Meta(description="share of a first pass's gaps with an empty position")
    ] = 0.0


class PosteriorPrefix(CTCAnswers, AudioPrefix):
    """For ``postencoder: whisper_qformer`` and an LM with Whisper's tokens.

    Args:
        posteriors: turns CTC posteriors into mixtures of LM embeddings.
        ctc: its output layer is the table of ``posteriors``.
        lm_width: width of the LM's embeddings.
        options: see ``Options``.
        scorer: scores drafts and first passes; None for none.

    Raises:
        UserError: options that exclude one another.
    """

    def __init__(
        self,
        posteriors: PosteriorEmbeddings,
        ctc: AlignmentCTC,
        lm_width: int,
        options: Options,
        scorer: WhisperScorer | None = None,
    ):
        super().__init__()
        self.posteriors, self.ctc, self.options = posteriors, ctc, options
        self.copy_head = CopyMechanism(lm_width) if options.copy_head else None
        self.scorer, self.rescored = scorer, None
        if scorer is not None:
            self.rescored = nn.Parameter(torch.zeros(lm_width))
        self._width = posteriors.table.shape[1]
        if scorer is not None and scorer.only:
            self.cannot_decode = (
                "this model's scorer was trained alone (whisper_scorer: {only: true}); "
                "it transcribes nothing, begin a training of adapter and LM with it"
            )

    @classmethod
    def build(
        cls,
        width: int,
        whisper: str,
        lm: tuple[Path, int, bool],
        options: Options,
        ctc: CTCOptions,
        scorer: ScorerOptions | None,
    ) -> PosteriorPrefix:
        """Build it, with the weights it needs of a Whisper.

        Args:
            width: width of the adapter's output.
            whisper: name or path of the adapter's Whisper.
            lm: the LM's directory, its width, and whether it diffuses.
            options, ctc, scorer: see there.

        Raises:
            UserError: weights or options that do not fit.
        """
        path, lm_width, diffuses = lm
        first_pass = scorer is not None and scorer.first_pass
        if options.placeholders and not (diffuses and first_pass):
            raise UserError(
                f"placeholders: {options.placeholders} needs 'decoder: llada' and "
                "first_pass above 0 in whisper_scorer"
            )
        network = None
        if scorer is not None:
            network = WhisperScorer.from_pretrained(whisper, scorer)
            frames_alone = width == network.places.shape[1]
            if frames_alone and not scorer.only:
                raise UserError(
                    "whisper_scorer needs the encoder's frames; put return_frames: "
                    "true into postencoder_conf"
                )
            if scorer.only and not frames_alone:
                raise UserError(
                    "whisper_scorer: {only: true} needs the encoder's frames; set "
                    "postencoder: frames"
                )
            width = network.places.shape[1]
        posteriors = PosteriorEmbeddings.from_pretrained(width, whisper, path)
        head = AlignmentCTC(posteriors.table, width, ctc)
        return cls(posteriors, head, lm_width, options, network)

    def forward(
        self,
        prompt: Prompt,
        audio: Tensor,
        lengths: Tensor,
        transcripts: Sequence[Sequence[int]] | None = None,
    ) -> PosteriorBatch:
        """See ``AudioPrefix``."""
        alignment, scorer = self.alignment(prompt, audio, lengths), None
        if self.scorer is not None:
            table, eos = self.posteriors.table, prompt.special.eos
            frames = self._frames(audio)
            scorer = Scorer(self.scorer, frames, table, eos, alignment)
        return PosteriorBatch(self._view(prompt), alignment, scorer, transcripts)

    def training_step(
        self,
        prompt: Prompt,
        audio: Tensor | None,
        lengths: Tensor | None,
        targets: Targets,
        seeds: Sequence[int],
    ) -> TrainingStep:
        """See ``AudioPrefix``."""
        text = targets.text.clamp(min=0)  # ESPnet pads with -1
        targets = Targets(text, targets.lengths)
        if audio is None:
            return self._text_step(prompt, targets, seeds)
        extra = None
        if self.ctc.weight:
            layer = self._vectors(audio), self._vectors(audio), self.posteriors.table
            extra = self.ctc(*layer, lengths, text, targets.lengths)
            if self.ctc.only:
                return TrainingStep(None, targets, extra)
            extra = self.ctc.weight * extra
        if self.scorer is not None and self.scorer.only:
            loss = self._scorer_loss(prompt, audio, targets, seeds)
            return TrainingStep(None, targets, loss)
        return self._step(prompt, audio, lengths, targets, seeds, extra)

    def _step(
        self,
        prompt: Prompt,
        audio: Tensor,
        lengths: Tensor,
        targets: Targets,
        seeds: Sequence[int],
        extra: Tensor | None,
    ) -> TrainingStep:
        view, alignment = self._view(prompt), self.alignment(prompt, audio, lengths)
        shown, given = view.of_windows(alignment, None), targets.text
        if self.training:
            share = self.options.acoustic_confusion
            given = confuse_tokens(given, shown, share, _other(seeds))
        targets = Targets(targets.text, targets.lengths, given)
        if self.scorer is None:
            return TrainingStep(view.prefix(shown), targets, extra)
        draft, eos = best_path(alignment.windows)[0], prompt.special.eos
        responses = self._responses(draft, targets, eos, seeds)
        texts, table = responses.transcripts, self.posteriors.table
        log_probs, counts = self.scorer(self._frames(audio), texts, table, eos)
        shown = view.with_scores(shown, texts, log_probs, counts, responses.places)
        if self.scorer.weight:
            said = targets.text, targets.lengths, eos
            own = self.scorer.weight * self.scorer.loss(log_probs, texts, *said)
            extra = own if extra is None else own + extra
        return TrainingStep(view.prefix(shown), responses.targets, extra)

    def _responses(
        self,
        draft: Sequence[Sequence[int]],
        targets: Targets,
        eos: int,
        seeds: Sequence[int],
    ) -> Responses:
        """The drafts; in training a share ``first_pass`` of given texts instead."""
        share = self.scorer.first_pass
        if not (self.training and share):
            return Responses(targets, list(draft))
        random = RowRandom(_other(seeds, 1), "cpu")
        draws = random.uniform(torch.ones(len(draft), dtype=torch.long), 1)[:, 0]
        given = targets.given.tolist(), targets.lengths.tolist()
        texts = [
            row[:size] if draw < share else own
            for own, draw, row, size in zip(draft, draws.tolist(), *given, strict=True)
        ]
        plain = Responses(targets, texts)
        if not self.options.placeholders:
            return plain
        share = self.options.placeholders
        return with_placeholders(plain, draft, share, eos, _other(seeds, 2))

    def _scorer_loss(
        self, prompt: Prompt, frames: Tensor, targets: Targets, seeds: Sequence[int]
    ) -> Tensor:
        """(B,), nats per token, the loss of training the scorer alone."""
        rows = zip(targets.text.tolist(), targets.lengths.tolist(), strict=True)
        texts, eos = [row[:size] for row, size in rows], prompt.special.eos
        table = self.posteriors.table
        if self.training:
            with torch.no_grad():
                own, _ = self.scorer(frames, texts, table, eos)
            texts = with_simulated_errors(texts, own, eos, _other(seeds))
        log_probs, _ = self.scorer(frames, texts, table, eos)
        return self.scorer.loss(log_probs, texts, targets.text, targets.lengths, eos)

    def _text_step(
        self, prompt: Prompt, targets: Targets, seeds: Sequence[int]
    ) -> TrainingStep:
        """Training on text: simulated posteriors (text injection), or no audio."""
        text, lengths, lm = targets.text, targets.lengths, prompt.lm
        if not self.options.text_injection:
            return TrainingStep(prompt.alone(len(text)), targets)
        if self.training:
            share, draws = self.options.corrupt_tokens, _other(seeds, 3)
            drawn = corrupt_tokens(text, lengths, share, lm.vocab_size, draws)
            text = torch.where(drawn == prompt.special.eos, text, drawn)
        table = lm.embedding.weight
        audio = simulated_audio(text, lengths, table, _other(seeds, 4))
        return TrainingStep(self._view(prompt).prefix(audio), Targets(text, lengths))

    def _view(self, prompt: Prompt) -> View:
        aligned = self.options.positions == "aligned"
        return View(prompt, self.posteriors, aligned, self.copy_head, self.rescored)

    def alignment(self, prompt: Prompt, audio: Tensor, lengths: Tensor) -> CTCAlignment:
        """See ``CTCAnswers``."""
        vectors = self._vectors(audio)
        layer = vectors, vectors.to(self.posteriors.table.dtype), self.posteriors.table
        return CTCAlignment(self.ctc, *layer, self.ctc.windows(*layer, lengths, SILENT))

    def _vectors(self, audio: Tensor) -> Tensor:
        """The adapter's vectors, without the frames that it returns with them."""
        return audio[..., : self._width]

    def _frames(self, audio: Tensor) -> Tensor:
        """The encoder's frames, which the adapter returns behind its vectors."""
        return audio[..., self._width :].unflatten(2, (-1, self._width)).flatten(1, 2)


def _other(seeds: Sequence[int], number: int = 0) -> list[int]:
    """Seeds for other draws than the masks."""
    return [~(int(seed) + number) & (2**62 - 1) for seed in seeds]
