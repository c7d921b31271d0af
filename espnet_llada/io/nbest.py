"""Reads n-best lists as ESPnet and ``--nbest`` write them, in ``2best_recog`` and on.

Each directory has ``text`` and ``score``; they may be below ``output.N`` or
``logdir/output.N``, one for each job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from espnet_llada.io.kaldi.table import read_table
from espnet_llada.types import FirstPasses, ScoredText, UserError

_PLACES = ("1best_recog", "output.*/1best_recog", "logdir/output.*/1best_recog")
_SCORE = re.compile(r"(?:tensor\()?([-+]?\d[\d.eE+-]*)")  # ESPnet's is a tensor's repr


def read_nbest(path: str | Path, utt_ids: Iterable[str]) -> dict[str, FirstPasses]:
    """The lists of the utterances, best first.

    Args:
        path: a decoding directory.
        utt_ids: every one of them needs a text; one alone is a list too.

    Raises:
        UserError: no such files, one cannot be read, or an utterance has no text.
    """
    top, found = Path(path), {}
    jobs = next((jobs for p in _PLACES if (jobs := sorted(top.glob(p)))), [])
    for job in jobs:
        for utt_id, texts in _of_job(job.parent).items():
            found.setdefault(utt_id, texts)
    if not any(len(texts) > 1 for texts in found.values()):
        raise UserError(
            f"{path}: no n-best lists (1best_recog, 2best_recog, …) in it; decode the "
            "first pass with --nbest 5, a beam search with --beam_size 5 too"
        )
    utt_ids = list(utt_ids)
    missing = [utt_id for utt_id in utt_ids if utt_id not in found]
    if missing:
        raise UserError(
            f"{path}: no text for {len(missing)} utterances, the first is "
            f"'{missing[0]}'; run the first pass on the same set"
        )
    return {utt_id: tuple(found[utt_id]) for utt_id in utt_ids}


def _of_job(folder: Path) -> dict[str, list[ScoredText]]:
    lists: dict[str, list[ScoredText]] = {}
    number = 1
    while (place := folder / f"{number}best_recog").is_dir():
        scores = read_table(place / "score") if _has(place / "text") else {}
        texts = read_table(place / "text") if scores else {}
        for utt_id, text in texts.items():
            score = _number(place / "score", utt_id, scores.get(utt_id, ""))
            lists.setdefault(utt_id, []).append(ScoredText(text, score))
        number += 1
    return lists


def _has(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0  # all lists may be shorter


def _number(file: Path, utt_id: str, text: str) -> float:
    match = _SCORE.match(text)
    try:
        return float(match[1])
    except (TypeError, ValueError) as e:
        raise UserError(
            f"{file}: score of '{utt_id}': {text[:40]!r} is no number; decode again"
        ) from e
