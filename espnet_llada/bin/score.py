"""Word error rate of a hypothesis file: raw, and after Whisper's normaliser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.types import UserError

if TYPE_CHECKING:
    from espnet_llada.scoring.wer import Score

_EXAMPLE = """\
example:
  espnet-llada score data/test/text exp/asr/decode/test/text
  espnet-llada score data/test/text deliberated --against first_pass

REF and HYP are Kaldi text files: on each line an utterance id, then the transcript.
The lines are matched by id; a line with the id alone is an empty transcript.
Intervals are by bootstrap over the speakers of utt2spk in REF's directory; with fewer
than 10 of them, over utterances. The last line of the output is for scripts:
  WER raw 6.25 norm 3.12 words 32 utts 2
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada score``."""
    parser = OptionParser("espnet-llada score", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("ref", metavar="REF", help="reference transcripts")
    parser.add_argument("hyp", metavar="HYP", help="hypotheses for the same ids")
    parser.add_argument(
        "--against", metavar="FIRST_PASS", help="compare HYP with another transcript"
    )
    parser.add_argument(
        "--utt2spk", metavar="FILE", help="speakers, if not in REF's utt2spk"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Score HYP against REF and write the table to stdout."""
    args = get_parser().parse_args(cmd)
    # After the parser, so that --help does not wait for jiwer.
    from espnet_llada.scoring.wer import (
        read_speakers,
        read_text,
        score_pairs,
        speakers_of,
    )

    # Each is read once: it may be a pipe.
    refs = read_text(args.ref)
    hyps = read_text(args.hyp)
    raw, norm = _raw_and_normalised(refs, hyps, (args.ref, args.hyp))
    chars = score_pairs(refs, hyps, unit="char")
    columns = ("units", "corr", "sub", "del", "ins", "err", "s.err")
    out = [f"{'percent':16}" + "".join(f"{name:>8}" for name in columns)]
    for name, score in (("words", raw), ("words normalised", norm), ("chars", chars)):
        rates = "".join(f"{rate:8.2f}" for rate in score.rates)
        out.append(f"{name:16}{score.total.words:8}{rates}")
    if args.utt2spk:
        speakers = read_speakers(args.utt2spk, refs)
    else:
        speakers = speakers_of(Path(args.ref), refs)
    first = (None, None)
    if args.against:
        texts = read_text(args.against)
        first = _raw_and_normalised(refs, texts, (args.ref, args.against))
    out += _significance("raw", raw, first[0], speakers)
    out += _significance("norm", norm, first[1], speakers)
    out.append(
        f"WER raw {raw.wer:.2f} norm {norm.wer:.2f} "
        f"words {raw.total.words} utts {len(refs)}"
    )
    sys.stdout.write("\n".join(out) + "\n")


def _raw_and_normalised(
    refs: dict[str, str], hyps: dict[str, str], names: tuple[str, str]
) -> tuple[Score, Score]:
    from espnet_llada.scoring.normalize import normalize_all
    from espnet_llada.scoring.wer import score_pairs

    raw = score_pairs(refs, hyps, names=names)
    if not raw.total.words:
        raise UserError(f"{names[0]}: no words in any transcript; nothing to score")
    return raw, score_pairs(normalize_all(refs), normalize_all(hyps))


def _significance(
    name: str, score: Score, first: Score | None, speakers: dict[str, str]
) -> list[str]:
    """The rate with its interval, and its change from a first pass, if there is one."""
    from espnet_llada.scoring.significance import compare, estimate

    e = estimate(score, speakers)
    lines = [f"{name:4} {e.rate}  (95% CI, bootstrap over {e.units} {e.unit})"]
    if first is not None:
        change = compare(score, first, speakers)
        lines.append(
            f"     from {first.wer:.2f}: absolute {change.absolute}, "
            f"relative {change.relative or '-'} %, p {change.p_text}"
        )
    return lines


if __name__ == "__main__":
    run_main(main)
