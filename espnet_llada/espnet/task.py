"""ESPnet2's ASR task as our commands run it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from espnet2.tasks import asr
from espnet2.train.dataset import AbsDataset, ESPnetDataset
from espnet2.utils.types import str2bool
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import DataLoader

from espnet_llada.bin.decoding import add_pipe_option
from espnet_llada.build import ENCODER, uses_our_decoder
from espnet_llada.espnet.data import (
    WHISPER_SECONDS,
    UsableBatches,
    UsableCollate,
    UsableDataset,
)
from espnet_llada.espnet.readers import our_readers
from espnet_llada.espnet.register import register
from espnet_llada.espnet.trainer import LLMTrainer
from espnet_llada.io.files import read_yaml
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.trust import tensors_only
from espnet_llada.types import SAMPLE_RATE, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM = 1 << 20  # bytes


class ASRTask(asr.ASRTask):
    """ESPnet's ASR task with our classes and data loading, and one-line errors.

    Multi-GPU training spawns processes that import the task by name: importing this
    module registers our classes there too.
    """

    trainer = LLMTrainer

    @classmethod
    def get_parser(cls):
        parser = super().get_parser()
        parser.add_argument(
            "--trust_model",
            type=str2bool,
            default=False,
            help="true: files that hold more than tensors are read (init_param, "
            "checkpoint.pth, what a frontend names), which can run code",
        )

        def error(message: str):
            raise UserError(message)

        parser.error = error
        add_pipe_option(parser)
        return parser

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace) -> None:
        # ESPnet prints all its options and then what is missing.
        missing = [f"--{name}" for name in args.required if getattr(args, name) is None]
        if missing:
            raise UserError(f"{', '.join(missing)}: required; see --help")
        super().check_required_command_args(args)

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        # Text alone: the LM can be trained without speech.
        return ("speech",) if inference else ("text",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        names = super().optional_data_names(train, inference)
        return names if inference else ("speech", *names)

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd=None) -> None:
        if args is None:
            args = cls.get_parser().parse_args(cmd)
            if args.config and read_yaml(args.config).get("trust_model"):
                raise UserError(
                    f"{args.config}: trust_model is for the command line; take it out"
                )
        try:
            super().main(args=args, cmd=cmd)
        except ProcessExitedException as e:
            if e.exit_code != 2:
                raise
            raise SystemExit(2) from e  # the process has logged why

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        # config.yaml is written from args, and must not contain this option.
        trusted = vars(args).pop("trust_model", False)
        given = args.train_data_path_and_name_and_type
        if uses_our_decoder(vars(args)) and all(
            name != "speech" for _, name, _ in given
        ):
            # Stage 10 of text alone: ESPnet then builds no model.
            args.model_conf = {
                **(args.model_conf or {}),
                "extract_feats_in_collect_stats": False,
            }
        try:
            with (
                _one_line_errors(Path(args.output_dir)),
                our_readers(args.allow_pipes),
                tensors_only(trusted),
            ):
                super().main_worker(args)
        except UserError as e:
            if multiprocessing.parent_process() is None:
                raise
            sys.stderr.write(f"error: {e}\n")
            raise SystemExit(2) from e

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        collate = super().build_collate_fn(args, train)
        if not uses_our_decoder(vars(args)):
            return collate
        longest = WHISPER_SECONDS * SAMPLE_RATE if args.encoder == ENCODER else None
        return UsableCollate(collate, longest, args.allow_pipes)

    @classmethod
    def build_dataset(
        cls, args: argparse.Namespace, iter_options: Any, keys_to_load=None
    ) -> AbsDataset:
        dataset = super().build_dataset(args, iter_options, keys_to_load)
        collate = iter_options.collate_fn
        if not isinstance(collate, UsableCollate) or args.multi_task_dataset:
            return dataset
        total = len(keys_to_load or ())
        return UsableDataset(dataset, total, collate.max_samples, collate.allow_pipes)

    @classmethod
    def build_streaming_iterator(
        cls,
        data_path_and_name_and_type: list,
        preprocess_fn: Callable | None,
        collate_fn: Callable,
        key_file: str | None = None,
        batch_size: int = 1,
        num_workers: int = 1,
        **rest: Any,
    ) -> Iterable:
        """Stage 10: as ESPnet's, but unusable utterances are skipped."""
        given = (data_path_and_name_and_type, preprocess_fn, collate_fn)
        if not isinstance(collate_fn, UsableCollate) or rest.get("multi_task_dataset"):
            sizes = {"batch_size": batch_size, "num_workers": num_workers}
            return super().build_streaming_iterator(
                *given, key_file=key_file, **sizes, **rest
            )
        dataset = ESPnetDataset(
            data_path_and_name_and_type, preprocess_fn, rest.get("dtype", "float32")
        )
        # The set is all of wav.scp; this job may have a part of it.
        limits = collate_fn.max_samples, collate_fn.allow_pipes
        usable = UsableDataset(dataset, None, *limits)
        cls.check_task_requirements(
            usable, rest.get("allow_variable_data_keys", False), train=False
        )
        keys = list(dataset)
        if key_file is not None:
            keys = list(read_table(key_file))
        loader = DataLoader(
            usable,
            batch_sampler=[
                keys[i : i + batch_size] for i in range(0, len(keys), batch_size)
            ],
            num_workers=num_workers,
            collate_fn=collate_fn,
        )
        return UsableBatches(loader)


@contextlib.contextmanager
def _one_line_errors(output_dir: Path) -> Iterator[None]:
    """Turn OSErrors inside ESPnet (a full disk, mostly) into UserErrors."""
    try:
        if output_dir.is_dir():
            _check_room(output_dir)
        with mock.patch.object(threading, "excepthook", _thread_failed):
            yield
    except BrokenPipeError:
        raise
    except OSError as e:
        logging.debug("", exc_info=True)
        reason = e.strerror or str(e).partition("\n")[0]
        full = "free some space; --resume true goes on from the last whole epoch"
        mend = full if e.errno in _FULL else "check that path, and who may use it"
        raise UserError(f"{e.filename or output_dir}: {reason}; {mend}") from e


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Log an OSError of TensorBoard's thread, which the main thread raises too."""
    if isinstance(args.exc_value, OSError):
        logging.warning("%s: %s", getattr(args.thread, "name", ""), args.exc_value)
    else:
        threading.__excepthook__(args)


def _check_room(directory: Path) -> None:
    """Fail on a full disk before ESPnet truncates an old config.yaml."""
    with tempfile.TemporaryFile(dir=directory) as f:
        f.write(bytes(_ROOM))
        f.flush()
        os.fsync(f.fileno())


register()
