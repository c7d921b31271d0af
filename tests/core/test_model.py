"""The LM behind a prefix: passes, losses, and what a row depends on."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.build import decoder_parts
from espnet_llada.core.model import LMDecoder, last_valid
from espnet_llada.core.objective import Loss, Targets
from espnet_llada.core.prefix import TrainingStep

WIDTH = 16
TOKENS, GIVEN = torch.tensor([[5, 6, 7], [8, 9, 3]]), torch.tensor([3, 2])


def build(lm, attention: str = "bidirectional", **conf) -> LMDecoder:
    torch.manual_seed(0)
    conf = {"lm": str(lm), "prompt": "say", "chat_template": False, **conf}
    parts, _ = decoder_parts(WIDTH, attention, None, conf)
    return LMDecoder(**parts).eval()


def audio() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, WIDTH, generator=generator), torch.tensor([5, 3])


def targets() -> Targets:
    return Targets(TOKENS, GIVEN)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_row_does_not_depend_on_the_batch(tiny_lm, attention):
    decoder = build(tiny_lm, attention)
    vectors, lengths = audio()
    prefix = decoder.prefix(vectors, lengths)
    first, together = decoder.hidden(prefix, TOKENS, GIVEN)
    last = last_valid(first, prefix.valid)
    for i in range(2):
        one, n, k = slice(i, i + 1), int(lengths[i]), int(GIVEN[i])
        prefix = decoder.prefix(vectors[one, :n], lengths[one])
        before, alone = decoder.hidden(prefix, TOKENS[one, :k], GIVEN[one])
        before = last_valid(before, prefix.valid)
        torch.testing.assert_close(before[0], last[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone[0], together[i, :k], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_pass_gives_the_logits_that_are_wanted_and_computes_no_more(tiny_lm):
    decoder, widths = build(tiny_lm), []
    vectors, sizes = torch.randn(3, 5, WIDTH), torch.tensor([5, 2, 3])
    prefix, lengths = decoder.prefix(vectors, sizes), torch.tensor([6, 4, 3])
    logits_fn = decoder.passes(decoder, prefix, lengths)
    asked = len(decoder.prompt_ids)
    handle = decoder.lm.register_forward_pre_hook(
        lambda _, given: widths.append(tuple(given[0].shape[:2]))
    )
    shapes = {(1, 2): (2, asked + 7), (2,): (1, asked + 6), (): None}
    for rows in ([1, 2], [2], [], [0, 1, 2], [0, 1], [0]):
        tokens = torch.randint(3, 40, (3, 6))
        expected = decoder.canvas_logits(prefix, tokens, lengths)
        wanted = (torch.rand(3, 6) < 0.5) & (torch.arange(6) < lengths[:, None])
        wanted[:, 0] = True
        wanted &= torch.isin(torch.arange(3), torch.tensor(rows))[:, None]
        widths.clear()
        logits = logits_fn(tokens, wanted)
        torch.testing.assert_close(logits, expected[wanted], atol=1e-5, rtol=1e-4)
        if tuple(rows) in shapes:
            assert (widths or [None])[0] == shapes[tuple(rows)]
    handle.remove()


@torch.no_grad()
def test_a_cache_gives_what_the_whole_sequence_gives(tiny_lm):
    decoder = build(tiny_lm, "causal")
    prefix = decoder.prefix(*audio())
    found = beam_search(decoder, prefix, max_tokens=6)
    text = torch.zeros(2, 0, dtype=torch.long)
    for i in range(int(found.passes.min())):
        sizes = torch.full((2,), text.shape[1])
        head, hidden = decoder.next_token_hidden(prefix, text, sizes)
        best = head.all_logits(hidden)[:, -1].argmax(dim=-1)
        assert best.tolist() == found.tokens[:, i].tolist()
        text = torch.cat([text, best[:, None]], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("attends", [True, False])
def test_whether_the_prefix_sees_the_response(tiny_lm, attends):
    decoder = build(tiny_lm, cached_prefix=not attends)
    assert decoder.prefix_attends == attends
    prefix, lengths = decoder.prefix(*audio()), torch.tensor([3, 3])
    before = decoder.hidden(prefix, TOKENS, lengths)[0]
    after = decoder.hidden(prefix, TOKENS.flip(1), lengths)[0]
    assert torch.equal(before, after) != attends


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_the_loss_of_a_batch_is_that_of_its_parts(tiny_lm, attention):
    decoder = build(tiny_lm, attention)
    whole = decoder.training_loss(*audio(), targets(), [7, 8])
    assert torch.isfinite(whole.mean) and whole.mean > 0
    for i, seed in enumerate((7, 8)):
        one = slice(i, i + 1)
        vectors, lengths = audio()
        own = Targets(TOKENS[one], GIVEN[one])
        part = decoder.training_loss(vectors[one], lengths[one], own, [seed])
        torch.testing.assert_close(part.rows[0], whole.rows[i], atol=1e-4, rtol=1e-4)


def test_the_seeds_of_a_batch_are_random_in_training_alone(tiny_lm):
    decoder = build(tiny_lm)
    assert decoder.row_seeds(3) == [0, 1, 2]
    torch.manual_seed(5)
    drawn = decoder.train().row_seeds(3)
    assert len(set(drawn)) == 3 and drawn != decoder.row_seeds(3)
    torch.manual_seed(5)
    assert decoder.row_seeds(3) == drawn


def test_another_prefix_may_add_a_loss_or_train_alone(tiny_lm, monkeypatch):
    decoder, extra = build(tiny_lm), torch.tensor([1.0, 3.0])
    plain = decoder.training_loss(*audio(), targets(), [7, 8])
    kind = type(decoder.audio_prefix)
    own = kind.training_step

    def more(self, *given):
        step = own(self, *given)
        return TrainingStep(step.prefix, step.targets, extra)

    monkeypatch.setattr(kind, "training_step", more)
    both = decoder.training_loss(*audio(), targets(), [7, 8])
    torch.testing.assert_close(both.mean, plain.mean + extra.mean())
    monkeypatch.setattr(
        kind, "training_step", lambda *_: TrainingStep(None, targets(), extra)
    )
    alone = decoder.training_loss(*audio(), targets(), [7, 8])
    assert isinstance(alone, Loss) and float(alone.mean) == 2.0
