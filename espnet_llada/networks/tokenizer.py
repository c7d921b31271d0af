"""The LM's tokenizer; the only place that knows token ids and text case."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct

from espnet_llada.io.files import check_content, read_json
from espnet_llada.io.schema import checked
from espnet_llada.types import UserError

CASES = ("lower", "upper", "keep")
_SPECIAL = ("unk_token", "bos_token", "eos_token", "pad_token", "mask_token")
_CHANGES_NOTHING = {
    *("tokenizer_class", "model_max_length", "chat_template"),
    "clean_up_tokenization_spaces",  # where it is false
}


def to_case(text: str, case: str) -> str:
    """``text`` in ``case``: lower, upper or keep.

    Raises:
        UserError: an unknown case.
    """
    if case not in CASES:
        raise UserError(f"text case {case!r}; allowed: {', '.join(CASES)}")
    return text if case == "keep" else getattr(text, case)()


class LMTokenizer:
    """Text <-> token ids of a checkpoint directory that holds a tokenizer.json.

    Args:
        path: the LM's directory.
        text_case: transcripts are written so before they are tokenized. LibriSpeech
            is in capitals, which cost an LM about 1.5 times the tokens.
    """

    def __init__(self, path: Path, text_case: str = "lower"):
        to_case("", text_case)
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"{path}: no tokenizer.json in it; name a complete LM")
        for file in sorted(path.glob("*token*.json")):
            check_content(file, file.read_bytes())
        self.path, self.text_case = path, text_case
        self._tokenizer = _PlainTokenizer.read(path) or self._hf
        if self._tokenizer.eos_token_id is None:
            raise UserError(
                f"{path}: its tokenizer names no eos_token; name another LM"
            )

    @cached_property
    def _hf(self) -> Any:
        from espnet_llada.import_guards import import_torchaudio

        import_torchaudio()  # transformers imports it
        from transformers import PreTrainedTokenizerFast

        with _as_user_error(self.path):
            return PreTrainedTokenizerFast.from_pretrained(
                self.path, local_files_only=True
            )

    @cached_property
    def fingerprint(self) -> int:
        """A number below 2**63 that differs for tokenizers with other ids."""
        digest = hashlib.sha256((self.path / "tokenizer.json").read_bytes())
        digest.update(self.text_case.encode())
        return int.from_bytes(digest.digest()[:8], "big") >> 1

    @property
    def eos_id(self) -> int:
        return self._tokenizer.eos_token_id

    @property
    def mask_id(self) -> int | None:
        """Id of the tokenizer's own mask token; None where it has none."""
        return self._tokenizer.mask_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a transcript, without any special token."""
        cased = to_case(" ".join(text.split()), self.text_case)
        with _as_user_error(self.path):
            return self._tokenizer.encode(cased, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response: special tokens dropped, white space single."""
        with _as_user_error(self.path):
            text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return " ".join(text.split())

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The token strings of ids, without white space inside."""
        return [t or "<unk>" for t in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def word_numbers(self, ids: Sequence[int]) -> list[int]:
        """For each token the number of the word that it belongs to."""
        counts = [len(self.decode(ids[: i + 1]).split()) for i in range(len(ids))]
        return [max(0, count - 1) for count in counts]

    def prompt(self, text: str, chat_template: bool) -> list[int]:
        """Ids that stand before the audio.

        Args:
            text: the instruction, e.g. "Transcribe the audio:".
            chat_template: wrap it as a user's turn with generation prompt, as the
                paper does for LLaDA-8B-Instruct; plain otherwise.
        """
        if not chat_template:
            with _as_user_error(self.path):
                return self._tokenizer.encode(text, add_special_tokens=True)
        if not self._hf.chat_template:
            raise UserError(
                "chat_template: true, but this LM's tokenizer has no chat template; "
                "set chat_template: false"
            )
        turn = [{"role": "user", "content": text}]
        with _as_user_error(self.path):
            wrapped = self._hf.apply_chat_template(
                turn, add_generation_prompt=True, tokenize=False
            )
            return self._hf.encode(wrapped, add_special_tokens=False)


class _Config(Struct):
    """The part of tokenizer_config.json where a bad value would crash transformers."""

    model_max_length: float | None = None
    clean_up_tokenization_spaces: bool | None = None


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    """Turn any error of tokenizers or transformers into a UserError.

    A panic of the former's Rust is not even an Exception.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:
        raise UserError(
            f"{path}: its tokenizer is of no use ({type(e).__name__}: {e!s:.200}); "
            "fetch it again"
        ) from e


class _PlainTokenizer:
    """A tokenizer that needs nothing but its tokenizer.json, so no transformers.

    That takes a second to import; the rest of a short utterance takes no longer.
    Attributes and methods are ``PreTrainedTokenizerFast``'s.
    """

    def __init__(self, tokenizer: Any, ids: Mapping[str, int]):
        self._tokenizer = tokenizer
        self.eos_token_id = ids.get("eos_token")
        self.mask_token_id = ids.get("mask_token")

    @classmethod
    def read(cls, path: Path) -> _PlainTokenizer | None:
        """None if other files change the tokenizer, so that transformers is needed."""
        from tokenizers import Tokenizer

        if not (path / "tokenizer_config.json").exists():
            return None
        settings = read_json(path / "tokenizer_config.json")
        checked(settings, _Config, path / "tokenizer_config.json")
        with _as_user_error(path):
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        others = ("special_tokens_map.json", "added_tokens.json")
        strange = set(settings) - {*_SPECIAL, *_CHANGES_NOTHING}
        strange |= {name for name in others if (path / name).exists()}
        if strange or settings.get("clean_up_tokenization_spaces") is not False:
            return None
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content: i for i, token in added.items() if token.special}
        named = {name: settings[name] for name in _SPECIAL if settings.get(name)}
        if any(token not in special for token in map(str, named.values())):
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, {name: special[token] for name, token in named.items()})

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return encoded.ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [*map(self._tokenizer.id_to_token, ids)]
