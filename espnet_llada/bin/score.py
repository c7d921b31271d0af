"""Word error rate of a hypothesis file: raw, and after Whisper's normaliser."""

from __future__ import annotations

import argparse
import sys

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.types import UserError

_EXAMPLE = """\
example:
  espnet-llada score data/test/text exp/asr/decode/test/text

REF and HYP are Kaldi text files: on each line an utterance id, then the transcript.
The lines are matched by id; a line with the id alone is an empty transcript.
The last line of the output is for scripts:
  WER raw 6.25 norm 3.12 words 32 utts 2
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada score``."""
    parser = OptionParser(
        prog="espnet-llada score",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ref", metavar="REF", help="reference transcripts")
    parser.add_argument("hyp", metavar="HYP", help="hypotheses for the same ids")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Score HYP against REF and write the table to stdout."""
    args = get_parser().parse_args(cmd)
    # After the parser, so that --help does not wait for jiwer.
    from espnet_llada.scoring.normalize import normalize_all
    from espnet_llada.scoring.wer import read_text, score_pairs

    refs, hyps = read_text(args.ref), read_text(args.hyp)
    raw = score_pairs(refs, hyps, names=(args.ref, args.hyp))
    if not raw.total.words:
        raise UserError(f"{args.ref}: no words in any transcript; nothing to score")
    norm = score_pairs(normalize_all(refs), normalize_all(hyps))
    chars = score_pairs(refs, hyps, unit="char")
    columns = ("units", "corr", "sub", "del", "ins", "err", "s.err")
    out = [f"{'percent':16}" + "".join(f"{name:>8}" for name in columns)]
    for name, score in (("words", raw), ("words normalised", norm), ("chars", chars)):
        rates = "".join(f"{rate:8.2f}" for rate in score.rates)
        out.append(f"{name:16}{score.total.words:8}{rates}")
    out.append(
        f"WER raw {raw.wer:.2f} norm {norm.wer:.2f} "
        f"words {raw.total.words} utts {len(refs)}"
    )
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    run_main(main)
