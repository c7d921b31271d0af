"""Files of a decoding directory that only some options have: n-best lists, words, …"""

from __future__ import annotations

from collections.abc import Callable

from espnet_llada.inference.batches import Outcome
from espnet_llada.inference.decode_dir import DecodeDir
from espnet_llada.inference.options import DecodingOptions


def more_files(options: DecodingOptions) -> dict[str, Callable[[Outcome], str]]:
    """{file: the value of its line}; see ``DecodeDir``."""
    found: dict[str, Callable[[Outcome], str]] = {}
    if options.search.nbest > 1:
        from espnet_llada.inference.nbest import nbest_line

        found["nbest"] = lambda outcome: nbest_line(outcome.hypothesis)
    if "canvases" in options.extensions:
        from espnet_llada.extensions.canvases import canvas_line

        found["canvases"] = lambda outcome: canvas_line(outcome.hypothesis)
    if "word_times" in options.extensions:
        from espnet_llada.inference.words import words_line

        found["words"] = lambda outcome: words_line(outcome.hypothesis)
    return found


def write_more(directory: DecodeDir, options: DecodingOptions) -> None:
    """Write what is made of whole files: ``2best_recog`` and on."""
    if options.search.nbest > 1:
        from espnet_llada.inference.nbest import write_nbest

        write_nbest(directory, options.search.nbest)
