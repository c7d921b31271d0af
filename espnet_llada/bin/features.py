"""Encode speech once and keep the frames, so that training skips the frozen encoder."""

from __future__ import annotations

import argparse
import logging
import os
import queue
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from espnet_llada.bin.decoding import add_pipe_option
from espnet_llada.bin.options import OfKind, OptionParser, run_main, str2bool
from espnet_llada.io.kaldi.table import read_numbers, read_recordings, read_table
from espnet_llada.io.malloc import keep_freed_memory
from espnet_llada.io.process_pool import CONTEXT, ProcessPool
from espnet_llada.io.schema import Count, Jobs
from espnet_llada.types import SAMPLE_RATE, UserError, atomic_write, check_directory

_EXAMPLE = """\
example, between stages 4 and 10 of the recipe:
  espnet-llada features --config conf/train_asr_whisper_llada_demo.yaml \\
      --wav_scp dump/raw/train_mini/wav.scp --output dump/extracted/train_mini
  espnet-llada features --config conf/train_asr_whisper_llada_demo.yaml \\
      --wav_scp dump/raw/dev_mini/wav.scp --output dump/extracted/dev_mini
  ./run.sh --feats_type extracted --stage 10 ...

OUTPUT becomes a data directory: text and utt2spk are those of WAV_SCP's, and
training reads OUTPUT/feats.scp,speech,kaldi_ark. A run that was broken off goes on
where it stopped; utterances that are there already are not encoded again. Frames of
one encoder are refused by a training with another one, or with other padding.
"""
_SECONDS = Annotated[float, Meta(gt=0.0, le=1e6)]
_COPIED = ("text", "utt2spk", "spk2utt")
_UNKNOWN_LENGTH = 10 * SAMPLE_RATE  # guess where no header tells it

_encoder: Any = None  # of a worker process


def get_parser() -> argparse.ArgumentParser:
    """The options of ``espnet-llada features``."""
    parser = OptionParser("espnet-llada features", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument(
        "--config", dest="train_config", required=True, help="train YAML"
    )
    parser.add_argument("--wav_scp", required=True, help="'id path' lines")
    parser.add_argument("--output", required=True, help="directory of the features")
    add_pipe_option(parser)
    parser.add_argument(
        "--nj", type=OfKind(Jobs), default=1, help="processes (default: 1)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda (all of them), …")
    parser.add_argument(
        "--storage",
        default="float16",
        choices=("float16", "float32"),
        help="float16 (default) halves the size; a bfloat16 encoder loses nothing",
    )
    parser.add_argument(
        "--shard_size",
        type=OfKind(Count),
        default=256,
        help="utterances (default: 256)",
    )
    parser.add_argument(
        "--batch_seconds",
        type=OfKind(_SECONDS),
        default=60.0,
        help="at once (default: 60)",
    )
    parser.add_argument(
        "--verify",
        type=str2bool,
        default=False,
        help="true: compare the checksum of every shard first, mend what is damaged",
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Write the features of a wav.scp.

    Raises:
        UserError: options, files or weights do not fit.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    output = Path(args.output)
    check_directory(output)
    if output.resolve() == Path(args.wav_scp).resolve().parent:
        raise UserError(f"{output}: holds the recordings; name another --output")
    conf = _encoder_conf(args.train_config)
    table = read_recordings(args.wav_scp, args.allow_pipes)
    copied = [Path(args.wav_scp).with_name(name) for name in _COPIED]
    for source in filter(Path.is_file, copied[:2]):
        if lacking := table.keys() - read_table(source).keys():
            raise UserError(
                f"{source}: no line for '{min(lacking)}'; add it, or take it out of "
                f"{args.wav_scp}"
            )
    from espnet_llada.build import build_encoder
    from espnet_llada.io import feature_cache

    encoder = build_encoder(**conf)
    wanted = encoder.identity(encoder.weights)
    with feature_cache.locked(output, wanted):
        _fill(args, conf, table)
        entries = feature_cache.stored_entries(output, args.storage)
        for source in filter(Path.is_file, copied):
            with atomic_write(output / source.name) as temporary:
                shutil.copyfile(source, temporary)
        feature_cache.write_tables(output, entries, table, encoder.d_model)
    hours = sum(entries[u].frames for u in table) / 50 / 3600
    size = sum(p.stat().st_size for p in {entries[u].ark for u in table}) / 1e9
    sys.stdout.write(
        f"{output / 'feats.scp'}: {len(table)} utterances, {hours:.2f} h of frames, "
        f"{size:.2f} GB\n"
    )


def _encoder_conf(train_config: str) -> dict[str, Any]:
    from espnet_llada.build import ENCODER
    from espnet_llada.inference.loading import read_train_config

    config = read_train_config(train_config)
    if config.get("encoder") != ENCODER:
        raise UserError(
            f"{train_config}: encoder '{config.get('encoder')}' is trained, so its "
            f"frames change; only those of '{ENCODER}' can be kept"
        )
    return config.get("encoder_conf") or {}


def _fill(args: argparse.Namespace, conf: dict, table: dict[str, str]) -> None:
    """Encode what is not there yet."""
    from tqdm import tqdm

    from espnet_llada.io import feature_cache

    output = Path(args.output)
    have = feature_cache.stored_entries(output, args.storage, args.verify)
    missing = [u for u in table if u not in have or have[u].source != table[u]]
    utterances = _by_length({u: table[u] for u in missing}, Path(args.wav_scp))
    # Long ones first: the last shards to finish are then short.
    utterances.sort(key=lambda u: (-u.samples, u.utt_id))
    shards = []
    number = feature_cache.next_shard(output)
    for i, start in enumerate(range(0, len(utterances), args.shard_size)):
        ark = output / f"frames.{number + i}.ark"
        shards.append((ark, utterances[start : start + args.shard_size]))
    with tqdm(
        total=len(table),
        initial=len(table) - len(missing),
        unit="utt",
        delay=2,
        disable=None,
        leave=False,
    ) as bar:
        for count in _run(args, conf, shards):
            bar.update(count)


def _by_length(table: dict[str, str], wav_scp: Path) -> list:
    from espnet_llada.networks.feature_writer import Utterance

    counts = wav_scp.with_name("utt2num_samples")  # of stage 3
    known = read_numbers(counts) if counts.is_file() else {}

    def utterance(item: tuple[str, str]) -> Utterance:
        utt_id, path = item
        samples = known[utt_id][0] if utt_id in known else _samples(path)
        return Utterance(utt_id, path, samples)

    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(utterance, table.items()))


def _samples(path: str) -> int:
    import soundfile

    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, TypeError):
        return _UNKNOWN_LENGTH  # an ark, or one that load_audio will name
    # 0: of a recorder that died; load_audio reads what there is.
    return round(info.frames * SAMPLE_RATE / info.samplerate) or _UNKNOWN_LENGTH


def _run(args: argparse.Namespace, conf: dict, shards: Sequence) -> Iterator[int]:
    """Write the shards; yields the number of utterances of each one done."""
    jobs = min(args.nj, len(shards))
    options = (args.storage, args.batch_seconds)
    if not jobs:
        return
    if jobs == 1:
        _start(conf, _devices(args.device, 1, queue.SimpleQueue()))
        yield from (_work(*shard, *options) for shard in shards)
        return
    devices = _devices(args.device, jobs, CONTEXT.Queue())
    threads = max(1, (os.cpu_count() or 1) // jobs)
    hint = "run it again with a smaller --nj or --batch_seconds; it goes on from here"
    with ProcessPool(jobs, _start, (conf, devices, threads), hint) as pool:
        futures = [pool.submit(_work, *shard, *options) for shard in shards]
        yield from (future.result() for future in as_completed(futures))


def _devices(device: str, jobs: int, devices: Any) -> Any:
    """The queue ``devices`` with one device for each process."""
    import torch

    from espnet_llada.networks.device import check_device

    check_device(device)
    count = torch.cuda.device_count() if device == "cuda" else 0
    for i in range(jobs):
        devices.put(f"cuda:{i % count}" if count else device)
    return devices


def _start(conf: dict, devices: Any, threads: int = 0) -> None:
    """Load the encoder into this process, a pool's where ``threads`` are given."""
    global _encoder
    import torch

    from espnet_llada.build import build_encoder

    if threads:
        keep_freed_memory()
        torch.set_num_threads(threads)
    _encoder = build_encoder(**conf).to(devices.get())


def _work(ark: Path, utterances: Sequence, storage: str, seconds: float) -> int:
    from espnet_llada.networks.feature_writer import write_shard

    write_shard(ark, utterances, _encoder, storage, seconds)
    return len(utterances)


if __name__ == "__main__":
    run_main(main)
