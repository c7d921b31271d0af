"""The linear prefix with a CTC: through the LM's embedding, or through its head."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import decoder_of, recognize
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_llada.build import build_model, check_config
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.objective import Targets
from espnet_llada.types import UserError

WIDTH, ROWS, VECTORS = 16, 3, 12
TEXT = torch.tensor([[5, 6, 7, 8], [9, 10, 11, -1], [12, 12, -1, -1]])
TARGETS = Targets(TEXT.clamp(min=0), torch.tensor([4, 3, 2]))
LENGTHS = torch.tensor([12, 9, 7])


def decoder(lm: Path, head: str = "lm", **options: object) -> LMDecoder:
    given = {"weight": 0.3, "head": head, **options.pop("ctc", {})}
    return decoder_of(lm, None, WIDTH, "bidirectional", ctc=given, **options)


@pytest.fixture
def audio() -> torch.Tensor:
    return torch.randn(ROWS, VECTORS, WIDTH)


def test_the_loss_is_that_of_a_ctc_over_the_lms_logits(tiny_llada, audio):
    made = decoder(tiny_llada)
    prefix, lm = made.audio_prefix, made.lm
    step = prefix.training_step(made.prompt, audio, LENGTHS, TARGETS, [1, 2, 3])
    scale = prefix.ctc.scale
    logits = (prefix.projection(audio) * scale) @ lm.head.T
    logits = torch.cat([prefix.ctc.blank(audio), logits], dim=-1)
    given = logits.log_softmax(-1).transpose(0, 1), TARGETS.text + 1
    nll = F.ctc_loss(*given, LENGTHS, TARGETS.lengths, reduction="none")
    torch.testing.assert_close(step.extra, 0.3 * nll / TARGETS.lengths)
    other = decoder(tiny_llada, "embedding").audio_prefix
    other.load_state_dict(prefix.state_dict())
    step = other.training_step(made.prompt, audio, LENGTHS, TARGETS, [1, 2, 3])
    assert not torch.allclose(step.extra, 0.3 * nll / TARGETS.lengths)


@pytest.mark.parametrize("head", ["lm", "embedding"])
def test_logits_of_unrelated_tokens_differ_by_one_at_first(tiny_llada, audio, head):
    made = decoder(tiny_llada, head)
    prefix, lm = made.audio_prefix, made.lm
    table = lm.head if head == "lm" else lm.embedding.weight
    assert lm.head is not lm.embedding.weight
    logits = (prefix.projection(audio) * prefix.ctc.scale) @ table.T
    assert float(logits.detach().std()) == pytest.approx(1.0, rel=0.3)
    chosen = decoder(tiny_llada, head, ctc={"scale": 2.5}).audio_prefix.ctc.scale
    assert float(chosen.detach()) == 2.5


def test_a_tied_head_is_the_embedding(tiny_lm, audio):
    losses = [
        made.audio_prefix.training_step(made.prompt, audio, LENGTHS, TARGETS, [1, 2, 3])
        for made in (decoder(tiny_lm), decoder(tiny_lm, "embedding"))
    ]
    assert torch.equal(losses[0].extra, losses[1].extra)


class Largest(TorchDispatchMode):
    """The largest tensor that is made, views of ``table`` left out."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table, self.elements = table.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (list, tuple)) else [out]:
            if not isinstance(made, torch.Tensor):
                continue
            if made.untyped_storage().data_ptr() != self.table:
                self.elements = max(self.elements, made.numel())
        return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_holds_the_logits_of_one_row(tiny_llada, audio, dtype):
    """Neither those of the batch nor a copy of the head, which has 2 GB at 8B."""
    made = decoder(tiny_llada, dtype=dtype, ctc={"only": True})
    prefix, head = made.audio_prefix, made.lm.head
    assert head.dtype == getattr(torch, dtype)
    with Largest(head) as largest:
        step = prefix.training_step(made.prompt, audio, LENGTHS, TARGETS, [1, 2, 3])
        step.extra.sum().backward()
    assert largest.elements == VECTORS * made.lm.vocab_size < head.numel()
    assert head.grad is None
    for name, p in prefix.named_parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32, name
        assert bool(p.grad.isfinite().all()), name


def test_bfloat16_is_near_float32(tiny_llada, audio):
    losses = []
    for dtype in ("float32", "bfloat16"):
        made = decoder(tiny_llada, dtype=dtype)
        prefix = made.audio_prefix
        step = prefix.training_step(made.prompt, audio, LENGTHS, TARGETS, [1, 2, 3])
        losses.append(step.extra)
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)


def test_a_few_steps_teach_the_adapter_the_words(tiny_llada, audio):
    made = decoder(tiny_llada, ctc={"only": True, "weight": 1.0}).train()
    prefix = made.audio_prefix
    optimizer = torch.optim.Adam(prefix.parameters(), lr=3e-2)
    losses = []
    for _ in range(60):
        loss = made.training_loss(audio, LENGTHS, TARGETS, [1, 2, 3]).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0] and math.isfinite(losses[-1])
    with torch.no_grad():
        drafts = prefix.draft(made.prompt, audio, LENGTHS)
    wanted = [row[:n].tolist() for row, n in zip(TEXT, (4, 3, 2), strict=True)]
    assert drafts == wanted


def test_a_model_with_it_decodes_and_drafts(tiny_config, tiny_llada):
    conf = {**tiny_config["decoder_conf"], "lm": str(tiny_llada)}
    conf["ctc"] = {"weight": 0.3, "head": "lm", "scale": 30.0}
    model = build_model({**tiny_config, "decoder_conf": conf}).eval()
    speech = [0.1 * np.random.default_rng(0).normal(size=12_000).astype(np.float32)]
    for options in ({}, {"mask_ctc": {"mask_ratio": 0.5}}):
        (found,) = recognize(model, speech, steps=2, canvas_length=4, **options)
        assert found.passes and math.isfinite(found.score)


def test_a_posterior_prefix_has_no_use_for_it(word_lm, tiny_whisper):
    conf = {"ctc": {"head": "lm"}, "posterior_prefix": {"positions": "before"}}
    with pytest.raises(UserError, match=r"head: lm.*linear prefix.*take one") as e:
        decoder_of(word_lm, tiny_whisper, WIDTH, "bidirectional", **conf)
    assert "\n" not in str(e.value)


def test_the_heads_that_there_are(tiny_config):
    conf = {**tiny_config["decoder_conf"], "ctc": {"head": "own"}}
    config = json.loads(json.dumps({**tiny_config, "decoder_conf": conf}))
    with pytest.raises(UserError, match=r"ctc: head: 'own'.*embedding.*lm"):
        check_config(config, "train.yaml")
