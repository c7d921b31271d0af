r"""Several data directories as one training set.

    python -m espnet_llada.recipe.combine --output data/train_synth \
        --held_out data/test_read data/test_synth --directories synth/hibari synth/flite

What an evaluation set says is left out, whoever says it. Paths of recordings may be
relative to where this runs, or to a directory above their ``wav.scp``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_llada.bin.options import OfKind, OptionParser, run_main
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.io.schema import Count
from espnet_llada.recipe.datadir import Utterance, read_data_dir, write_data_dir
from espnet_llada.recipe.librispeech import spread
from espnet_llada.recipe.logs import log_to_stdout
from espnet_llada.types import UserError

logger = logging.getLogger(__name__)


def combine(
    directories: Sequence[Path],
    held_out: Sequence[Path],
    output: Path,
    max_utts: int | None = None,
) -> None:
    """Write ``output`` from data directories.

    Args:
        directories: of what is to be trained on; an id may be in one of them only.
        held_out: data directories of evaluation sets. An utterance with one of their
            transcripts is left out, in whatever case it is written.
        output: the data directory to write.
        max_utts: keep this many utterances, spread evenly over all.

    Raises:
        UserError: a file of a directory is missing or bad, an id is in two of them, or
            nothing is left.
    """
    for directory in (*directories, *held_out):
        if directory.resolve() == output.resolve():
            raise UserError(f"{output}: is read from; name another --output")
    spoken = {_words(t) for d in held_out for t in read_table(d / "text").values()}
    every: dict[str, Utterance] = {}
    total = 0
    for directory in directories:
        data = read_data_dir(directory)
        if known := every.keys() & data.keys():
            raise UserError(
                f"{directory}: '{min(known)}' is an id of another directory too; name "
                "each directory once, or give its utterances other ids"
            )
        total += len(data)
        every |= {
            u.utt: u._replace(audio=_found(u.audio, directory))
            for u in data.values()
            if _words(u.text) not in spoken
        }
    if not every:
        raise UserError(f"{output}: no utterance is left; synthesize other texts")
    logger.info(
        "%s: left out %d of %d utterances, which say what an evaluation set says",
        *(output, total - len(every), total),
    )
    write_data_dir(output, spread(sorted(every.values()), max_utts))


def _words(text: str) -> str:
    return " ".join(text.upper().split())


def _found(path: str, directory: Path) -> str:
    """A recording's path from here, where it may have been written from above."""
    for place in (Path(), *directory.absolute().parents):
        if (place / path).is_file():
            return str(place / path)
    raise UserError(f"{directory}/wav.scp: {path}: no such file; synthesize it again")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    many = {"type": Path, "nargs": "+", "metavar": "DIR"}
    parser.add_argument("--output", type=Path, required=True, help="what to write")
    parser.add_argument(
        "--held_out", default=[], help="sets whose sentences are left out", **many
    )
    parser.add_argument("--directories", required=True, help="what to train on", **many)
    parser.add_argument(
        "--max_utts", type=OfKind(Count), help="keep so many utterances"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Combine what the command line names."""
    args = get_parser().parse_args(cmd)
    log_to_stdout()
    combine(args.directories, args.held_out, args.output, args.max_utts)


if __name__ == "__main__":
    run_main(main)
