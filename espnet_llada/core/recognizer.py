"""Waveforms (and, to deliberate, transcripts) in, hypotheses out; batch first."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.core.canvas import Canvas, blank_canvas, transcript_canvas
from espnet_llada.core.first_pass import FirstPass
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import LogitsProcessor, OnPass, SamplerResult, sample
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.long_form import cut_transcript, joined
from espnet_llada.extensions.posterior_prefix.listening import Listening
from espnet_llada.extensions.rescoring import Fill, Rereader, word_places
from espnet_llada.extensions.silence import is_inaudible, is_quiet, speaking
from espnet_llada.extensions.whisper_scorer.reader import Beside
from espnet_llada.io.audio.reading import split_long
from espnet_llada.networks.lm.tokenizer import CASES, to_case
from espnet_llada.types import SAMPLE_RATE, Hypothesis, UserError

OUTPUT_CASES = ("auto", *CASES)

_SPEED, _SLACK = 20.0, 32
"""Tokens in a second that nobody can say, and what is allowed beyond them."""


def seed_of(utt_id: str, seed: int) -> int:
    """The random seed of an utterance: the same in any batch, order or process."""
    digest = hashlib.sha256(f"{seed}:{utt_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _is_sayable(utt_id: str, pieces: Sequence[np.ndarray], ids: Sequence[int]) -> bool:
    seconds = sum(map(len, pieces)) / SAMPLE_RATE
    if len(ids) <= _SLACK + _SPEED * seconds:
        return True
    logging.warning(
        f"{utt_id}: a first pass of {len(ids)} tokens over {seconds:.1f} s of audio is "
        "more than can be said; it stays as it is"
    )
    return False


class Recognizer:
    """Runs a model over utterances.

    Args:
        model: something with ``encode(speech, lengths)`` and a ``decoder`` that is an
            ``LMDecoder``: ``WhisperLLM`` or ESPnet's model with our decoder.
        options: the strategy and its budget. A causal LM ignores the strategy: it
            searches with ``beam_size`` hypotheses, up to ``canvas_length`` tokens.
        use_audio: False shows the LM the prompt and the transcript alone (the paper's
            plain-text ablation); for deliberation.
        output_case: ``upper`` (LibriSpeech's transcripts), ``lower``, ``keep`` (the
            LM's) or ``auto``: capitals, and in deliberation what the first pass has;
            of that, words that stayed are not touched.
        sampler: fills a canvas: ``sample``, or what stands in for it.
        skips_silence: give the LM no utterance in which nothing is spoken.

    Attributes:
        unwritable: words of first passes so far that the LM cannot write; they stay as
            they are.
        on_pass: called after each forward pass of the sampler; see ``trace``.
        search: how a causal LM continues a prefix: ``beam_search``, or what stands in
            for it.

    Raises:
        UserError: a causal LM cannot deliberate, masked diffusion searches no beam;
            without audio there is nothing to decode.
    """

    def __init__(
        self,
        model: nn.Module,
        options: SamplerOptions,
        use_audio: bool = True,
        output_case: str = "auto",
        sampler: Callable[..., SamplerResult] = sample,
        skips_silence: bool = True,
    ):
        # (The default stands for no strategy.)
        if options.strategy != SamplerOptions.strategy and not model.decoder.diffuses:
            raise UserError(
                f"strategy {options.strategy}: this model's decoder is autoregressive; "
                "take a model trained with 'decoder: llada'"
            )
        if options.beam_size > 1 and model.decoder.diffuses:
            raise UserError(
                f"beam_size {options.beam_size}: this model's decoder is masked "
                "diffusion, which searches no beam; set beam_size to 1"
            )
        if options.strategy == "mask_ctc" and model.decoder.ctc is None:
            raise UserError(
                "strategy mask_ctc: this model has no CTC to make a draft; train with "
                "'ctc' in decoder_conf, or choose diffusion"
            )
        reader = getattr(model.decoder, "text_qformer", None)
        if reader is not None and reader.only:
            raise UserError(
                "this model's reader was trained alone (text_qformer: {only: true}); "
                "it transcribes nothing, begin a training of adapter and LM with it"
            )
        if (name := options.reads_along) and (reader is None or not use_audio):
            why = "this model does not read along a transcript; train with "
            why += "'text_qformer' in decoder_conf"
            if reader is not None:
                why = "without audio a model does not read along a transcript; set "
                why += f"{name} to what needs none"
            raise UserError(f"{name} {getattr(options, name)}: {why}")
        if options.slots_below and not getattr(model.decoder, "slots", 0):
            raise UserError(
                f"slots_below {options.slots_below}: this model has not learnt to "
                "leave positions empty; train with 'slots' in decoder_conf"
            )
        if not use_audio and not options.deliberates:
            raise UserError(
                f"strategy {options.strategy} without audio: nothing to transcribe; "
                "choose a deliberation strategy"
            )
        if output_case not in OUTPUT_CASES:
            raise UserError(
                f"output_case: {output_case!r}; allowed: {', '.join(OUTPUT_CASES)}"
            )
        self.model = model.eval()
        self.options, self.use_audio = options, use_audio
        self.output_case = output_case
        self.sampler, self.skips_silence = sampler, skips_silence
        self.on_pass: OnPass | None = None
        self.unwritable: Counter[str] = Counter()
        self.search: Callable[..., SamplerResult] = beam_search
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Recognise a batch.

        An utterance longer than ``longest_piece`` is cut where it is quiet. The pieces
        are decoded one by one, and the text is joined; deliberation gives each its part
        of the transcript, as far as the model has a CTC that hears which. Without one
        the LM hears all pieces at once.

        Args:
            waveforms: float32 (T,) at 16 kHz each.
            utt_ids: decide the random masks, whatever the batch.
            transcripts: the first pass, for a deliberation strategy.

        Returns:
            One hypothesis for each utterance, in order.

        Raises:
            UserError: transcripts are missing, or given to a decoding strategy.
        """
        if self.options.deliberates != (transcripts is not None):
            raise UserError(
                f"strategy {self.options.strategy}: "
                + ("needs" if self.options.deliberates else "takes no")
                + " first-pass transcript"
            )
        longest, decoder = self.options.longest_piece, self.model.decoder
        pieces = [split_long(w, longest) for w in waveforms]
        rows = [
            (f"{utt_id}#{i}" if i else utt_id, piece)
            for utt_id, parts in zip(utt_ids, pieces, strict=True)
            for i, piece in enumerate(parts)
        ]
        ids, flat = [r[0] for r in rows], [r[1] for r in rows]
        if transcripts is None:
            decoded = iter(self._decode(flat, ids))
            whole = [joined([next(decoded) for _ in parts]) for parts in pieces]
            case = "upper" if self.output_case == "auto" else self.output_case
            return [replace(h, text=to_case(h.text, case)) for h in whole]
        given = [FirstPass(text, decoder.tokenizer) for text in transcripts]
        for first_pass in given:
            words = zip(first_pass.words, first_pass.unwritable, strict=True)
            self.unwritable.update(word for word, unwritable in words if unwritable)
        texts = [first_pass.visible for first_pass in given]
        if self.options.changes_nothing:
            kept = decoder.encode_texts(texts)
            whole = [self._hypothesis(row, torch.zeros(len(row)), 0) for row in kept]
        elif self.use_audio and decoder.ctc is not None:
            alone = [[w] for w in flat]
            filled = iter(self._deliberate(alone, ids, self._cut(pieces, texts)))
            whole = [joined([next(filled) for _ in parts]) for parts in pieces]
        else:
            whole = self._deliberate(pieces, utt_ids, texts)
        return [
            replace(h, text=first_pass.restored(h.text, self.output_case))
            for first_pass, h in zip(given, whole, strict=True)
        ]

    def _cut(self, pieces: list[list[np.ndarray]], texts: Sequence[str]) -> list[str]:
        """What each piece has of its utterance's transcript."""
        flat = [[w] for parts in pieces if len(parts) > 1 for w in parts]
        decoder, heard = self.model.decoder, iter(())
        if flat:
            draft = decoder.listen(*self._audio(flat), draft=True).draft
            heard = map(decoder.tokenizer.decode, draft.ids)
        cut = []
        for text, parts in zip(texts, pieces, strict=True):
            own = [text]
            if len(parts) > 1:
                own = cut_transcript(text, [next(heard) for _ in parts])
            cut += own
        return cut

    def _decode(
        self, waveforms: list[np.ndarray], utt_ids: list[str]
    ) -> list[Hypothesis]:
        rows, audio, alignment = self._audible([[w] for w in waveforms])
        found = [Hypothesis("")] * len(waveforms)
        if not rows:
            return found
        decoder, options = self.model.decoder, self.options
        fill = self._sampler([utt_ids[row] for row in rows])
        rereader = Rereader(decoder, options, audio, fill, alignment)
        drafts = options.strategy == "mask_ctc"
        below = options.slots_below if drafts else 0.0
        heard = rereader.listen(draft=drafts, slots_below=below, refine=options.refine)
        if not decoder.diffuses:
            how = {"beam_size": options.beam_size}
            if options.reader_weight:
                how["beside"] = Beside(rereader.reader, options.reader_weight)
            longest = options.canvas_length
            result = self.search(decoder, heard.prefix, longest, **how)
        elif drafts:
            result = rereader.filled(heard)
        else:
            words = heard.prefix.heard.words.tolist()
            sizes = [len(waveforms[row]) for row in rows]
            lengths = map(self._canvas_length, sizes, words)
            canvas = blank_canvas([*lengths], decoder.special, self.device)
            result = rereader.fill(heard, canvas)
        texts = self._hypotheses(rereader.with_opinion(result))
        for row, text in zip(rows, texts, strict=True):
            found[row] = text
        return found

    def _canvas_length(self, samples: int, words: int) -> int:
        options = self.options
        length = options.canvas_length
        for rate, size in (
            (options.tokens_per_second, samples / SAMPLE_RATE),
            (options.positions_per_vector, words),
        ):
            if rate:
                length = min(length, math.ceil(size * rate) + 2)
        return length

    def _deliberate(
        self,
        pieces: list[list[np.ndarray]],
        utt_ids: Sequence[str],
        texts: Sequence[str],
    ) -> list[Hypothesis]:
        decoder, options = self.model.decoder, self.options
        ids = decoder.encode_texts(texts)
        if not self.use_audio:
            heard = decoder.listen(None, None, batch=len(ids))
            canvas = transcript_canvas(ids, decoder.special, options.tail, self.device)
            return self._hypotheses(self._sampler(utt_ids)(heard, canvas))
        found = [self._hypothesis(row, torch.zeros(len(row)), 0) for row in ids]
        sayable = [
            number
            for number, row in enumerate(zip(utt_ids, pieces, ids, strict=True))
            if _is_sayable(*row)
        ]
        rows, audio, alignment = self._audible([pieces[row] for row in sayable])
        if not rows:
            return found
        rows = [sayable[row] for row in rows]
        ids, fill = [ids[r] for r in rows], self._sampler([utt_ids[r] for r in rows])
        rereader = Rereader(decoder, options, audio, fill, alignment)
        heard = rereader.listen(transcripts=ids, slots_below=options.slots_below)
        if heard.draft is None:
            canvas = transcript_canvas(ids, decoder.special, options.tail, self.device)
            result = fill(heard, canvas)
        else:
            result = rereader.with_opinion(rereader.filled(heard))
        for row, text in zip(rows, self._hypotheses(result), strict=True):
            found[row] = text
        return found

    def _audible(
        self, pieces: list[list[np.ndarray]]
    ) -> tuple[list[int], tuple[Tensor, Tensor] | None, CTCAlignment | None]:
        """The rows in which something may be spoken, and what is heard of them."""
        rows = [
            row
            for row, parts in enumerate(pieces)
            if not (self.skips_silence and all(map(is_inaudible, parts)))
        ]
        if not rows:
            return [], None, None
        audio = self._audio([pieces[row] for row in rows])
        if self.model.decoder.ctc is None or not self.skips_silence:
            return rows, audio, None
        alignment = self.model.decoder.alignment(*audio)
        heard = speaking(alignment.windows).tolist()
        kept = [
            number
            for number, row in enumerate(rows)
            if heard[number] or not all(map(is_quiet, pieces[row]))
        ]
        if len(kept) < len(rows):
            chosen = torch.tensor(kept, dtype=torch.long, device=self.device)
            audio, alignment = (a[chosen] for a in audio), alignment.rows(chosen)
        return [rows[number] for number in kept], tuple(audio), alignment

    def _sampler(self, utt_ids: Sequence[str]) -> Fill:
        decoder = self.model.decoder
        seeds = [seed_of(utt_id, self.options.seed) for utt_id in utt_ids]

        def fill(
            heard: Listening,
            canvas: Canvas,
            beside: LogitsProcessor | None = None,
        ) -> SamplerResult:
            return self.sampler(
                decoder.logits_fn(heard, canvas.lengths, self.options.block_cache),
                canvas,
                self.options,
                decoder.special,
                seeds,
                self.on_pass,
                beside,
            )

        return fill

    def _audio(self, pieces: list[list[np.ndarray]]) -> tuple[Tensor, Tensor]:
        """Audio vectors of each utterance, its pieces one after the other; counts."""
        flat = [torch.from_numpy(p) for parts in pieces for p in parts]
        lengths = torch.tensor([len(p) for p in flat], device=self.device)
        speech = pad_sequence(flat, batch_first=True).to(self.device)
        audio, sizes = self.model.encode(speech, lengths)
        rows = iter(a[:n] for a, n in zip(audio, sizes.tolist(), strict=True))
        whole = [torch.cat([next(rows) for _ in parts]) for parts in pieces]
        sizes = torch.tensor([len(w) for w in whole], device=self.device)
        return pad_sequence(whole, batch_first=True), sizes

    def _hypotheses(self, result) -> list[Hypothesis]:
        return [
            self._hypothesis(tokens, log_probs, passes)
            for tokens, log_probs, passes in zip(
                result.tokens.tolist(),
                result.log_probs,
                result.passes.tolist(),
                strict=True,
            )
        ]

    def _hypothesis(
        self, tokens: list[int], log_probs: Tensor, passes: int
    ) -> Hypothesis:
        decoder = self.model.decoder
        places = word_places(tokens, decoder.special)
        ids = [tokens[i] for i in places]
        return Hypothesis(
            text=decoder.tokenizer.decode(ids),
            tokens=tuple(decoder.tokenizer.tokens(ids)),
            token_ids=tuple(ids),
            score=float(log_probs.sum()),
            passes=passes,
            confidence=tuple(log_probs[places].exp().tolist()),
        )
