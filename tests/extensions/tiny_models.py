"""Tiny models with extensions, and how they are asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_llada.build import build_model, decoder_parts
from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.weights import resolve
from espnet_llada.types import Hypothesis

SCORED = {"strategy": "deliberation_low_confidence"}
"""With ``confidence: {passes: 0}`` the scorer says which tokens are doubtful."""


def scoring_model(
    lm: Path, whisper: Path, decoder: str = "llada", **prefix: object
) -> WhisperLLM:
    """One with a posterior prefix (and these options) and a scorer."""
    torch.manual_seed(0)
    given = {"positions": "aligned", "copy_head": True, **prefix}
    return build_model(
        {
            "encoder": "whisper_frozen",
            "encoder_conf": {"whisper": str(whisper), "pad_seconds": 0.0},
            "postencoder": "whisper_qformer",
            "postencoder_conf": {
                **{"whisper": str(whisper), "window": 4},
                "return_frames": True,
            },
            "decoder": decoder,
            "decoder_conf": {
                "lm": str(lm),
                "chat_template": False,
                "ctc": {"weight": 1.0, "scale": 30.0},
                "posterior_prefix": given,
                "whisper_scorer": {"bottleneck": 4, "first_pass": 0.5},
            },
        }
    ).eval()


def linear_ctc_model(config: Mapping[str, object]) -> WhisperLLM:
    """By a config of the paper's parts, with a CTC whose draft is not all blank."""
    config = copy.deepcopy(config)
    config["decoder_conf"]["ctc"] = {"weight": 0.1}
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.nn.init.constant_(model.decoder.audio_prefix.ctc.blank.bias, 0.0)
    return model


def decoder_of(
    lm: Path, whisper: Path | None, width: int, attention: str, **conf: object
) -> LMDecoder:
    """A decoder alone, by ``decoder_conf``, behind an adapter of some width."""
    torch.manual_seed(0)
    weights = None if whisper is None else resolve(whisper, "whisper")
    conf = {"lm": str(lm), "chat_template": False, **conf}
    return LMDecoder(**decoder_parts(width, attention, weights, conf)[0])


def recognize(
    model: WhisperLLM,
    speech: Sequence[np.ndarray],
    texts: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    **options: object,
) -> list[Hypothesis]:
    """Transcripts, or with first passes what deliberation makes of them."""
    ids = ids or [f"u{i}" for i in range(len(speech))]
    return Transcriber(model, make_options(options))(speech, ids, texts)


def check_batches(
    model: WhisperLLM,
    speech: Sequence[np.ndarray],
    texts: Sequence[str] | None,
    options: Mapping[str, object],
) -> None:
    """An utterance does not depend on its batch."""
    together = recognize(model, speech, texts, **options)
    for i, waveform in enumerate(speech):
        given = None if texts is None else texts[i : i + 1]
        (alone,) = recognize(model, [waveform], given, [f"u{i}"], **options)
        assert alone.token_ids == together[i].token_ids
        assert alone.passes == together[i].passes
        assert abs(alone.score - together[i].score) < 1e-3


def encoded(model: WhisperLLM, waveform: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The adapter's vectors (1, A, width) and their count (1,)."""
    given = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
    with torch.no_grad():
        return model.encode(*given)


@torch.no_grad()
def scorer_of(model: WhisperLLM, waveform: np.ndarray):
    """The scorer in front of one utterance."""
    return model.decoder.prefix(*encoded(model, waveform)).scorer
