r"""Deliberation over a first pass: asr_inference with a deliberation strategy.

python -m espnet_llada.bin.asr_deliberate --first_pass exp/asr_llama/decode_greedy \
        --config conf/deliberate_low_confidence.yaml …
"""

from __future__ import annotations

import argparse

from espnet_llada.bin import asr_inference
from espnet_llada.bin.options import run_main

STRATEGY = "deliberation_low_confidence"


def get_parser() -> argparse.ArgumentParser:
    """The options of asr_inference; ``--first_pass`` is needed."""
    return asr_inference.get_parser(STRATEGY)


def main(cmd: list[str] | None = None) -> None:
    """See ``asr_inference.main``."""
    asr_inference.main(cmd, STRATEGY)


if __name__ == "__main__":
    run_main(main)
