#!/usr/bin/env python3
"""Rehearses the paper's system at full size on a CPU: random weights, one utterance.

    local/full_size.py --output /scratch/full_size

OUTPUT gets Whisper large-v3, LLaDA-8B-Instruct (true names, shapes and dtypes, noise
for weights) and the release's checkpoint; then each step of `run.sh --preset paper` is
run once, in a process of its own: convert, a decoding of one pass, a deliberation of
two, the plan. Printed are the time and the peak memory of each. Needs 20 GB of disk and
22 GB of memory; what was made is kept for the next time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import Process
from pathlib import Path

import torch
from make_tiny_paper import LLADA, release_tensors, write_tokenizer
from torch import Tensor

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.import_guards import import_torchaudio
from espnet_llada.io.files import new_directory, write_json
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.plan.architectures import LANGUAGE_MODELS
from espnet_llada.types import UserError

DISK, MEMORY = 20e9, 21e9
CLIP = Path("mini/LibriSpeech/test-clean-mini")
TOKENS = ("<|endoftext|>", "<|startoftext|>", "<|mdm_mask|>")
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}\n"
QFORMER = {"hidden": 768, "queries": 4, "ffn": 3072, "rank": 8}
_LAYERS_OF_A_FILE = 4


def llada_tensors() -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of LLaDA-8B's tensors, by the hub's names, file by file."""
    config = LANGUAGE_MODELS[LLADA]
    d, ffn, top = config["d_model"], config["mlp_hidden_size"], "model.transformer"
    table = (config["embedding_size"], d)
    yield {f"{top}.wte.weight": table, f"{top}.ln_f.weight": (d,)}
    yield {f"{top}.ff_out.weight": table}
    block = dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (d, d))
    block |= {"attn_norm": (d,), "ff_norm": (d,), "ff_out": (d, ffn)}
    block |= {"ff_proj": (ffn, d), "up_proj": (ffn, d)}
    for first in range(0, config["n_layers"], _LAYERS_OF_A_FILE):
        yield {
            f"{top}.blocks.{layer}.{name}.weight": shape
            for layer in range(first, first + _LAYERS_OF_A_FILE)
            for name, shape in block.items()
        }


def noise(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A norm's weight is 1, others are small."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(0.0, 0.02)


def write_llada(folder: Path) -> None:
    """LLaDA-8B-Instruct as the hub has it, 16 GB."""
    write_tokenizer(
        folder,
        ["the quick brown fox"],
        TOKENS,
        400,
        bos_token=TOKENS[1],
        eos_token=TOKENS[0],
        pad_token=TOKENS[0],
        chat_template=TEMPLATE,
    )
    write_json(folder / "config.json", LANGUAGE_MODELS[LLADA])
    files = list(llada_tensors())
    for number, shapes in enumerate(files, 1):
        part = {name: noise(shape, torch.bfloat16) for name, shape in shapes.items()}
        save_tensors(part, folder / f"model-{number:05}-of-{len(files):05}.safetensors")


def write_whisper(folder: Path) -> None:
    """Whisper large-v3 in Hugging Face's layout, 3 GB."""
    import_torchaudio()  # transformers imports it
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {"encoder_layers": 32, "decoder_layers": 32, "d_model": 1280}
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 20)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 5120)
    config = WhisperConfig(vocab_size=51866, num_mel_bins=128, **sizes)
    config.save_pretrained(folder)
    with torch.device("meta"):
        state = WhisperForConditionalGeneration(config).state_dict()
    state.pop("proj_out.weight", None)  # the embedding itself
    tensors = {name: noise(t.shape, torch.float16) for name, t in state.items()}
    save_tensors(tensors, folder / "model.safetensors")


def make(output: Path) -> None:
    """Write the weights, each directory once and complete."""
    for name, write in (
        ("whisper-large-v3", write_whisper),
        ("LLaDA-8B-Instruct", write_llada),
    ):
        if not (output / name).is_dir():
            with new_directory(output / name) as made:
                write(made)
    checkpoint = output / "checkpoint_best.pth"
    if not checkpoint.is_file():
        draws = torch.Generator().manual_seed(0)
        model = release_tensors(1280, LANGUAGE_MODELS[LLADA], QFORMER, draws)
        content = {"model": model, "optimizer": None, "epoch": 1, "config": {}}
        torch.save(content, checkpoint)


def run(title: str, *command: str) -> None:
    """Run ``espnet-llada`` in a process; print its time and its peak memory.

    Raises:
        UserError: it failed; what it said is above.
    """
    start = time.monotonic()
    words = [sys.executable, "-m", "espnet_llada.bin.cli", *command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{title}: ended with {process.returncode}; see above")
    peak = usage.ru_maxrss * 1024 / 1e9
    report(title, time.monotonic() - start, peak)


def report(title: str, seconds: float, peak: float | None = None) -> None:
    memory = "" if peak is None else f"{peak:8.1f} GB"
    sys.stdout.write(f"{title:44}{seconds:8.0f} s{memory}\n")
    sys.stdout.flush()


def check_room(output: Path) -> None:
    """Refuse a machine that is too small, before anything is written.

    Raises:
        UserError: too little disk or memory.
    """
    output.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output).free
    done = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    if free + done < DISK:
        raise UserError(f"{output}: {free / 1e9:.0f} GB free; it takes 20 GB")
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    known = dict(line.split(":") for line in lines)
    available = 1024 * int(known["MemAvailable"].split()[0])
    if available < MEMORY:
        raise UserError(
            f"{available / 1e9:.0f} GB of memory are free; the decoding takes 20 GB: "
            "end other programs, or take a larger machine"
        )


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=Path, required=True, help="directory of weights and model"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Make the weights and run each step."""
    output = get_parser().parse_args(cmd).output
    check_room(output)
    start = time.monotonic()
    maker = Process(target=make, args=(output,))  # whose memory goes with it
    maker.start()
    maker.join()
    if maker.exitcode:
        raise UserError(f"{output}: the weights could not be made; see above")
    report("random weights of true shapes", time.monotonic() - start)
    clip = min(CLIP.rglob("*.flac"))
    first_pass = output / "first_pass"
    first_pass.write_text(f"{clip.stem} A FIRST PASS OF FIVE WORDS\n")
    weights = {n: str(output / n) for n in ("whisper-large-v3", "LLaDA-8B-Instruct")}
    whisper, lm = weights.values()
    model = str(output / "model")
    run(
        "convert --release",
        *("convert", "--release", str(output / "checkpoint_best.pth")),
        *("--whisper", whisper, "--lm", lm, "--dtype", "bfloat16", "--output", model),
    )
    run("transcribe, 1 pass", "transcribe", str(clip), "--model", model, "--steps", "1")
    run(
        "deliberate, low confidence, 2 passes",
        *("deliberate", str(clip), "--model", model, "--steps", "2"),
        *("--first_pass", str(first_pass), "--strategy", "low_confidence"),
    )
    run("plan conf/sweep_paper.yaml", "plan", "conf/sweep_paper.yaml", "--gpu", "h100")


if __name__ == "__main__":
    run_main(main)
