"""A score directory as stage 13 of ESPnet's asr.sh leaves it.

sclite writes ``result.txt`` when it is installed (Debian: ``apt-get install sctk``);
otherwise the same table, with the same counts, is made here by sclite's rules: it
ignores the case of ASCII letters and aligns by costs of its own (``scoring.align``).
"""

from __future__ import annotations

import logging
import re
import shutil
import string
import subprocess
from collections import Counter
from pathlib import Path

from espnet_llada.alignment import Pair, align
from espnet_llada.io.files import make_dir, write_text
from espnet_llada.io.kaldi.table import read_lines, read_text
from espnet_llada.scoring.wer import (
    Counts,
    Score,
    check_ids,
    speakers_of,
)
from espnet_llada.types import UserError

_DEBIAN = "/usr/lib/sctk/bin"  # where Debian's sctk puts it, off PATH
_HEADER = "# Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err"
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
# sclite takes these for alternations, null words and comments: it then drops words
# without a word of warning, or crashes.
_SCLITE_SYNTAX = re.compile(r"\{|(^|\s)@(\s|$)|^(;;|\*\*)")


def write_score_dir(
    ref_text: str | Path, hyp_text: str | Path, out_dir: str | Path, unit: str = "word"
) -> Path:
    """Write ``ref.trn``, ``hyp.trn`` and ``result.txt`` into ``out_dir``.

    Args:
        ref_text: Kaldi text; speakers are those of its directory's ``utt2spk``.
        hyp_text: Kaldi text of the same utterances.
        out_dir: made if it is not there.
        unit: ``word``, or ``char`` (a space becomes ``<space>``).

    Returns:
        The path of ``result.txt``.

    Raises:
        UserError: a file that cannot be read or written, or ids that do not match.
    """
    refs, hyps = read_text(ref_text), read_text(hyp_text)
    check_ids(refs, hyps, (str(ref_text), str(hyp_text)))
    speakers = speakers_of(Path(ref_text), refs)
    ids = {utt: f"{speakers[utt]}-{utt}" for utt in refs}
    if len(owner := {i: utt for utt, i in ids.items()}) < len(ids):
        other = next(utt for utt, i in ids.items() if owner[i] != utt)
        raise UserError(
            f"{ref_text}: '{other}' and '{owner[ids[other]]}' are both {ids[other]} "
            "with their speakers before them; rename one"
        )
    refs = {ids[u]: _tokens(refs[u], unit) for u in ids}
    hyps = {ids[u]: _tokens(hyps[u], unit) for u in ids}

    out = make_dir(Path(out_dir))
    for name, texts in (("ref.trn", refs), ("hyp.trn", hyps)):
        lines = "".join(f"{tokens}\t({utt})\n" for utt, tokens in texts.items())
        write_text(out / name, lines)
    result = _by_sclite(out, refs, hyps) or _by_ourselves(refs, hyps)
    write_text(out / "result.txt", result)
    return out / "result.txt"


def read_trn(path: str | Path) -> dict[str, str]:
    """Read sclite's trn format: ``tokens (speaker-utterance)``.

    Returns:
        ``speaker-utterance`` -> tokens.

    Raises:
        UserError: as ``read_text``, or a line without an id.
    """
    texts: dict[str, str] = {}
    for number, line in read_lines(path):
        # An id may have brackets, or a speaker with a space.
        separator = "\t" if "\t" in line else None
        *tokens, utt = line.rstrip().rsplit(separator, 1)
        if not re.fullmatch(r"\(.+\)", utt):
            raise UserError(f"{path}:{number}: no (speaker-utterance) at the end")
        if utt[1:-1] in texts:
            raise UserError(f"{path}:{number}: {utt[1:-1]} again; keep one line")
        texts[utt[1:-1]] = " ".join(" ".join(tokens).split())
    return texts


def _tokens(text: str, unit: str) -> str:
    if unit == "word":
        return text
    if unit == "char":
        return " ".join("<space>" if c == " " else c for c in text)
    raise UserError(f"unit {unit!r}: choose word or char")


def find_sclite() -> str | None:
    """The sclite program, on PATH or where Debian's package puts it."""
    return shutil.which("sclite") or shutil.which("sclite", path=_DEBIAN)


def _by_sclite(out: Path, refs: dict[str, str], hyps: dict[str, str]) -> str | None:
    """The report of sclite by the command of asr.sh, or None where it cannot serve."""
    program = find_sclite()
    if program is None:
        return None
    for name, texts in (("ref.trn", refs), ("hyp.trn", hyps)):
        for utt, tokens in texts.items():
            if _SCLITE_SYNTAX.search(tokens):
                logging.warning(
                    "%s: %s has sclite's own symbols; scored without it",
                    out / name,
                    utt,
                )
                return None
    command = [program, "-r", str(out / "ref.trn"), "trn"]
    command += ["-h", str(out / "hyp.trn"), "trn", "-i", "rm", "-o", "all", "stdout"]
    done = subprocess.run(command, capture_output=True, check=False)
    # It works on bytes: its report need not be valid UTF-8.
    report = done.stdout.decode("utf-8", errors="replace")
    if done.returncode != 0 or "Sum/Avg" not in report:
        reason = " ".join(done.stderr.decode("utf-8", errors="replace").split())
        logging.warning("%s: sclite failed (%s); scored without it", out, reason)
        return None
    return report


def _by_ourselves(refs: dict[str, str], hyps: dict[str, str]) -> str:
    pairs = {utt: align(_fold(refs[utt]), _fold(hyps[utt])) for utt in refs}
    score = Score({utt: _count(aligned) for utt, aligned in pairs.items()})
    blocks = [_table("hyp.trn", score)]
    for utt, c in score.utterances.items():
        counts = f"{c.hits} {c.substitutions} {c.deletions} {c.insertions}"
        # Lower case, as in sclite: no id may read as the "Avg" that ESPnet greps for.
        head = f"id: ({utt.lower()})\nScores: (#C #S #D #I) {counts}\n"
        blocks.append(head + _show(pairs[utt]))
    return "\n".join(blocks)


def _fold(text: str) -> list[str]:
    r"""Tokens as sclite compares them.

    It splits and folds ASCII only, and reads no further than an unescaped ";".
    """
    tokens = re.findall(r"[^ \t\n\v\f\r]+", text.translate(_LOWER))
    return [re.sub(r"(?<!\\);.*", "", t).replace("\\", "") for t in tokens]


def _kind(pair: Pair) -> str:
    ref, hyp = pair
    return "" if ref == hyp else "I" if ref is None else "D" if hyp is None else "S"


def _count(pairs: list[Pair]) -> Counts:
    n = Counter(map(_kind, pairs))
    return Counts(n[""], n["S"], n["D"], n["I"])


def _show(pairs: list[Pair]) -> str:
    """The alignment in columns, with a letter under each error."""
    rows = [("REF:", "HYP:", "Eval:")]
    for ref, hyp in pairs:
        blank = "*" * len(ref or hyp or "")
        rows.append((ref or blank, hyp or blank, _kind((ref, hyp))))
    widths = [max(map(len, row)) for row in rows]
    lines = (
        " ".join(cell.ljust(width) for cell, width in zip(side, widths, strict=True))
        for side in zip(*rows, strict=True)
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _table(title: str, score: Score) -> str:
    """The "percentages by speaker" of sclite, whose speakers end at a hyphen."""
    speakers: dict[str, list[str]] = {}
    for utt in score.utterances:
        speakers.setdefault(utt.partition("-")[0].lower(), []).append(utt)
    width = max(map(len, ["Sum/Avg", *speakers]))
    total = _row("Sum/Avg", score, width)
    inner = len(total) - 2
    lines = [
        f",{'-' * inner}.",
        f"|{title:^{inner}}|",
        f"|{'-' * inner}|",
        f"| {'SPKR':{width}} | {_HEADER} |",
    ]
    for speaker, utts in speakers.items():
        lines.append(f"|{'-' * inner}|")
        lines.append(_row(speaker, score.subset(utts), width))
    lines += [f"|{'=' * inner}|", total, f"`{'-' * inner}'"]
    heading = "SYSTEM SUMMARY PERCENTAGES by SPEAKER"
    return f"{heading}\n\n" + "".join(f"  {line}\n" for line in lines)


def _row(name: str, score: Score, width: int) -> str:
    rates = "  ".join(f"{rate:5.1f}" for rate in score.rates)
    sizes = f"{len(score.utterances):4} {score.total.words:6}"
    return f"| {name:{width}} | {sizes} |{rates} |"
