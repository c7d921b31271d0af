#!/usr/bin/env python3
"""The mean of the same tensors of several trainings: a model soup.

    local/soup.py --output exp/soup.pth --parts postencoder decoder.audio_prefix.ctc \
        exp/asr_a/latest.pth exp/asr_b/latest.pth

Trainings that began with the same tensors and went on with other batches end in one
basin, and their mean is often more accurate than either (Wortsman et al. 2022, arXiv
2203.05482). The file is for ``--init_param``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.checkpoint import atomic_torch_save, read_state
from espnet_llada.types import UserError, check_writable


def soup(files: Sequence[Path], parts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The mean of the tensors below ``parts``.

    Raises:
        UserError: a file is unreadable, or the files do not have the same of them.
    """
    states = []
    for file in files:
        state = read_state(file)
        states.append(
            {k: v for k, v in state.items() if any(_below(k, part) for part in parts)}
        )
    first = {name: tensor.shape for name, tensor in states[0].items()}
    for part in parts:
        if not any(_below(name, part) for name in first):
            raise UserError(f"{files[0]}: has no tensor of {part}; train it first")
    for file, state in zip(files[1:], states[1:], strict=True):
        if first != {name: tensor.shape for name, tensor in state.items()}:
            raise UserError(
                f"{file}: its tensors of {' and '.join(parts)} are not those of "
                f"{files[0]}; give trainings of one architecture"
            )
    return {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0)
        for name in first
    }


def _below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def main(cmd: list[str] | None = None) -> None:
    """Write the mean; see the module."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="checkpoints")
    parser.add_argument("--parts", nargs="+", required=True, help="of the model")
    parser.add_argument("--output", type=Path, required=True, help="a .pth file")
    args: argparse.Namespace = parser.parse_args(cmd)
    check_writable(args.output)
    atomic_torch_save(soup(args.files, args.parts), args.output)


if __name__ == "__main__":
    run_main(main)
