"""Where a run keeps its files: asr.sh's directory names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.recipe.options import Options

_LONGEST_TAG = 150  # a file name may have 255 bytes, and others are appended


@dataclass(frozen=True)
class Layout:
    """Paths derived from the options, relative to the recipe's directory."""

    options: Options

    @property
    def feats(self) -> Path:
        """``dump/raw``: recordings; these are decoded, whatever is trained on."""
        return Path(self.options.dumpdir) / "raw"

    @property
    def train(self) -> Path:
        """The filtered training set."""
        return self._trained_on / self.options.train_set

    @property
    def valid(self) -> Path:
        """The filtered validation set."""
        return self._trained_on / self.options.valid_set

    @property
    def inputs(self) -> tuple[tuple[str, str, str], ...]:
        """What is trained on: file of a training set, name, and ESPnet's kind of it.

        The first file lists the utterances. ``extracted`` are frames that
        ``espnet-llada features`` wrote; ``text`` adapts the LM without any speech.
        """
        speech = {
            "raw": (("wav.scp", "speech", "sound"),),
            "extracted": (("feats.scp", "speech", "kaldi_ark"),),
            "text": (),
        }
        return (*speech[self.options.feats_type], ("text", "text", "text"))

    @property
    def tokens(self) -> str:
        """``hugging_face_<LM>``, a part of several names."""
        lm = self.options.hugging_face_model_name_or_path
        if lm and Path(lm).exists():
            lm = Path(lm).resolve().name  # a path would not fit into a name
        return f"{self.options.token_type}_{lm.replace('/', '-')}"

    @property
    def token_list(self) -> Path:
        """``data/en_token_list/hugging_face_<LM>/tokens.txt``."""
        lang = "" if self.options.lang == "noinfo" else f"{self.options.lang}_"
        return Path("data") / f"{lang}token_list" / self.tokens / "tokens.txt"

    @property
    def stats(self) -> Path:
        """Directory of stage 10."""
        if self.options.asr_stats_dir:
            return Path(self.options.asr_stats_dir)
        return Path(self.options.expdir) / f"asr_stats_{self._kind}"

    @property
    def exp(self) -> Path:
        """Directory of the model."""
        if self.options.asr_exp:
            return Path(self.options.asr_exp)
        return Path(self.options.expdir) / f"asr_{self._asr_tag}"

    @property
    def decode(self) -> Path:
        """Directory of the results of one way of decoding."""
        return self.exp / self._inference_tag

    @property
    def packed_model(self) -> Path:
        """The zip of stage 14."""
        model = self.options.inference_asr_model.rpartition(".")[0]
        return self.exp / f"{self.exp.name}_{model}.zip"

    def decoded_sets(self) -> list[tuple[Path, Path]]:
        """For each set to decode its data directory and its results' directory."""
        names = self.options.test_sets.split()
        if self.options.eval_valid_set:
            names.insert(0, f"org/{self.options.valid_set}")
        return [(self.feats / name, self.decode / name) for name in names]

    @property
    def _trained_on(self) -> Path:
        return Path(self.options.dumpdir) / self.options.feats_type

    @property
    def _kind(self) -> str:
        parts = [self.options.feats_type, self.tokens]
        if self.options.lang != "noinfo":
            parts.insert(1, self.options.lang)
        return "_".join(parts)

    @property
    def _asr_tag(self) -> str:
        if self.options.asr_tag:
            return self.options.asr_tag
        config = Path(self.options.asr_config).stem if self.options.asr_config else ""
        return _short(
            f"{config or 'train'}_{self._kind}{_spell(self.options.asr_args)}"
        )

    @property
    def _inference_tag(self) -> str:
        if self.options.inference_tag:
            return self.options.inference_tag
        config = self.options.inference_config
        name = Path(config).stem if config else "inference"
        model = self.options.inference_asr_model.replace("/", "_").rpartition(".")[0]
        return _short(f"{name}{_spell(self.options.inference_args)}_asr_model_{model}")


def _spell(args: str) -> str:
    """``--max_epoch 10`` as ``_max_epoch10``."""
    return re.sub(r"[ |=/]", "", args.replace("--", "_"))


def _short(tag: str) -> str:
    if len(tag) <= _LONGEST_TAG:
        return tag
    return f"{tag[: _LONGEST_TAG - 9]}_{hashlib.sha256(tag.encode()).hexdigest()[:8]}"
