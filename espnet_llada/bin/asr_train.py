"""ESPnet2's asr_train with our classes registered: the same options and files.

python -m espnet_llada.bin.asr_train --config conf/train_asr_whisper_llada_demo.yaml …
"""

from __future__ import annotations

from espnet_llada.bin.options import run_main
from espnet_llada.import_guards import before_espnet


def _task():
    before_espnet()
    from espnet_llada.espnet.register import register
    from espnet_llada.espnet.task import ASRTask

    register()
    return ASRTask


def get_parser():
    """ESPnet2's parser of asr_train."""
    return _task().get_parser()


def main(cmd: list[str] | None = None) -> None:
    """Train (or collect statistics); see ESPnet2's documentation of asr_train."""
    _task().main(cmd=cmd)


if __name__ == "__main__":
    run_main(main)
