"""The examples of docs/architecture.md work as they stand there."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.bin import cli
from espnet_llada.build import build_encoder, decoder_parts
from espnet_llada.core.canvas import Canvas
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.prefix import LinearPrefix
from espnet_llada.core.qformer import LinearProjection
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.inference.options import EXTENSIONS


@pytest.fixture
def examples(repo) -> list[str]:
    text = (repo / "docs/architecture.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


def module(name: str, code: str, monkeypatch, **names) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, name, "exec"), vars(made))
    return made


@pytest.fixture
def files(model_dir) -> tuple:
    return model_dir / "llada/config.yaml", model_dir / "llada/valid.acc.ave.pth"


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def test_a_sampler_rule_changes_the_order(examples, files, noise, monkeypatch, capsys):
    module("left_first", examples[0], monkeypatch)
    monkeypatch.setitem(EXTENSIONS, "left_first", "left_first")
    order = []
    for options in ({}, {"left_first": {"rate": 1000.0}}):
        speech2text = Speech2Text(*files, steps=6, canvas_length=6, **options)
        committed = []
        speech2text.recognizer.on_pass = lambda p, to=committed: to.extend(
            p.committed[0].nonzero()[:, 0].tolist()
        )
        speech2text(noise)
        order.append(committed)
    plain, biased = order
    assert biased == sorted(biased) and plain != biased
    with pytest.raises(SystemExit):
        cli.main(["transcribe", "--help", "all"])
    assert "--left_first.rate" in capsys.readouterr().out


def test_a_rescoring_method_keeps_the_first_pass(examples, files, noise, monkeypatch):
    names = {"DecodingHook": DecodingHook, "Canvas": Canvas, "replace": replace}
    names |= {"SamplerResult": SamplerResult, "torch": torch}
    made = module("keeps", examples[1], monkeypatch, **names)
    made.Options = module("left_first", examples[0], monkeypatch).Options
    monkeypatch.setitem(EXTENSIONS, "keeps", "keeps")
    deliberate = Deliberator(*files, keeps=True, mask_ratio=0.9)
    assert deliberate(noise, "the quick brown fox")[0][0] == "the quick brown fox"


def test_a_prefix_halves_the_vectors(examples, tiny_lm, tiny_whisper, monkeypatch):
    names = {"LinearPrefix": LinearPrefix, "F": F}
    made = module("pooled", examples[2], monkeypatch, **names)
    width = build_encoder(str(tiny_whisper)).d_model
    conf = {"lm": str(tiny_lm), "chat_template": False}
    parts, _ = decoder_parts(width, "bidirectional", None, conf)
    projection = LinearProjection(width, parts["lm"].embedding.weight)
    plain = LMDecoder(**{**parts, "audio_prefix": LinearPrefix(projection)})
    pooled = LMDecoder(**{**parts, "audio_prefix": made.PooledPrefix(projection)})
    audio = torch.randn(2, 8, width), torch.tensor([8, 5])
    asked = len(plain.prompt_ids)
    assert (plain.prefix(*audio).start - asked).tolist() == [8, 5]
    assert (pooled.prefix(*audio).start - asked).tolist() == [4, 3]
