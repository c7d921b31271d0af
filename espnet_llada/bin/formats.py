"""What ``transcribe`` and ``deliberate`` write of a recording, in each format.

``text``: ``id text``. ``json``: a line with tokens, words, times and confidences.
``ctm``: words with times and confidences. ``srt``, ``vtt``: subtitles, a file for each
recording.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from espnet_llada.inference.batches import Outcome
from espnet_llada.io.subtitles import (
    ctm,
    cues_of,
    srt,
    vtt,
    with_first_pass_times,
)
from espnet_llada.types import Hypothesis, Word

FORMATS = ("text", "json", "srt", "vtt", "ctm")
SUBTITLES = ("srt", "vtt")


def json_line(outcome: Outcome) -> str:
    """All that is known of a recording; times in seconds, null where unknown.

    Words of a first pass that stayed have its times, and its segments are kept.
    """
    h, seconds = outcome.hypothesis, outcome.audio_seconds
    words: Sequence[Word] = h.words or tuple(map(Word, h.text.split()))
    segments = []
    if (given := outcome.utterance.first_pass) is not None:
        words, segments = with_first_pass_times(words, given)
    segments = segments or cues_of(words, seconds)
    content = {
        "id": outcome.utterance.utt_id,
        "text": h.text,
        "tokens": h.tokens,
        "confidences": [round(value, 4) for value in h.confidence],
        "calibrated": h.calibrated,
        "passes": h.passes,
        "seconds": round(seconds, 3),
        "words": [_word(word) for word in words],
        "segments": [
            {"start": round(start, 3), "end": round(end, 3), "text": text}
            for start, end, text in segments
        ],
    }
    if h.alternatives:
        content["score"] = round(h.score, 3)
        content["nbest"] = [_alternative(other) for other in h.alternatives]
    return json.dumps(content, ensure_ascii=False)


def rendered(line: str, form: str) -> str:
    """A line of ``json_line`` in another format, with line ends."""
    if form == "json":
        return f"{line}\n"
    content = json.loads(line)
    if form in SUBTITLES:
        cues = [(s["start"], s["end"], s["text"]) for s in content["segments"]]
        return (srt if form == "srt" else vtt)(cues)
    seconds = content["seconds"]
    words = [
        Word(w["word"], w["start"], w["end"], w["confidence"], (0.0, seconds))
        for w in content["words"]
    ]
    return ctm(content["id"], words, seconds)


def _word(word: Word) -> dict[str, Any]:
    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    ends = {"start": short(word.start), "end": short(word.end)}
    return {"word": word.text, **ends, "confidence": short(word.confidence)}


def _alternative(h: Hypothesis) -> dict[str, Any]:
    return {"text": h.text, "score": round(h.score, 3)}
