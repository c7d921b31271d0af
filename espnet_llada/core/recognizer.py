"""Decoding and deliberation: waveforms in, token ids out; batch first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.canvas import Canvas, blank_canvas, transcript_canvas
from espnet_llada.core.masking import LogitsFn, Plan, make_plan
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.sampler import MakePlan, OnPass, SamplerResult, sample
from espnet_llada.io.waveform import split_long
from espnet_llada.networks.rows import RowRandom


def seed_of(utt_id: str, seed: int) -> int:
    """The random seed of an utterance: the same in any batch, order or process."""
    digest = hashlib.sha256(f"{seed}:{utt_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class DecodingHook:
    """Extension points of a decoding; each method does nothing by default.

    One object serves one batch; ``samples``: audio samples of each utterance. For
    ``check`` there is one without utterances.
    """

    def __init__(
        self,
        options: Any,
        decoder: LMDecoder,
        sampler: SamplerOptions,
        samples: Sequence[int],
    ):
        self.options, self.decoder = options, decoder
        self.sampler, self.samples = sampler, samples

    def check(self, others: Mapping[str, Any]) -> None:
        """Raise a UserError if the model or the ``others``' options do not fit."""

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """The prefix and canvas to begin with, changed or not."""
        return prefix, canvas

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        """What is masked on entry; ``make`` gives the strategy's plan."""
        return make(logits_fn, canvas, random)

    def passes(self, prefix: Prefix, lengths: Tensor) -> LogitsFn | None:
        """A ``LogitsFn`` for canvases of ``lengths`` positions; None: the default."""
        return None

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """A logits processor for every pass; see ``sampler.Process``."""
        return log_probs, None

    def next_token(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor | None:
        """(N, V), added to the log-probabilities of an autoregressive LM; or None.

        For the next token of each of N ``texts``, hypotheses of the given ``rows``.
        """
        return None

    def accept(self, canvas: Canvas, result: SamplerResult) -> SamplerResult:
        """The final result; ``canvas``: what the sampler started from."""
        return result


MakeHook = Callable[[LMDecoder, SamplerOptions, Sequence[int]], DecodingHook]
"""Makes the hook of one batch."""


@dataclass(frozen=True)
class Stages:
    """Functions that run the stages of a decoding.

    Attributes:
        encode: speech (B, T) and samples (B,) to vectors and their counts.
        passes: factory of the sampler's ``LogitsFn``; default: the decoder's.
        fill: the sampler.
        search: decodes with an autoregressive LM: (decoder, prefix, maximum tokens,
            next_token) to a result; see ``DecodingHook.next_token``.
    """

    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    passes: Callable[[LMDecoder, Prefix, Tensor], LogitsFn] | None = None
    fill: Callable[..., SamplerResult] = sample
    search: Callable[..., SamplerResult] | None = None


class Recognizer:
    """Runs a model over utterances.

    Args:
        model: ``WhisperLLM``, or ESPnet's model with our decoder.
        options: the strategy and its budget; a causal LM writes up to
            ``canvas_length`` tokens.
        hook: factory of a ``DecodingHook`` for each batch.
        stages: see ``Stages``; by default the model's own.

    Attributes:
        on_pass: called after each forward pass of the sampler.
    """

    def __init__(
        self,
        model: nn.Module,
        options: SamplerOptions,
        hook: MakeHook | None = None,
        stages: Stages | None = None,
    ):
        self.decoder, self.options = model.decoder, options
        self.hook, self.stages = hook, stages or Stages(model.encode)
        self.on_pass: OnPass | None = None
        self.device = next(model.parameters()).device
        model.eval()

    @torch.no_grad()
    def decode(
        self, waveforms: Sequence[np.ndarray], utt_ids: Sequence[str]
    ) -> SamplerResult:
        """Transcribe float32 waveforms (T,) at 16 kHz; the ids seed random draws."""
        sizes = [self.options.canvas_length] * len(waveforms)
        canvas = blank_canvas(sizes, self.decoder.special, self.device)
        prefix = self.decoder.prefix(*self.encoded(waveforms))
        return self._filled(prefix, canvas, utt_ids, [*map(len, waveforms)])

    @torch.no_grad()
    def deliberate(
        self,
        waveforms: Sequence[np.ndarray] | None,
        utt_ids: Sequence[str],
        transcripts: Sequence[Sequence[int]],
    ) -> SamplerResult:
        """Mask parts of first-pass transcripts (token ids) and fill them in again.

        ``waveforms``: see ``decode``; None gives the LM the prompt and the transcript
        alone (the paper's plain-text ablation).
        """
        decoder, samples = self.decoder, [0] * len(transcripts)
        if waveforms is None:
            prefix = decoder.prompt.alone(len(transcripts))
        else:
            samples = [*map(len, waveforms)]
            prefix = decoder.prefix(*self.encoded(waveforms), transcripts)
        given = transcripts, decoder.special, self.options.tail, self.device
        canvas = transcript_canvas(*given)
        return self._filled(prefix, canvas, utt_ids, samples)

    def encoded(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Audio vectors (B, A, width) and counts (B,).

        Audio over 30 s is encoded in segments, whose vectors are concatenated.
        """
        pieces = [split_long(w) for w in waveforms]
        flat = [torch.from_numpy(p) for parts in pieces for p in parts]
        lengths = torch.tensor([len(p) for p in flat], device=self.device)
        speech = pad_sequence(flat, batch_first=True).to(self.device)
        audio, sizes = self.stages.encode(speech, lengths)
        rows = iter(a[:n] for a, n in zip(audio, sizes.tolist(), strict=True))
        whole = [torch.cat([next(rows) for _ in parts]) for parts in pieces]
        sizes = torch.tensor([len(w) for w in whole], device=self.device)
        return pad_sequence(whole, batch_first=True), sizes

    def _filled(
        self,
        prefix: Prefix,
        canvas: Canvas,
        utt_ids: Sequence[str],
        samples: Sequence[int],
    ) -> SamplerResult:
        decoder, options = self.decoder, self.options
        make_hook = self.hook or partial(DecodingHook, None)
        hook = make_hook(decoder, options, samples)
        prefix, canvas = hook.open(prefix, canvas)
        if not decoder.diffuses:
            search = partial(self.stages.search, next_token=hook.next_token)
            result = search(decoder, prefix, options.canvas_length)
            return hook.accept(canvas, result)
        logits_fn = hook.passes(prefix, canvas.lengths)
        if logits_fn is None:
            passes = self.stages.passes or decoder.passes
            logits_fn = passes(decoder, prefix, canvas.lengths)

        def plan(logits_fn: LogitsFn, canvas: Canvas, random: RowRandom) -> Plan:
            return make_plan(logits_fn, canvas, options, decoder.special, random)

        result = self.stages.fill(
            logits_fn,
            canvas,
            options,
            decoder.special,
            [seed_of(utt_id, options.seed) for utt_id in utt_ids],
            self.on_pass,
            hook.process,
            lambda *given: hook.plan(plan, *given),
        )
        return hook.accept(canvas, result)
