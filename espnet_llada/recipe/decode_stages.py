"""Stages 12 and 13: decoding and scoring."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from espnet_llada.inference.decode_dir import FILES
from espnet_llada.io.files import write_text
from espnet_llada.io.kaldi.table import read_numbers, read_table
from espnet_llada.recipe.datadir import check_file, split_table
from espnet_llada.recipe.jobs import (
    Job,
    Tail,
    count_lines,
    python_command,
    run_jobs,
    run_script,
)
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.logs import progress_bar
from espnet_llada.types import UserError

logger = logging.getLogger(__name__)

_OF_JOB = re.compile(r"(?:keys|output|asr_inference)\.(\d{1,9})(?:\.scp|\.log)?")
"""What a job has in the log directory, asr.sh's as well."""


def decode(layout: Layout) -> None:
    """Stage 12: transcribe each test set.

    Raises:
        UserError: the model is missing, a job failed, or an utterance has no line.
    """
    check_file(layout.exp / "config.yaml", stage=11)
    model = layout.exp / layout.options.inference_asr_model
    if not model.is_file():
        have = ", ".join(sorted(p.name for p in layout.exp.glob("*.pth"))) or "none"
        raise UserError(
            f"{model}: no such checkpoint; name one with --inference_asr_model ({have})"
        )
    for data, out in layout.decoded_sets():
        _decode_set(layout, data, out)


def _decode_set(layout: Layout, data: Path, out: Path) -> None:
    options, logdir = layout.options, out / "logdir"
    utts = read_table(data / "wav.scp")
    nj = min(options.inference_nj, len(utts))
    logdir.mkdir(parents=True, exist_ok=True)
    _remove_other_split(logdir, nj)
    numbers = range(1, nj + 1)
    keys = [logdir / f"keys.{n}.scp" for n in numbers]
    outputs = [logdir / f"output.{n}" for n in numbers]
    logs = [logdir / f"asr_inference.{n}.log" for n in numbers]
    split_table(data / "wav.scp", keys)
    jobs = [
        Job(_inference_command(layout, data, key_file, output), log)
        for key_file, output, log in zip(keys, outputs, logs, strict=True)
    ]
    logger.info("decoding %s; logs: %s/asr_inference.*.log", data, logdir)
    tails = [Tail(output / "1best_recog" / "text") for output in outputs]
    with progress_bar(len(utts), f"decode {data.name}") as bar:
        run_jobs(jobs, lambda: bar.update(count_lines(tails)))
        bar.update(len(utts) - bar.n)
    for name in FILES:
        _concatenate([o / "1best_recog" / name for o in outputs], out / name, utts)
    _warn_of_failures([output / "failed" for output in outputs])
    _log_speed(out / "seconds")


def _remove_other_split(logdir: Path, nj: int) -> None:
    """Leave the jobs 1 to ``nj``, which go on where they were killed."""
    for path in logdir.glob("*.*"):
        if (found := _OF_JOB.fullmatch(path.name)) and int(found[1]) > nj:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _inference_command(
    layout: Layout, data: Path, key_file: Path, output: Path
) -> list[str]:
    options = layout.options
    values = {
        "batch_size": options.batch_size,
        "ngpu": 1 if options.gpu_inference else 0,
        "data_path_and_name_and_type": f"{data}/wav.scp,speech,sound",
        "key_file": key_file,
        "asr_train_config": layout.exp / "config.yaml",
        "asr_model_file": layout.exp / options.inference_asr_model,
        "output_dir": output,
        "allow_pipes": options.allow_pipes or None,
        "config": options.inference_config,
    }
    module, more = "espnet_llada.bin.asr_inference", options.inference_args
    return python_command(options.python, module, values, more)


def _concatenate(parts: list[Path], out: Path, utts: dict[str, str]) -> None:
    """Merge the jobs' files, line by line as asr.sh's ``cat | sort`` does.

    Scoring pairs lines, so each utterance must have one.
    """
    lines: dict[str, str] = {}
    for part in parts:
        content = part.read_text(encoding="utf-8") if part.is_file() else ""
        for line in content.split("\n"):
            if utt := line.partition(" ")[0]:
                lines[utt] = line
    if missing := utts.keys() - lines.keys():
        raise UserError(
            f"{out}: no line for '{min(missing)}'; see {parts[0].parents[2]}/*.log"
        )
    write_text(out, "".join(f"{lines[utt]}\n" for utt in sorted(lines)))


def _warn_of_failures(parts: list[Path]) -> None:
    """Say which utterances got an empty or unchanged transcript, and why."""
    found = [p.read_text(encoding="utf-8") for p in parts if p.is_file()]
    if lines := [line for text in found for line in text.split("\n") if line]:
        logger.warning("%d utterances failed; the first: %s", len(lines), lines[0])


def _log_speed(path: Path) -> None:
    spent, speech = map(sum, zip(*read_numbers(path, float).values(), strict=True))
    logger.info(
        "%s: %.1f s for %.1f s of speech, RTF %.3f",
        *(path.parent, spent, speech, spent / speech if speech else 0.0),
    )


def score(layout: Layout) -> None:
    """Stage 13: word and character error rates, and ``RESULTS.md``."""
    # At run time, so that data preparation works without the scorer's packages.
    from espnet_llada.scoring.report import write_results_md
    from espnet_llada.scoring.sclite import write_score_dir

    for data, out in layout.decoded_sets():
        for unit in ("word", "char"):
            folder = out / f"score_{unit[0]}er"
            write_score_dir(data / "text", out / "text", folder, unit)
            logger.info("wrote %s", folder / "result.txt")
    if os.access("local/score.sh", os.X_OK):
        given = shlex.split(layout.options.local_score_opts)
        run_script(["local/score.sh", *given, str(layout.exp)])
    results = write_results_md(layout.exp)
    sys.stdout.write(results.read_text(encoding="utf-8"))
    logger.info("wrote %s", results)
