"""ESPnet's Trainer with exact resuming, corrupt data skipped, and NaN losses named.

Resuming: ESPnet writes checkpoint.pth once per epoch. A training that was killed at any
moment and continues with ``--resume true`` repeats its last epoch and reaches the same
parameters, bit for bit (fp32, the same number of CPU threads), since all other state
follows from the epoch's number: the order of the data (ESPnet), random states, and the
masks of each utterance. Shorter epochs (``num_iters_per_epoch``) lose less.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter, SubReporter
from espnet2.train.trainer import Trainer, TrainerOptions
from torch import nn

from espnet_llada.core.recognizer import seed_of
from espnet_llada.espnet.data import TrainingBatches, UsableBatches
from espnet_llada.espnet.epoch_files import complete_epoch, remove_leftovers
from espnet_llada.espnet.model import ESPnetLLMModel, NonFiniteLoss
from espnet_llada.espnet.parameters import trained_parameters
from espnet_llada.io.checkpoint import atomic_torch_save
from espnet_llada.types import UserError


class LLMTrainer(Trainer):
    """See the module. For other models: atomic checkpoints and resuming only."""

    @classmethod
    def run(
        cls,
        *,
        model: nn.Module,
        trainer_options: TrainerOptions,
        distributed_option: DistributedOption,
        **rest: Any,
    ) -> None:
        """As ESPnet's, with checkpoints that are written atomically."""
        writes = not distributed_option.distributed or distributed_option.dist_rank == 0
        if writes:
            remove_leftovers(Path(trainer_options.output_dir))
            if isinstance(model, ESPnetLLMModel):
                logging.info(trained_parameters(model))
        resume = functools.partial(cls._resume, trainer_options, writes)
        # Trainer.run calls torch.save by that name, in three places.
        with (
            mock.patch.object(torch, "save", atomic_torch_save),
            mock.patch.object(cls, "resume", resume),
        ):
            super().run(
                model=model,
                trainer_options=trainer_options,
                distributed_option=distributed_option,
                **rest,
            )

    @classmethod
    def _resume(
        cls,
        options: TrainerOptions,
        writes: bool,
        *,
        model: nn.Module,
        reporter: Reporter,
        **rest: Any,
    ) -> None:
        Trainer.resume(model=model, reporter=reporter, **rest)
        if writes:
            complete_epoch(options, reporter, model.state_dict())
        # ESPnet 202511 would train one more epoch after an early stop.
        criterion = options.early_stopping_criterion
        if (
            options.patience is not None
            and reporter.has(*criterion[:2])
            and reporter.check_early_stopping(options.patience, *criterion)
        ):
            options.max_epoch = reporter.get_epoch()

    @classmethod
    def train_one_epoch(
        cls,
        *,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        iterator: Iterable,
        reporter: SubReporter,
        options: TrainerOptions,
        distributed_option: DistributedOption,
        **rest: Any,
    ) -> bool:
        """As ESPnet's; random states are set from seed, epoch and rank."""
        epoch, rank = reporter.get_epoch(), distributed_option.dist_rank or 0
        state = seed_of(f"epoch {epoch}, rank {rank}", options.seed)
        set_all_random_seed(state % 2**32)  # numpy takes no more
        inner = getattr(model, "module", model)  # under DistributedDataParallel
        if isinstance(inner, ESPnetLLMModel) and not options.ngpu:
            inner.decoder.lm.attend("eager")
        for optimizer in optimizers:
            optimizer.zero_grad()  # accum_grad may have left a part of a step

        def seed(step: int, utt_id: str) -> int:
            return seed_of(f"{epoch}:{step}:{utt_id}", options.seed)

        with _watched(model, iterator, seed, "train", reporter, options) as batches:
            return super().train_one_epoch(
                model=model,
                optimizers=optimizers,
                iterator=batches,
                reporter=reporter,
                options=options,
                distributed_option=distributed_option,
                **rest,
            )

    @classmethod
    def validate_one_epoch(
        cls,
        *,
        model: nn.Module,
        iterator: Iterable,
        reporter: SubReporter,
        options: TrainerOptions,
        **rest: Any,
    ) -> None:
        """As ESPnet's; an utterance has the same masks in every epoch."""

        def seed(step: int, utt_id: str) -> int:
            return seed_of(utt_id, 0)

        with _watched(model, iterator, seed, "valid", reporter, options) as batches:
            super().validate_one_epoch(
                model=model,
                iterator=batches,
                reporter=reporter,
                options=options,
                **rest,
            )

    @classmethod
    def plot_attention(cls, *, iterator: Iterable, **rest: Any) -> None:
        """As ESPnet's; one process does it while the others wait."""
        super().plot_attention(iterator=UsableBatches(iterator), **rest)


@contextlib.contextmanager
def _watched(
    model: nn.Module,
    iterator: Iterable,
    seed: Callable[[int, str], int],
    phase: str,
    reporter: SubReporter,
    options: TrainerOptions,
) -> Iterator[Iterable]:
    """Batches for our model; reports NaN losses and skipped utterances."""
    if not isinstance(getattr(model, "module", model), ESPnetLLMModel):
        yield iterator
        return
    batches, epoch = TrainingBatches(iterator, seed), reporter.get_epoch()
    try:
        yield batches
    except NonFiniteLoss as e:
        raise UserError(
            f"{options.output_dir}: stopped in epoch {epoch}, {phase} iteration "
            f"{batches.step}: {e}; checkpoint.pth, if any, is of the epoch before: "
            "check these recordings, lower the learning rate or grad_clip, and train "
            "again"
        ) from e
    if batches.total:
        logging.info(f"{epoch}epoch:{phase}: {batches}")
