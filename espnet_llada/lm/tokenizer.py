"""The LM's tokenizer; the only place that knows token ids and text case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_llada.types import UserError

CASES = ("lower", "upper", "keep")


def to_case(text: str, case: str) -> str:
    """``text`` in ``case``: lower, upper or keep.

    Raises:
        UserError: an unknown case.
    """
    if case not in CASES:
        raise UserError(f"text case {case!r}; allowed: {', '.join(CASES)}")
    return {"lower": text.lower, "upper": text.upper, "keep": lambda: text}[case]()


class LMTokenizer:
    """Text <-> token ids of a checkpoint directory that holds a tokenizer.json.

    Args:
        path: the LM's directory.
        text_case: transcripts are written so before they are tokenized. LibriSpeech
            is in capitals, which cost an LM about 1.5 times the tokens.
    """

    def __init__(self, path: Path, text_case: str = "lower"):
        from espnet_llada.torchaudio_guard import import_torchaudio

        import_torchaudio()  # transformers imports it
        from transformers import PreTrainedTokenizerFast

        to_case("", text_case)
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"{path}: no tokenizer.json in it; name a complete LM")
        self._hf = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        self.text_case = text_case
        if self._hf.eos_token_id is None:
            raise UserError(
                f"{path}: its tokenizer names no eos_token; name another LM"
            )

    @property
    def eos_id(self) -> int:
        return self._hf.eos_token_id

    @property
    def mask_id(self) -> int | None:
        """Id of the tokenizer's own mask token; None where it has none."""
        return self._hf.mask_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a transcript, without any special token."""
        cased = to_case(" ".join(text.split()), self.text_case)
        return self._hf.encode(cased, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response: special tokens dropped, white space single."""
        return " ".join(self._hf.decode(list(ids), skip_special_tokens=True).split())

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The token strings of ids, without white space inside."""
        return [t or "<unk>" for t in self._hf.convert_ids_to_tokens(list(ids))]

    def prompt(self, text: str, chat_template: bool) -> list[int]:
        """Ids that stand before the audio.

        Args:
            text: the instruction, e.g. "Transcribe the audio:".
            chat_template: wrap it as a user's turn with generation prompt, as the
                paper does for LLaDA-8B-Instruct; plain otherwise.
        """
        if not chat_template:
            return self._hf.encode(text, add_special_tokens=True)
        if not self._hf.chat_template:
            raise UserError(
                "chat_template: true, but this LM's tokenizer has no chat template; "
                "set chat_template: false"
            )
        turn = [{"role": "user", "content": text}]
        wrapped = self._hf.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=False
        )
        return self._hf.encode(wrapped, add_special_tokens=False)
