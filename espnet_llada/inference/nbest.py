"""N-best lists: other transcripts of an utterance, each with its likelihood.

The best transcript is the one that there is without ``nbest``. Of Whisper-LLaMA the
others are those of its beam. Masked diffusion fills one canvas, so the others are made:
a model's scorer leaves the best transcript where it is least sure of it, and goes on
alone; without a scorer parts of the transcript are masked at random and filled in again
at a temperature. The CTC's draft and, in deliberation, the first pass are candidates
too. All are ranked by one likelihood, that of the scorer, or else of the LM (in one
pass, from the audio alone), and of the CTC. Alternatives are distinct, so there may be
fewer than asked for, and none for a recording that is cut into segments.

Source: rescoring of n-best lists by CTC and attention decoder (Watanabe et al. 2017);
hypotheses that leave the best one once, as in list Viterbi decoding (Seshadri and
Sundberg 1994).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.masking import measure
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Stages
from espnet_llada.inference.decode_dir import DecodeDir, one_word
from espnet_llada.inference.first_pass import FirstPass
from espnet_llada.inference.options import DecodingOptions
from espnet_llada.io.files import make_dir, write_text
from espnet_llada.types import SAMPLE_RATE, Hypothesis

MASK_RATIO, TEMPERATURE, STEPS = 0.3, 1.0, 8
"""Of the draws; chosen on synthetic dev speech (LOG.md)."""

DRAWS = 2
"""Draws, or branches, for each transcript that is asked for."""

_OTHERS = 2
"""Tokens that are tried at a place where the scorer leaves the best transcript."""

_CTC_WEIGHT = 0.3  # as in the scorer's objections, which were tuned
_TAIL = 1


class Alternatives:
    """Makes other transcripts for those that a ``Transcriber`` has found.

    Args:
        transcriber: of a masked-diffusion model; its draws use no extension.
    """

    def __init__(self, transcriber: Any):
        self.one, self.nbest = transcriber, transcriber.options.search.nbest
        given = True, transcriber.output_case, Stages(transcriber.encode)
        seed = transcriber.options.sampler.seed
        self._draws = [
            type(transcriber)(transcriber.model, DecodingOptions(sampler), *given)
            for sampler in samplers(self.nbest, seed)
        ]

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        transcripts: Sequence[str] | None,
        found: Sequence[Hypothesis],
    ) -> list[Hypothesis]:
        """The same hypotheses, with alternatives; arguments as of ``Transcriber``."""
        longest = self.one.options.max_segment_seconds * SAMPLE_RATE
        each = enumerate(zip(waveforms, found, strict=True))
        rows = [n for n, (w, h) in each if len(w) <= longest and h.token_ids]
        if not rows:
            return list(found)
        best = [found[row] for row in rows]
        audio = [waveforms[row] for row in rows]
        encoded = self.one.recognizer.encoded(audio)
        decoder = self.one.model.decoder
        prefix = decoder.prefix(*encoded)
        if (scorer := getattr(prefix, "scorer", None)) is not None:
            candidates = self._branched(scorer, best)
        else:
            candidates = self._drawn(audio, [utt_ids[row] for row in rows], best)
        drafts = decoder.audio_prefix.draft(decoder.prompt, *encoded) or ()
        for own, ids in zip(candidates, drafts, strict=bool(drafts)):
            own.append(self._written(own[0], self.one.kept(ids)))
        if transcripts is not None:
            for own, row in zip(candidates, rows, strict=True):
                own.append(self._first_pass(transcripts[row]))
        scored = with_likelihoods(decoder, prefix, candidates)
        made = dict(zip(rows, map(self._ranked, scored), strict=True))
        return [made.get(row, h) for row, h in enumerate(found)]

    def _branched(
        self, scorer: Any, best: Sequence[Hypothesis]
    ) -> list[list[Hypothesis]]:
        """Of each utterance the best, and what branches off it."""
        count = DRAWS * (self.nbest - 1)
        others = branches(scorer, [h.token_ids for h in best], count)
        return [
            [h, *(self._written(h, self.one.kept(ids)) for ids in own)]
            for h, own in zip(best, others, strict=True)
        ]

    def _drawn(
        self,
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        best: Sequence[Hypothesis],
    ) -> list[list[Hypothesis]]:
        """Of each utterance the best, with the passes of all, and what was drawn."""
        texts = [h.text for h in best]
        drawn = [draw(waveforms, utt_ids, texts) for draw in self._draws]
        spent = [sum(h.passes for h in own) for own in zip(*drawn, strict=True)]
        best = [
            replace(h, passes=h.passes + more)
            for h, more in zip(best, spent, strict=True)
        ]
        return [list(own) for own in zip(best, *drawn, strict=True)]

    def _written(self, best: Hypothesis, draft: Hypothesis) -> Hypothesis:
        """The draft, in the best text's form where their words are the same."""
        form = FirstPass(best.text, self.one.model.decoder.tokenizer)
        return replace(draft, text=form.restored(draft.text, self.one.output_case))

    def _first_pass(self, text: str) -> Hypothesis:
        decoder = self.one.model.decoder
        (ids,) = decoder.encode_texts([FirstPass(text, decoder.tokenizer).visible])
        return replace(self.one.kept(ids), text=text)

    def _ranked(self, scored: Sequence[Hypothesis]) -> Hypothesis:
        best, *others = scored
        others.sort(key=lambda h: h.score, reverse=True)
        return with_distinct(best, others, self.nbest)


def with_distinct(
    best: Hypothesis, others: Sequence[Hypothesis], nbest: int
) -> Hypothesis:
    """With alternatives: of ``others`` the first ones with a text of their own."""
    first = {h.text: h for h in reversed(others) if h.text != best.text}
    distinct = [h for h in others if first.get(h.text) is h]
    return replace(best, alternatives=tuple(distinct[: nbest - 1]))


def samplers(nbest: int, seed: int) -> Iterator[SamplerOptions]:
    """The options of each draw."""
    for number in range(DRAWS * (nbest - 1)):
        yield SamplerOptions(
            strategy="deliberation_random",
            steps=STEPS,
            mask_ratio=MASK_RATIO,
            temperature=TEMPERATURE,
            tail=_TAIL,
            seed=seed + 1 + number,
        )


def branches(
    scorer: Any, texts: Sequence[Sequence[int]], count: int
) -> list[list[list[int]]]:
    """Other token ids of each utterance, at most ``count``.

    Where the scorer finds another token most probable, against the text's own, it
    takes that one and goes on alone (greedy).
    """
    from espnet_llada.extensions.whisper_scorer.scorer import continued

    begun, found = [], [[] for _ in texts]
    for scored in scorer(range(len(texts)), texts):
        own = [*scored.text[: len(scored.log_probs) - 1], scorer.eos]
        log_probs = scored.log_probs.clone()
        log_probs[torch.arange(len(own)), own] = -torch.inf
        values, tokens = log_probs.topk(_OTHERS, dim=1)
        gains = (values - values.new_tensor(scored.own)[:, None]).flatten()
        for index in gains.topk(min(count, len(gains))).indices.tolist():
            place, rank = divmod(index, _OTHERS)
            if (token := int(tokens[place, rank])) == scorer.eos:
                found[scored.row].append(own[:place])
            else:
                begun.append((scored.row, [*own[:place], token]))
    longest = 2 * max(map(len, texts), default=0) + 8
    whole, _ = continued(scorer, begun, longest)
    for (row, _), text in zip(begun, whole, strict=True):
        found[row].append(text)
    return found


def with_likelihoods(
    decoder: LMDecoder, prefix: Any, rows: Sequence[Sequence[Any]]
) -> list[list[Hypothesis]]:
    """The hypotheses of each utterance, with their log-likelihood (nats) as score."""
    texts = [(row, h.token_ids) for row, own in enumerate(rows) for h in own]
    scorer, alignment = (getattr(prefix, n, None) for n in ("scorer", "alignment"))
    if scorer is not None:
        scores = scorer.likelihoods(texts)
    else:
        scores = _by_lm(decoder, prefix, texts)
    if alignment is not None:
        by_ctc = zip(scores, alignment(texts), strict=True)
        scores = [own + _CTC_WEIGHT * ctc for own, ctc in by_ctc]
    each = iter(scores)
    return [[replace(h, score=next(each)) for h in own] for own in rows]


def _by_lm(
    decoder: LMDecoder, prefix: Any, texts: Sequence[tuple[int, Sequence[int]]]
) -> list[float]:
    """The LM's log-probability of each text and its end, one text at a time."""
    found = []
    for row, ids in texts:
        canvas = transcript_canvas([ids], decoder.special, _TAIL, prefix.valid.device)
        logits_fn = decoder.passes(decoder, prefix.rows([row]), canvas.lengths)
        found.append(float(measure(logits_fn, canvas, decoder.special).sum()))
    return found


def nbest_line(h: Hypothesis) -> str:
    """Alternatives as a line of JSON."""
    return json.dumps(
        [
            {
                "text": other.text,
                "token": " ".join(map(one_word, other.tokens)),
                "token_int": " ".join(map(str, other.token_ids)),
                "score": f"{other.score:.3f}",
            }
            for other in h.alternatives
        ],
        ensure_ascii=False,
    )


def write_nbest(directory: DecodeDir, nbest: int) -> None:
    """Write ``2best_recog`` and on, as ESPnet, from the lines of ``nbest_line``.

    A file has no line for an utterance with fewer transcripts.
    """
    lines = [line.partition(" ")[::2] for line in directory.lines("nbest")]
    table = {utt_id: json.loads(value) for utt_id, value in lines}
    for number in range(2, nbest + 1):
        place = make_dir(Path(directory.top) / f"{number}best_recog")
        rows = {u: own[number - 2] for u, own in table.items() if len(own) > number - 2}
        for name in ("text", "token", "token_int", "score"):
            text = "".join(f"{u} {row[name]}\n" for u, row in rows.items())
            write_text(place / name, text)
