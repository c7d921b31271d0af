"""Recognition from waveforms (and first-pass texts) to texts.

Adds to ``core.recognizer``: segmentation of long recordings, silence detection, output
case, and words of a first pass that the LM cannot write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_llada.core.canvas import word_places
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer, Stages
from espnet_llada.core.sampler import OnPass, SamplerResult
from espnet_llada.inference.options import WHOLE, DecodingOptions
from espnet_llada.io.waveform import is_inaudible, is_quiet, split_long
from espnet_llada.networks.tokenizer import CASES, to_case
from espnet_llada.types import SAMPLE_RATE, FirstPasses, Hypothesis, UserError

OUTPUT_CASES = ("auto", *CASES)


class Transcriber:
    """Transcribes utterances, or deliberates over their first passes.

    Args:
        model: ``WhisperLLM``, or ESPnet's model with our decoder.
        options: of decoding; ``profile: release`` uses the published sampler.
        use_audio: False gives the LM the prompt and the transcript alone (the paper's
            plain-text ablation); for deliberation only.
        output_case: ``upper`` (LibriSpeech's transcripts), ``lower``, ``keep`` (the
            LM's) or ``auto``: capitals, in deliberation the case of the first pass,
            whose unchanged words stay exactly as they are.
        stages: see ``core.recognizer.Stages``; by default the model's own.

    Attributes:
        encode: the stage of encoder and adapter.
        unwritable: counts the words of first passes that the LM cannot write.

    Raises:
        UserError: options that exclude one another, or that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        options: DecodingOptions,
        use_audio: bool = True,
        output_case: str = "auto",
        stages: Stages | None = None,
    ):
        if not use_audio and not options.deliberates:
            raise UserError(
                f"strategy {options.strategy} without audio: nothing to transcribe; "
                "choose a deliberation strategy"
            )
        if output_case not in OUTPUT_CASES:
            raise UserError(
                f"output_case: {output_case!r}; allowed: {', '.join(OUTPUT_CASES)}"
            )
        _check(model.decoder, options)
        self._release = options.profile == "release"
        stages = stages or Stages(model.encode)
        timing, nbest = options.extensions.get("word_times"), options.search.nbest
        whole = options.extensions.keys() & WHOLE.keys()
        if timing is not None or nbest > 1 or whole:
            from espnet_llada.inference.words import EncodeOnce

            stages = replace(stages, encode=EncodeOnce(stages.encode))
        if self._release:
            from espnet_llada.release.sampler import sample as release_sample

            stages = replace(stages, fill=release_sample)
        if stages.search is None and not model.decoder.diffuses:
            from espnet_llada.baseline.autoregressive import beam_search

            size = options.search.beam_size
            stages = replace(stages, search=partial(beam_search, beam_size=size))
        hook = None
        if options.extensions:
            from espnet_llada.inference.hooks import make_hook

            given = options.sampler, options.extensions, use_audio
            hook = make_hook(model.decoder, *given)
        self.recognizer = Recognizer(model, options.sampler, hook, stages)
        self.model, self.options, self.use_audio = model, options, use_audio
        self.output_case, self.encode = output_case, stages.encode
        self.unwritable = Counter[str]()
        self._words = None
        if timing is not None:
            from espnet_llada.inference.words import WordTimer

            self._words = WordTimer(model, timing, self.recognizer.encoded)
        self._alternatives = None
        if nbest > 1 and use_audio and model.decoder.diffuses:
            from espnet_llada.inference.nbest import Alternatives

            self._alternatives = Alternatives(self)
        self._several = None
        if whole:
            from espnet_llada.inference.several import Several

            self._several = Several(self, stages)

    @property
    def on_pass(self) -> OnPass | None:
        """Called after each forward pass of the sampler; see ``sweep.trace``."""
        return self.recognizer.on_pass

    @on_pass.setter
    def on_pass(self, function: OnPass | None) -> None:
        self.recognizer.on_pass = function

    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None = None,
        nbest: Sequence[FirstPasses] | None = None,
    ) -> list[Hypothesis]:
        """Recognise a batch.

        An utterance longer than ``long_form`` allows is cut at pauses. The segments are
        decoded separately, and the texts joined; deliberation cuts the transcript with
        them if the model can draft each segment (CTC). Otherwise the LM is given all
        segments at once.

        Args:
            waveforms: float32 (T,) at 16 kHz each.
            utt_ids: seed the random masks, independently of the batch.
            transcripts: the first pass, for a deliberation strategy.
            nbest: n-best lists of the first pass, see ``DecodingOptions.wants_nbest``.

        Returns:
            One hypothesis for each utterance, in order; with ``nbest`` it has
            alternatives.

        Raises:
            UserError: transcripts or lists are missing, or given to a decoding
                strategy.
        """
        deliberates = self.options.deliberates
        if deliberates != (transcripts is not None):
            raise UserError(
                f"strategy {self.options.strategy}: "
                + ("needs" if deliberates else "takes no")
                + " first-pass transcript"
            )
        if self._several is None:
            found = self._found(waveforms, utt_ids, transcripts)
        else:
            found = self._several(self._found, waveforms, utt_ids, transcripts, nbest)
        if self._alternatives is None:
            return found
        return self._alternatives(waveforms, utt_ids, transcripts, found)

    def _found(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None,
    ) -> list[Hypothesis]:
        if transcripts is None:
            case = "upper" if self.output_case == "auto" else self.output_case
            return [_in_case(h, case) for h in self._decode(waveforms, utt_ids)]
        from espnet_llada.inference.first_pass import FirstPass

        given = [FirstPass(text, self.model.decoder.tokenizer) for text in transcripts]
        for first_pass in given:
            words = zip(first_pass.words, first_pass.unwritable, strict=True)
            self.unwritable.update(word for word, unwritable in words if unwritable)
        texts = [first_pass.visible for first_pass in given]
        found = self._deliberate(waveforms, utt_ids, texts)
        each = zip(found, given, strict=True)
        return [self._restored(h, first_pass) for h, first_pass in each]

    def _restored(self, h: Hypothesis, first_pass: Any) -> Hypothesis:
        """With the words of the first pass that stayed, as that has written them."""
        text, words = first_pass.restored(h.text, self.output_case), h.words
        if self._words is not None:
            from espnet_llada.inference.words import carried

            written = type(first_pass)(text, self.model.decoder.tokenizer)
            words = carried(words, written.words, written.shown)
        return replace(h, text=text, words=words)

    def _pieces(
        self, waveforms: Sequence[np.ndarray], utt_ids: Sequence[str]
    ) -> tuple[list[list[np.ndarray]], list[str], list[float]]:
        """The segments of each recording; id and beginning (s) of each segment."""
        longest = self.options.max_segment_seconds
        pieces = [split_long(w, longest) for w in waveforms]
        ids = [
            f"{utt_id}#{i}" if i else utt_id
            for utt_id, parts in zip(utt_ids, pieces, strict=True)
            for i in range(len(parts))
        ]
        begins = []
        for parts in pieces:
            ends = accumulate(map(len, parts), initial=0)
            begins += [end / SAMPLE_RATE for end in ends][:-1]
        return pieces, ids, begins

    def _decode(
        self, waveforms: Sequence[np.ndarray], utt_ids: Sequence[str]
    ) -> list[Hypothesis]:
        pieces, ids, begins = self._pieces(waveforms, utt_ids)
        flat = [piece for parts in pieces for piece in parts]
        silence = Hypothesis("", eos=self.model.decoder.special.eos)
        found, rows = [silence] * len(flat), self.spoken(flat)
        if rows:
            spoken = [flat[row] for row in rows], [ids[row] for row in rows]
            decoded = self._texts(self.recognizer.decode(*spoken))
            decoded = self._timed(spoken[0], decoded, [begins[row] for row in rows])
            found = _placed(found, rows, decoded)
        each = iter(found)
        return [_joined([next(each) for _ in parts]) for parts in pieces]

    def _deliberate(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        texts: Sequence[str],
    ) -> list[Hypothesis]:
        untimed = not self.use_audio or self._words is None
        if untimed and self.options.changes_nothing:
            return [self.kept(ids) for ids in self._encoded(texts)]
        if not self.use_audio:
            ids = self._encoded(texts)
            return self._texts(self.recognizer.deliberate(None, utt_ids, ids))
        pieces, ids, begins = self._pieces(waveforms, utt_ids)
        cut = list(texts)
        if any(len(parts) > 1 for parts in pieces):
            from espnet_llada.inference.long_form import cut_by_drafts

            cut = cut_by_drafts(self.recognizer, pieces, texts)
        if cut is None:
            return self._filled(waveforms, utt_ids, texts, [0.0] * len(texts))
        flat = [piece for parts in pieces for piece in parts]
        each = iter(self._filled(flat, ids, cut, begins))
        return [_joined([next(each) for _ in parts]) for parts in pieces]

    def _filled(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        texts: Sequence[str],
        begins: Sequence[float],
    ) -> list[Hypothesis]:
        """Deliberate, except where a text is too long for its audio."""
        ids = self._encoded(texts)
        found = [self.kept(row) for row in ids]
        from espnet_llada.inference.first_pass import is_sayable

        each = zip(utt_ids, waveforms, ids, strict=True)
        sayable = [n for n, row in enumerate(each) if is_sayable(*row)]
        spoken = self.spoken([waveforms[n] for n in sayable])
        rows = [sayable[n] for n in spoken]
        if rows:
            given = [[of[n] for n in rows] for of in (waveforms, utt_ids, ids)]
            filled = [found[n] for n in rows]
            if not self.options.changes_nothing:
                filled = self._texts(self.recognizer.deliberate(*given))
            filled = self._timed(given[0], filled, [begins[n] for n in rows])
            found = _placed(found, rows, filled)
        return found

    def _timed(
        self,
        waveforms: Sequence[np.ndarray],
        found: list[Hypothesis],
        begins: Sequence[float],
    ) -> list[Hypothesis]:
        """With their words, if these are asked for."""
        if self._words is None:
            return found
        return self._words(waveforms, found, begins)

    def spoken(self, waveforms: Sequence[np.ndarray]) -> list[int]:
        """Rows that may contain speech; for the release profile all of them."""
        rows, decoder = list(range(len(waveforms))), self.model.decoder
        if self._release:
            return rows
        rows = [row for row in rows if not is_inaudible(waveforms[row])]
        quiet = [row for row in rows if is_quiet(waveforms[row])]
        if not quiet:
            return rows
        with torch.no_grad():
            encoded = self.recognizer.encoded([waveforms[row] for row in quiet])
            known = decoder.audio_prefix.has_speech(decoder.prompt, *encoded)
        if known is None:
            return rows
        each = zip(quiet, known.tolist(), strict=True)
        silent = {row for row, spoken in each if not spoken}
        return [row for row in rows if row not in silent]

    def _texts(self, result: SamplerResult) -> list[Hypothesis]:
        nbest = self.options.search.nbest
        return hypotheses(self.model.decoder, result, nbest)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return self.model.decoder.encode_texts(texts)

    def kept(self, ids: Sequence[int]) -> Hypothesis:
        """An unchanged transcript."""
        return hypothesis(self.model.decoder, ids, torch.zeros(len(ids)))


def _check(decoder: LMDecoder, options: DecodingOptions) -> None:
    """Refuse options that the model cannot follow."""
    if options.strategy != SamplerOptions.strategy and not decoder.diffuses:
        raise UserError(
            f"strategy {options.strategy}: this model's decoder is autoregressive; "
            "take a model trained with 'decoder: llada'"
        )
    if options.search.beam_size > 1 and decoder.diffuses:
        raise UserError(
            f"beam_size {options.search.beam_size}: this model's decoder is masked "
            "diffusion, which searches no beam; set beam_size to 1"
        )
    if decoder.audio_prefix.cannot_decode:
        raise UserError(decoder.audio_prefix.cannot_decode)


def _in_case(h: Hypothesis, case: str) -> Hypothesis:
    words = [replace(word, text=to_case(word.text, case)) for word in h.words]
    others = tuple(_in_case(other, case) for other in h.alternatives)
    cased = {"words": tuple(words), "alternatives": others}
    return replace(h, text=to_case(h.text, case), **cased)


def _joined(parts: Sequence[Hypothesis]) -> Hypothesis:
    if len(parts) == 1:
        return parts[0]
    from espnet_llada.inference.long_form import joined

    return joined(parts)


def _placed(
    whole: list[Hypothesis], rows: Sequence[int], own: Sequence[Hypothesis]
) -> list[Hypothesis]:
    """Replace some rows of a batch."""
    found = dict(zip(rows, own, strict=True))
    return [found.get(row, h) for row, h in enumerate(whole)]


def hypotheses(
    decoder: LMDecoder, result: SamplerResult, nbest: int = 1
) -> list[Hypothesis]:
    """The rows of a result as hypotheses; above 1 with the others of a beam."""
    each = result.tokens.tolist(), result.log_probs, result.passes.tolist()
    found = [hypothesis(decoder, *row) for row in zip(*each, strict=True)]
    if nbest == 1 or not hasattr(result, "others"):
        return found
    from espnet_llada.inference.nbest import with_distinct

    out = []
    for best, others in zip(found, result.others, strict=True):
        rows = [(tokens, torch.tensor(values)) for tokens, values in others]
        made = [hypothesis(decoder, *row) for row in rows]
        out.append(with_distinct(best, made, nbest))
    return out


def hypothesis(
    decoder: LMDecoder, tokens: Sequence[int], log_probs: Tensor, passes: int = 0
) -> Hypothesis:
    """A row as hypothesis: L tokens, and (L,) their log-probabilities."""
    places = word_places(tokens, decoder.special)
    ids = [tokens[i] for i in places]
    return Hypothesis(
        text=decoder.tokenizer.decode(ids),
        tokens=tuple(decoder.tokenizer.tokens(ids)),
        token_ids=tuple(ids),
        score=float(log_probs.sum()),
        passes=passes,
        confidence=tuple(log_probs[places].exp().tolist()),
        eos=decoder.special.eos,
    )
