"""Stages 1 to 5: data directories, 16 kHz recordings, length filter, token list."""

from __future__ import annotations

import itertools
import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from espnet_llada.io.files import make_dir, write_text
from espnet_llada.io.kaldi.table import read_numbers
from espnet_llada.io.process_pool import ProcessPool
from espnet_llada.recipe.datadir import read_data_dir, write_data_dir, write_table
from espnet_llada.recipe.jobs import run_script
from espnet_llada.recipe.layout import Layout
from espnet_llada.recipe.logs import progress_bar
from espnet_llada.recipe.tokens import write_token_list
from espnet_llada.types import SAMPLE_RATE, UserError, atomic_write

logger = logging.getLogger(__name__)

_POOL_PAYS = 64  # recordings; below, starting processes costs more than it saves


def prepare(layout: Layout) -> None:
    """Stage 1: run the recipe's ``local/data.sh``."""
    script = "local/data.sh"
    if not os.access(script, os.X_OK):
        raise UserError(f"{script}: cannot run it here; cd to the recipe first")
    run_script([script, *shlex.split(layout.options.local_data_opts)])


def format_sets(layout: Layout) -> None:
    """Stage 3: recordings that training can read, ``dump/raw/[org/]<set>``.

    Raises:
        UserError: a recording is missing, empty or corrupt; the set's tables are then
            as they were.
    """
    options = layout.options
    if not options.skip_train:
        _format_set(layout, options.train_set, "org")
    if not options.skip_train or options.eval_valid_set:
        _format_set(layout, options.valid_set, "org")
    for name in options.test_sets.split():
        _format_set(layout, name)


def _format_set(layout: Layout, name: str, folder: str = "") -> None:
    options, out = layout.options, layout.feats / folder / name
    data = sorted(read_data_dir(Path("data") / name, options.allow_pipes).values())
    for u in data:
        if "/" in u.utt + u.speaker:
            raise UserError(f"data/{name}/utt2spk: '{u.utt}': an id cannot have a '/'")
    suffix = options.audio_format
    copies = [out / "data" / u.speaker / f"{u.utt}.{suffix}" for u in data]
    pairs = list(zip((u.audio for u in data), copies, strict=True))
    with progress_bar(len(data), f"format {name}") as bar:
        done = []
        for formatted in _format_all(pairs, options.nj):
            done.append(formatted)
            bar.update()
    found = list(zip(data, copies, done, strict=True))
    if converted := sum(path == str(copy) for _, copy, (path, _) in found):
        logger.info(
            "data/%s: %d of %d recordings were not 16 kHz mono FLAC or WAV; "
            "their copies are in %s/data",
            *(name, converted, len(done), out),
        )
    make_dir(out)
    write_text(out / "feats_type", "raw\n")
    write_text(out / "audio_format", f"{options.audio_format}\n")
    lengths = {u.utt: str(samples) for u, _, (_, samples) in found}
    write_table(out / "utt2num_samples", lengths)
    write_data_dir(out, [u._replace(audio=path) for u, _, (path, _) in found])


def _format_all(
    recordings: list[tuple[str, Path]], nj: int
) -> Iterator[tuple[str, int]]:
    if nj == 1 or len(recordings) < _POOL_PAYS:
        yield from itertools.starmap(_format, recordings)
        return
    with ProcessPool(nj) as pool:
        futures = [pool.submit(_format, *recording) for recording in recordings]
        yield from (future.result() for future in futures)


def _format(source: str, copy: Path) -> tuple[str, int]:
    """Decode a recording wholly, and write a 16 kHz mono copy if it is not that.

    Returns:
        The path of what is to be used, and its length in samples.

    Raises:
        UserError: it is missing, empty or corrupt.
    """
    import soundfile

    from espnet_llada.io.audio.reading import load_audio

    samples = load_audio(source)
    if _is_plain(source, len(samples)):
        return source, len(samples)
    make_dir(copy.parent)
    with atomic_write(copy) as temporary:
        # The temporary name has no suffix to tell the format by.
        kind = copy.suffix[1:].upper()
        soundfile.write(temporary, samples, SAMPLE_RATE, "PCM_16", format=kind)
    return str(copy), len(samples)


def _is_plain(path: str, samples: int) -> bool:
    """Whether libsndfile alone, as in ESPnet, reads the same from it."""
    import soundfile

    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, TypeError):
        return False  # an entry of a Kaldi archive; *.raw
    kind = (info.samplerate, info.channels, info.frames)
    return info.format in ("FLAC", "WAV") and kind == (SAMPLE_RATE, 1, samples)


def filter_sets(layout: Layout) -> None:
    """Stage 4: drop training utterances that are too short, too long, or empty.

    Test sets are left whole, so that their scores stay comparable.
    """
    options = layout.options
    shortest, longest = (
        int(seconds * SAMPLE_RATE)
        for seconds in (options.min_wav_duration, options.max_wav_duration)
    )
    for name in (options.train_set, options.valid_set):
        source, out = layout.feats / "org" / name, layout.feats / name
        data = read_data_dir(source)
        samples = read_numbers(source / "utt2num_samples")
        fits = {u for u, (n, *_) in samples.items() if shortest < n < longest}
        kept = sorted(u for u in fits if u in data and data[u].text)
        if not kept:
            raise UserError(
                f"{source}: no utterance is left; widen --min_wav_duration (now "
                f"{options.min_wav_duration}) and --max_wav_duration (now "
                f"{options.max_wav_duration})"
            )
        logger.info(
            "%s: kept %d of %d utterances (%d outside %g to %g s, %d without text)",
            *(out, len(kept), len(samples), len(samples) - len(fits)),
            *(options.min_wav_duration, options.max_wav_duration),
            len(fits) - len(kept),
        )
        make_dir(out)
        for name in ("feats_type", "audio_format"):
            write_text(out / name, (source / name).read_text(encoding="utf-8"))
        write_table(out / "utt2num_samples", {u: str(samples[u][0]) for u in kept})
        write_data_dir(out, [data[u] for u in kept])


def list_tokens(layout: Layout) -> None:
    """Stage 5: the short token list."""
    write_token_list(layout.token_list)
    logger.info("wrote %s", layout.token_list)
