"""Completes the files of an epoch if a training was killed while writing them.

ESPnet ends an epoch by writing checkpoint.pth and then, derived from it, the epoch's
model, links to the latest and the best model, and removes models that are no longer
among the best. checkpoint.pth is the commit: everything after it is done again here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import TrainerOptions
from torch import Tensor


def remove_leftovers(output_dir: Path) -> None:
    """Remove incomplete files of a killed process."""
    for path in output_dir.glob(".*.pth.*"):
        path.unlink(missing_ok=True)


def complete_epoch(
    options: TrainerOptions, reporter: Reporter, state: Mapping[str, Tensor]
) -> None:
    """Make the model files consistent with the epoch of checkpoint.pth.

    Args:
        options: the Trainer's.
        reporter: restored from the checkpoint.
        state: the model's state dict in the checkpoint.
    """
    output_dir, epoch = Path(options.output_dir), reporter.get_epoch()
    model = output_dir / f"{epoch}epoch.pth"
    if not model.exists():
        torch.save(state, model)
    _link(output_dir / "latest.pth", model.name)
    criteria = [c for c in options.best_model_criterion if reporter.has(*c[:2])]
    for phase, key, mode in criteria:
        best = reporter.get_best_epoch(phase, key, mode)
        _link(output_dir / f"{phase}.{key}.best.pth", f"{best}epoch.pth")
    nbest = options.keep_nbest_models
    nbest = [nbest] if isinstance(nbest, int) else nbest or [1]
    interval = options.nbest_averaging_interval
    if interval > 0 and epoch % interval == 0:
        average_nbest_models(
            output_dir, reporter, criteria, nbest, suffix=f"till{epoch}epoch"
        )
    kept = {epoch}
    for criterion in criteria:
        kept.update(reporter.sort_epochs(*criterion)[: max(nbest)])
    for other in set(range(1, epoch)) - kept:
        (output_dir / f"{other}epoch.pth").unlink(missing_ok=True)


def _link(path: Path, target: str) -> None:
    """Replace a symbolic link atomically."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
