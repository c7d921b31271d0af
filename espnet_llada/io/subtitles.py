"""Writes words with their times: CTM, SRT and WebVTT."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from espnet_llada.alignment import Pair, align
from espnet_llada.io.first_pass import TimedText
from espnet_llada.types import Word

Cue = tuple[float, float, str]
"""Start and end (s) of a subtitle, and its text."""

_PAUSE, _LONGEST, _LETTERS = 0.6, 7.0, 84
"""A cue ends before a pause of so many s, after so many s, and at two lines."""

_ENDS = (".", "?", "!")


def with_first_pass_times(
    words: Sequence[Word], given: TimedText
) -> tuple[tuple[Word, ...], list[Cue]]:
    """Times of a first pass, for the words of it that are still there.

    Args:
        words: of the deliberated text.
        given: the first pass.

    Returns:
        The words, with the first pass's times where it has times of words and the word
        is unchanged but for its case, and those of the others between them; and its
        cues with the words that are in their place now, none if it has none.
    """
    own = [word.casefold() for word in given.text.split()]
    pairs = align(own, [word.text.casefold() for word in words])
    found, kept, place = [], [], 0
    for before, after in pairs:
        if after is not None:
            word = words[len(found)]
            kept.append(before == after and bool(given.words))
            if kept[-1]:
                start, end = given.words[place]
                word = replace(word, start=start, end=end)
            found.append(word)
        place += before is not None
    found = _between(found, kept)
    texts: list[list[str]] = [[] for _ in given.cues]
    for word, cue in zip(found, _cue_of_each(pairs, given), strict=bool(given.cues)):
        texts[cue].append(word.text)
    each = zip(given.cues, texts, strict=True)
    return tuple(found), [(s, e, " ".join(own)) for (s, e, _), own in each if own]


def _between(words: Sequence[Word], kept: Sequence[bool]) -> list[Word]:
    """Times that are not kept are moved between those that are."""
    stops, stop = [], math.inf
    for word, keep in zip(reversed(words), reversed(kept), strict=True):
        stops.append(stop)
        stop = word.start if keep else stop
    made, begin = [], 0.0
    for word, keep, stop in zip(words, kept, reversed(stops), strict=True):
        if not keep and word.start is not None:
            start = min(max(word.start, begin), stop)
            word = replace(word, start=start, end=min(max(word.end, start), stop))
        begin = word.end if keep else begin
        made.append(word)
    return made


def _cue_of_each(pairs: Sequence[Pair], given: TimedText) -> list[int]:
    """The number of the cue of each word that there is now; none without cues.

    An inserted word goes with a replaced one behind it, or else with the one before.
    """
    if not given.cues:
        return []
    own = [n for n, (*_, count) in enumerate(given.cues) for _ in range(count)]
    found, waiting, cue = [], 0, 0
    for before, after in pairs:
        if before is None:
            waiting += 1
            continue
        last, cue = cue, own.pop(0)
        found += [last if after in (None, before) else cue] * waiting
        waiting = 0
        if after is not None:
            found.append(cue)
    return found + [cue] * waiting


def filled(words: Sequence[Word], seconds: float) -> list[Word]:
    """Words without times share the time between their neighbours evenly.

    Args:
        words: in order.
        seconds: duration of the recording.
    """
    out: list[Word] = []
    for unknown, run in groupby(words, lambda word: word.start is None):
        run = list(run)
        if not unknown:
            out += run
            continue
        first, last = run[0].within or (0.0, seconds), run[-1].within or (0.0, seconds)
        behind = words[len(out) + len(run) :][:1]
        start = max([first[0], *(word.end for word in out[-1:])])
        stop = max(start, min([last[1], *(word.start for word in behind)]))
        step = (stop - start) / len(run)
        for number, word in enumerate(run):
            begin = start + number * step
            out.append(replace(word, start=begin, end=begin + step))
    return out


def cues_of(words: Sequence[Word], seconds: float) -> list[Cue]:
    """Subtitles of a recording; without word times one for each decoded segment."""
    cues: list[Cue] = []
    for within, group in groupby(words, lambda word: word.within):
        own = list(group)
        if all(word.start is None for word in own):
            start, end = within or (0.0, seconds)
            cues.append((start, end, " ".join(word.text for word in own)))
            continue
        for part in _parts(filled(own, seconds)):
            text = " ".join(word.text for word in part)
            cues.append((part[0].start, part[-1].end, text))
    return cues


def _parts(words: Iterable[Word]) -> Iterator[list[Word]]:
    part: list[Word] = []
    for word in words:
        if part:
            letters = sum(len(w.text) + 1 for w in part) + len(word.text)
            new = word.start - part[-1].end >= _PAUSE or letters > _LETTERS
            new |= word.end - part[0].start > _LONGEST
            if new or part[-1].text.endswith(_ENDS):
                yield part
                part = []
        part.append(word)
    if part:
        yield part


def ctm(utt_id: str, words: Sequence[Word], seconds: float) -> str:
    """NIST's CTM: id, channel, start, duration (s), word and, if known, confidence."""
    lines = []
    for word in filled(words, seconds):
        sure = "" if word.confidence is None else f" {word.confidence:.3f}"
        length = max(word.end - word.start, 0.0)
        lines.append(f"{utt_id} 1 {word.start:.3f} {length:.3f} {word.text}{sure}\n")
    return "".join(lines)


def srt(cues: Sequence[Cue]) -> str:
    """SubRip."""
    numbered = enumerate(cues, 1)
    return "".join(
        f"{n}\n{_span(start, end, ',')}\n{text}\n\n"
        for n, (start, end, text) in numbered
    )


def vtt(cues: Sequence[Cue]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{_span(start, end, '.')}\n{html.escape(text, quote=False)}\n\n"
        for start, end, text in cues
    )


def _span(start: float, end: float, point: str) -> str:
    """The line of times; WebVTT's end is behind its start, so by 1 ms at least."""
    begin = round(start * 1000)
    stop = max(round(end * 1000), begin + 1)
    return f"{_clock(begin, point)} --> {_clock(stop, point)}"


def _clock(milliseconds: int, point: str) -> str:
    whole, milli = divmod(milliseconds, 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{milli:03}"
