"""Options of ``espnet2.bin.asr_inference`` that ours does not have.

A YAML written for another decoder is taken where that changes nothing: a value that
asks for nothing is accepted, an option that cannot matter is ignored with a warning,
and any other is refused with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import checked
from espnet_llada.types import UserError

TEXT = str | None


@dataclass(frozen=True)
class Foreign:
    """An option of ESPnet's.

    Attributes:
        kind: its type.
        reason: why it has no effect here.
        asks_nothing: values that are accepted without a word, as None is.
        matters: whether other values do, and are refused: never, always, or for a
            model with a CTC or a beam. Where they do not, they are ignored.
    """

    kind: Any
    reason: str
    asks_nothing: tuple[Any, ...] = ()
    matters: Literal["never", "always", "with a CTC", "with a beam"] = "always"


_TOKENS = "the LM has a tokenizer of its own"
_FUSION = "no second LM is fused with this decoder"
_WEIGHT = "there is no LM to fuse"
_SEARCH = "there is no beam of hypotheses to choose from"
_PARTIAL = "is for partially autoregressive decoding"
_OTHER = "is for another kind of model"
_PROMPT = "the prompt is that of the training (decoder_conf: prompt)"
_INT8 = "quantize_asr_model makes the linear layers int8"

ESPNET = {
    "maxlenratio": Foreign(
        float,
        "a share of encoder frames; a canvas is counted in tokens: set canvas_length, "
        "or canvas_size.tokens_per_second",
        (0,),
    ),
    "minlenratio": Foreign(float, "the LM itself ends a transcript; set it to 0", (0,)),
    "dtype": Foreign(
        str, "it is that of the training (decoder_conf: dtype)", ("float32",)
    ),
    "ctc_weight": Foreign(
        float,
        "no search combines CTC scores here; for its draft see mask_ctc",
        (0,),
        matters="with a CTC",
    ),
    "penalty": Foreign(
        float, "the beam search has no length bonus", (0,), matters="with a beam"
    ),
    "normalize_length": Foreign(
        bool, "the beam search compares whole scores", (False,), matters="with a beam"
    ),
    "token_type": Foreign(TEXT, _TOKENS, matters="never"),
    "bpemodel": Foreign(TEXT, _TOKENS, matters="never"),
    "num_workers": Foreign(int, "audio is read by the same process", matters="never"),
    "allow_variable_data_keys": Foreign(bool, "only speech is read", matters="never"),
    "ctc_window_margin": Foreign(int, "there is no CTC search", matters="never"),
    "lm_weight": Foreign(float, _WEIGHT, (0,), matters="never"),
    "ngram_weight": Foreign(float, _WEIGHT, (0,), matters="never"),
    "threshold_probability": Foreign(float, _PARTIAL, matters="never"),
    "max_seq_len": Foreign(int, _PARTIAL, matters="never"),
    "max_mask_parallel": Foreign(int, _PARTIAL, matters="never"),
    "partial_ar": Foreign(bool, _OTHER, (False,)),
    "lm_train_config": Foreign(TEXT, _WEIGHT, matters="never"),
    "lm_file": Foreign(TEXT, _WEIGHT, matters="never"),
    "word_lm_train_config": Foreign(TEXT, _WEIGHT, matters="never"),
    "word_lm_file": Foreign(TEXT, _WEIGHT, matters="never"),
    "ngram_file": Foreign(TEXT, _WEIGHT, matters="never"),
    "enh_s2t_task": Foreign(bool, _OTHER, (False,)),
    "multi_asr": Foreign(bool, _OTHER, (False,)),
    "streaming": Foreign(bool, "an utterance is encoded as a whole", (False,)),
    "time_sync": Foreign(bool, _OTHER, (False,)),
    "hugging_face_decoder": Foreign(bool, _OTHER, (False,)),
    "hugging_face_decoder_conf": Foreign(Any, _OTHER, ({},)),
    "transducer_conf": Foreign(Any, _OTHER, ({},)),
    "lang_prompt_token": Foreign(TEXT, _PROMPT),
    "nlp_prompt_token": Foreign(TEXT, _PROMPT),
    "prompt_token_file": Foreign(TEXT, _PROMPT),
    "quantize_lm": Foreign(bool, _FUSION, (False,)),
    "quantize_modules": Foreign(list[str], _INT8, (["Linear"],)),
    "quantize_dtype": Foreign(str, _INT8, ("qint8",)),
}


def translated(
    given: Mapping[str, Any], config: str | Path, beam_size: int = 1
) -> dict[str, Any]:
    """The given options without ESPnet's.

    A negative ``maxlenratio``, for ESPnet a number of tokens, is the canvas length.

    Args:
        given: the user's options.
        config: the model's config.yaml.
        beam_size: the model's default.

    Raises:
        UserError: an option that would matter, with the reason.
    """
    own = {name: value for name, value in given.items() if name not in ESPNET}
    matters = {
        "never": False,
        "always": True,
        "with a CTC": has_ctc(config),
        "with a beam": own.get("beam_size", beam_size) != 1,
    }
    ignored = []
    for name, option in ESPNET.items():
        value = given.get(name)
        if value in (None, "", "none", "null"):  # ESPnet's str_or_none
            continue
        value = checked(
            str(value) if isinstance(value, Path) else value, option.kind, name
        )
        if value in option.asks_nothing:
            continue
        if name == "maxlenratio" and value < 0:
            length = int(-value)
            if own.setdefault("canvas_length", length) != length:
                raise UserError(f"maxlenratio {value:g}: is canvas_length; give one")
        elif matters[option.matters]:
            raise UserError(f"{name} {value}: {option.reason}")
        else:
            ignored.append(name)
    if ignored:
        names = ", ".join(sorted(ignored))
        logging.warning(f"{names}: without effect on this decoder, ignored")
    return own


def has_ctc(config: str | Path) -> bool:
    """Whether a train config's decoder has a CTC."""
    conf = read_yaml(config).get("decoder_conf")
    return isinstance(conf, dict) and bool(conf.get("ctc"))
