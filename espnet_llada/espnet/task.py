"""ESPnet2's ASR task as our commands run it."""

from __future__ import annotations

import argparse
from unittest import mock

import torch
from espnet2.tasks import asr
from espnet2.train.trainer import Trainer

from espnet_llada.checkpoint import atomic_torch_save
from espnet_llada.espnet.hooks import uses_our_decoder
from espnet_llada.espnet.register import register
from espnet_llada.types import UserError


class AtomicTrainer(Trainer):
    """ESPnet's Trainer; a checkpoint on disk is always a whole one."""

    @classmethod
    def run(cls, *args, **kwargs) -> None:
        # The Trainer calls torch.save by that name, in three places.
        with mock.patch.object(torch, "save", atomic_torch_save):
            super().run(*args, **kwargs)


class ASRTask(asr.ASRTask):
    """The ASR task of our commands: registered, atomic, errors in one line.

    Multi-GPU training spawns processes that import the task by name: importing this
    module registers our classes there too.
    """

    trainer = AtomicTrainer

    @classmethod
    def get_parser(cls):
        parser = super().get_parser()

        def error(message: str):
            raise UserError(message)

        parser.error = error
        return parser

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        if uses_our_decoder(args) and args.collect_stats:
            # Stage 10 needs lengths only: ESPnet then builds no model at all.
            args.model_conf = {
                **(args.model_conf or {}),
                "extract_feats_in_collect_stats": False,
            }
        super().main_worker(args)


register()
