"""Runs a decoding several times, or over the best of several first passes.

Connects ``extensions.canvases`` and ``extensions.nbest_rescoring`` with a
``Transcriber``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import Stages
from espnet_llada.extensions import canvases, nbest_rescoring
from espnet_llada.inference.first_pass import FirstPass
from espnet_llada.types import FirstPasses, Hypothesis, ScoredText, UserError


class Several:
    """The whole of a decoding, for a batch.

    Args:
        transcriber: a ``Transcriber``.
        stages: its stages, which those of the other canvases share.

    Raises:
        UserError: the model or other options do not fit.
    """

    def __init__(self, transcriber: Any, stages: Stages):
        self.one, self.options = transcriber, transcriber.options
        model, kind = transcriber.model, type(transcriber)
        given = transcriber.use_audio, transcriber.output_case, stages
        self._rescore = self._canvases = None
        if "nbest_rescoring" in self.options.extensions:
            own = self.options, model.decoder
            self._rescore = nbest_rescoring.NBestRescorer(*own)
        if "canvases" in self.options.extensions:
            canvases.check(self.options, model.decoder)
            self._canvases = canvases.Canvases(
                self.options,
                lambda options: kind(model, options, *given),
                model.decoder.tokenizer,
            )

    def __call__(
        self,
        found: Callable[..., list[Hypothesis]],
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None,
        nbest: Sequence[FirstPasses] | None,
    ) -> list[Hypothesis]:
        """One hypothesis for each utterance.

        Args:
            found: decodes a batch once: waveforms, ids, first passes.
            waveforms, utt_ids, transcripts, nbest: as of ``Transcriber``.
        """
        lists = nbest
        if self.options.wants_nbest and nbest is None:
            raise UserError(
                "canvases: first_passes, nbest_rescoring: need n-best lists; name a "
                "directory with 2best_recog, as --nbest writes it, for --first_pass"
            )
        if transcripts is not None and not self.options.wants_nbest:
            lists = [(ScoredText(text),) for text in transcripts]
        spent = [0] * len(utt_ids)
        if self._rescore is not None:
            lists, spent = self._rescored(waveforms, utt_ids, lists)
        best = None if lists is None else [texts[0].text for texts in lists]
        out = found(waveforms, utt_ids, best)
        if self._canvases is not None:
            out = self._canvases(out, waveforms, utt_ids, lists)
        each = zip(out, spent, strict=True)
        return [replace(h, passes=h.passes + more) for h, more in each]

    def _rescored(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        lists: Sequence[FirstPasses],
    ) -> tuple[list[FirstPasses], list[int]]:
        decoder, heard = self.one.model.decoder, range(len(lists))
        if self.one.use_audio:
            heard = self.one.spoken(waveforms)
        given = [texts if r in heard else texts[:1] for r, texts in enumerate(lists)]

        def make_prefix(rows: Sequence[int], ids: Sequence[Sequence[int]]) -> Prefix:
            if not self.one.use_audio:
                return decoder.prompt.alone(len(rows))
            audio, sizes = self.one.recognizer.encoded(waveforms)
            return decoder.prefix(audio[rows], sizes[rows], ids)

        def token_ids(texts: Sequence[str]) -> list[list[int]]:
            shown = [FirstPass(text, decoder.tokenizer).visible for text in texts]
            return decoder.encode_texts(shown)

        return self._rescore(given, utt_ids, make_prefix, token_ids)
