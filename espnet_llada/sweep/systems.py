"""Where a sweep's files are, and the models that decode its rows."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import math
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_llada.io.first_pass import read_first_pass
from espnet_llada.io.kaldi.table import read_recordings
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.types import LoadOptions, UserError

if TYPE_CHECKING:
    from espnet_llada.core.recognizer import Stages

_REMEMBERED = 1 << 29  # bytes of encoded audio that a process keeps


@dataclass(frozen=True)
class Place:
    """Where everything is, and in how many shards a set is decoded; see ``sweep``."""

    model: str
    data: Path
    output: Path
    loading: LoadOptions
    allow_pipes: bool = False
    first_pass: Path | None = None
    shards: int = 1

    def recordings(self, name: str) -> dict[str, str]:
        """The audio of a set."""
        return read_recordings(self.data / name / "wav.scp", self.allow_pipes)

    def text(self, row: str, name: str) -> Path:
        """The transcripts of a row and a set; written when all shards are done."""
        return self.output / row / name / "text"

    def shard(self, row: str, name: str, number: int) -> Path:
        """The directory of one shard, from 1 on; see ``DecodeDir``."""
        return self.output / row / name / f"logdir/output.{number}"

    def given(self, name: str) -> dict[str, str]:
        """The transcripts of a set for rows of ``system: text``, in its order.

        Raises:
            UserError: there is no such file, or an utterance has no line in it.
        """
        path, audio = Path(self.first_pass or ""), self.recordings(name)
        texts = read_first_pass(path / name / "text" if path.is_dir() else path, audio)
        return {utt: texts[utt] for utt in audio}


class Systems:
    """The models of a process, each loaded when it is first needed.

    Args:
        place: see there.
        remember: of a sweep, whose rows come system by system: keep the encoded audio,
            which is the same for every row, and one system at a time.
    """

    def __init__(self, place: Place, remember: bool = True):
        self.place, self.remember = place, remember
        self._models: dict[tuple[str, bool], tuple[Any, Stages]] = {}
        self._peers: dict[bool, Any] = {}
        self._system = ""

    def recognizer(self, row: SweepRow):
        """What decodes a row."""
        if self.remember and row.system != self._system:
            self._models.clear()
            self.__dict__.pop("_whisper", None)
            gc.collect()
        self._system = row.system
        if row.system == "whisper":
            return self._whisper
        if row.system == "faster_whisper":
            return self._faster_whisper(row.decoding.quantize_asr_model)
        from espnet_llada.inference.recognizer import Transcriber

        model, stages = self._model(row.system, row.decoding.quantize_asr_model)
        given = row.decoding.use_audio, row.decoding.output_case
        return Transcriber(model, row.options, *given, stages)

    def files(self, system: str) -> dict[str, Path]:
        """What decides a row's transcripts besides its options."""
        from espnet_llada.inference.loading import find_model
        from espnet_llada.io.weights import weight_files

        if system == "text":
            return {}
        if system == "whisper":
            path = self._whisper_file
            if path.is_dir():
                return {f"whisper {f.name}": f for f in weight_files(path)}
            return {"whisper_file": path}
        names = ("asr_train_config", "asr_model_file")
        return dict(zip(names, find_model(self.place.model, system), strict=True))

    def check(self, systems: Iterable[str], processes: int) -> None:
        """Refuse before anything is decoded what could not be loaded.

        Args:
            systems: all that rows need.
            processes: each of which will load them.

        Raises:
            UserError: a model is not there or is of another system, its frozen weights
                are nowhere, or there is too little memory for them.
        """
        systems = [system for system in systems if system != "text"]
        for system in systems:
            self._check_kind(system)
        place, free, number = _free_memory(self.place.loading.device)
        together = math.ceil(processes / number)
        need = max(map(self._weight_bytes, systems), default=0) * together
        if need > free:
            raise UserError(
                f"{place}: {need / 1e9:.1f} GB of weights in {together} process(es) "
                f"where {free / 1e9:.1f} GB are free; take fewer processes, or weights "
                "in bfloat16"
            )

    def _check_kind(self, system: str) -> None:
        from espnet_llada.inference.loading import read_train_config

        config = self.files(system).get("asr_train_config")
        kind = system if config is None else read_train_config(config)["decoder"]
        if kind != system:
            raise UserError(
                f"{config}: a {kind} where rows need a {system}; name a --model that "
                f"has a {system} too, or leave them out by --rows"
            )

    def _weight_bytes(self, system: str) -> int:
        """Of the frozen weights, which are fetched if need be; a lower bound."""
        import torch

        from espnet_llada.build import is_ours
        from espnet_llada.inference.loading import read_train_config
        from espnet_llada.io import weights
        from espnet_llada.io.weights.tensors import stored_safetensors
        from espnet_llada.networks.whisper_file import open_whisper

        def size(tensors: Iterable, dtype: str) -> int:
            itemsize = getattr(torch, dtype).itemsize
            return sum(t.shape.numel() for t in tensors) * itemsize

        if system == "whisper":
            on_gpu = self.place.loading.device.startswith("cuda")
            dtype = "float16" if on_gpu else "float32"
            parts = (open_whisper(self._whisper_file, p) for p in _WHISPER)
            return sum(size(part.tensors.values(), dtype) for part in parts)
        config = read_train_config(self.files(system)["asr_train_config"])
        conf = config.get("decoder_conf") or {}
        lm = self.place.loading.lm or conf.get("lm", "smollm2-135m")
        path = weights.resolve(lm, "lm").path
        files = [f for f in weights.weight_files(path) if f.suffix == ".safetensors"]
        total = size(stored_safetensors(files).values(), conf.get("dtype", "float32"))
        if is_ours(config):
            conf = config.get("encoder_conf") or {}
            whisper = self.place.loading.whisper or conf.get("whisper", _WHISPER_NAME)
            encoder = open_whisper(weights.resolve(whisper, "whisper").path).tensors
            total += size(encoder.values(), conf.get("dtype", "float32"))
        return total

    @functools.cached_property
    def _whisper_file(self) -> Path:
        from espnet_llada.inference.loading import find_model, read_train_config
        from espnet_llada.io import weights

        if name := self.place.loading.whisper:
            return weights.resolve(name, "whisper").path
        try:
            file = find_model(self.place.model, "llama")[0]
        except UserError:  # of a release there is the other alone
            file = find_model(self.place.model, "llada")[0]
        conf = read_train_config(file).get("encoder_conf") or {}
        name = conf.get("whisper", _WHISPER_NAME)
        return weights.resolve(name, "whisper").path

    @functools.cached_property
    def _whisper(self):
        from espnet_llada.baseline.whisper_decoder import WhisperDecoder

        return WhisperDecoder(self._whisper_file, self.place.loading.device)

    def _faster_whisper(self, quantize: bool):
        import torch

        from espnet_llada.baseline.faster_whisper import FasterWhisper

        if quantize not in self._peers:
            kind, threads = "int8" if quantize else "float32", torch.get_num_threads()
            self._peers[quantize] = FasterWhisper(kind, threads)
        return self._peers[quantize]

    def _model(self, system: str, quantize: bool) -> tuple[Any, Stages]:
        if (system, quantize) in self._models:
            return self._models[system, quantize]
        from espnet_llada.core.recognizer import Stages
        from espnet_llada.inference.loading import find_model, load_model

        files = find_model(self.place.model, system)
        options = dataclasses.replace(self.place.loading, quantize_asr_model=quantize)
        model = load_model(*files, options)
        encode = Encoded(model.encode) if self.remember else model.encode
        self._models[system, quantize] = model, Stages(encode)
        return self._models[system, quantize]


_WHISPER = ("encoder", "decoder")
_WHISPER_NAME = "whisper-tiny.en"


def _free_memory(device: str) -> tuple[str, float, int]:
    """Where weights are loaded to, its free bytes, and how many such places there are.

    Of a machine that does not say, without end.
    """
    if device.startswith("cuda"):
        import torch

        from espnet_llada.networks.device import check_device

        check_device(device)
        number = torch.cuda.device_count() if device == "cuda" else 1
        return f"device {device}", torch.cuda.mem_get_info(device)[0], number
    try:
        info = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        info = ""
    found = re.search(r"^MemAvailable: +(\d+) kB", info, re.MULTILINE)
    return "this machine", int(found[1]) * 1024 if found else float("inf"), 1


def spread_over_gpus(loading: LoadOptions, number: int) -> LoadOptions:
    """Of process ``number``, from 0 on: with ``cuda`` each takes the next GPU."""
    if loading.device != "cuda":
        return loading
    import torch

    gpus = max(1, torch.cuda.device_count())
    return dataclasses.replace(loading, device=f"cuda:{number % gpus}")


def threads_of(processes: int) -> int:
    """Of each process: the cores are shared out evenly."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


class Encoded:
    """Remembers the encoded audio of each batch, which is the same for every row.

    Attributes:
        spared: seconds that remembering has saved since it was last set to 0. They
            are added to a row's time, so that its RTF is that of the whole system.
    """

    def __init__(self, encode):
        self._encode, self._memory, self._bytes = encode, {}, 0
        self.spared = 0.0

    def __call__(self, speech, lengths):
        """As the model's own ``encode``."""
        digest = hashlib.blake2b(speech.cpu().numpy().tobytes())
        key = digest.digest(), tuple(lengths.tolist())
        if key in self._memory:
            *result, seconds = self._memory[key]
            self.spared += seconds
            return tuple(result)
        start = time.perf_counter()
        audio, sizes = self._encode(speech, lengths)
        seconds = time.perf_counter() - start
        self._bytes += audio.numel() * audio.element_size()
        if self._bytes < _REMEMBERED:
            self._memory[key] = audio, sizes, seconds
        return audio, sizes
