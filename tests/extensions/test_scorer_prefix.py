"""The audio prefix with a scorer: what the LM is shown, and how both are trained."""

from __future__ import annotations

import pytest
import torch
from tiny_models import decoder_of
from tiny_scorer import WIDTH, frames

from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.objective import Targets
from espnet_llada.inference.options import DecodingOptions
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.checkpoint import trained_state
from espnet_llada.types import UserError


def decoder(lm, whisper, attention="bidirectional", window=4, **prefix) -> LMDecoder:
    given = {"bottleneck": 8, **prefix.pop("whisper_scorer", {})}
    own = {"positions": "aligned", "copy_head": True, "acoustic_confusion": 0.5}
    return decoder_of(
        lm,
        whisper,
        WIDTH * (1 + window),
        attention,
        ctc={"weight": 1.0, "scale": 30.0},
        posterior_prefix={**own, **prefix},
        whisper_scorer=given,
    )


def audio(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of windows of 4 frames, and the frames."""
    torch.manual_seed(2)
    batch = torch.randn(len(lengths), max(lengths), WIDTH * 5)
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return batch * there[..., None], torch.tensor(lengths)


@torch.no_grad()
def test_the_lm_is_shown_windows_and_scores_and_can_tell_them_apart(
    word_lm, tiny_whisper
):
    model = decoder(word_lm, tiny_whisper).eval()
    vectors, lengths = audio(9, 3, 6)
    batch = model.prefix(vectors, lengths)
    both, texts = batch._embeddings(None), batch.draft.ids
    assert all(texts)
    given = {"ctc": {"scale": 30.0}, "posterior_prefix": {"copy_head": True}}
    plain = decoder_of(word_lm, tiny_whisper, WIDTH, "bidirectional", **given).eval()
    own = model.audio_prefix.ctc.state_dict()
    plain.audio_prefix.ctc.load_state_dict(own)
    once = plain.prefix(vectors[..., :WIDTH], lengths, texts)._embeddings(None)
    more = torch.tensor([len(text) + 1 for text in texts])
    assert both.counts.tolist() == (once.counts + more).tolist()
    for row, (n, k) in enumerate(zip(once.counts.tolist(), more.tolist(), strict=True)):
        torch.testing.assert_close(both.vectors[row, :n], once.vectors[row, :n])
        assert both.places[row, n : n + k].tolist() == [*range(k)]
        one = slice(row, row + 1)
        by_itself = model.prefix(vectors[one, : lengths[row]], lengths[one])
        got = by_itself._embeddings(None).vectors[0]
        torch.testing.assert_close(got, both.vectors[row, : n + k])
    model.audio_prefix.rescored += 1.0
    marked = model.prefix(vectors, lengths)._embeddings(None).vectors - both.vectors
    n, k = int(once.counts[0]), int(more[0])
    expected = torch.tensor([0.0] * n + [1.0] * k)[:, None]
    expected = expected.expand_as(marked[0, : n + k])
    torch.testing.assert_close(marked[0, : n + k], expected)


@torch.no_grad()
def test_deliberation_scores_the_first_pass(word_lm, tiny_whisper):
    model = decoder(word_lm, tiny_whisper).eval()
    vectors, lengths = audio(9)
    text = [model.lm.vocab_size - 7, model.lm.vocab_size - 9]
    shown = model.prefix(vectors, lengths, [text])._embeddings(None)
    found, _ = model.audio_prefix.scorer(
        vectors[..., WIDTH:].reshape(1, -1, WIDTH),
        [text],
        model.audio_prefix.posteriors.table,
        model.special.eos,
    )
    best = shown.tokens[0, -3:, 0].tolist()
    assert best == found[0].argmax(dim=-1).tolist()
    own = model.prefix(vectors, lengths)._embeddings(None)
    assert own.counts != shown.counts


def step_of(model: LMDecoder, batch, targets: Targets, seeds, monkeypatch):
    """A training step, and the texts that the scorer followed."""
    prefix, followed = model.audio_prefix, []
    make = prefix._responses

    def responses(*given):
        followed.append(make(*given))
        return followed[-1]

    with monkeypatch.context() as m:
        m.setattr(prefix, "_responses", responses)
        step = prefix.training_step(model.prompt, *batch, targets, seeds)
    return step, followed[0].transcripts


def test_a_training_follows_drafts_and_first_passes(word_lm, tiny_whisper, monkeypatch):
    model = decoder(word_lm, tiny_whisper, whisper_scorer={"first_pass": 0.5}).train()
    vectors, lengths = audio(*[9] * 40)
    vectors.requires_grad_()
    text = torch.randint(model.lm.vocab_size - 60, model.lm.vocab_size, (40, 5))
    sizes, seeds = torch.full((40,), 5), list(range(40))
    given = (vectors, lengths), Targets(text, sizes), seeds, monkeypatch
    step, followed = step_of(model, *given)
    targets, drafts = step.targets, model.prefix(vectors, lengths).draft.ids
    first_passes = [row for row in range(40) if followed[row] != drafts[row]]
    assert 10 < len(first_passes) < 30
    assert all(followed[row] == targets.given[row].tolist() for row in first_passes)
    assert torch.equal(targets.text, text) and torch.equal(targets.lengths, sizes)
    confused = (targets.given != text).float().mean()
    assert 0.1 < confused < 0.6, "some tokens are replaced by what sounds alike"
    model.loss(step.prefix, targets, seeds).mean.backward()
    assert model.audio_prefix.rescored.grad.abs().sum() > 0
    assert vectors.grad[..., :WIDTH].abs().sum() > 0
    for name, parameter in model.audio_prefix.scorer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("bottlenecks."), name
    step, followed = step_of(model.eval(), *given)
    assert torch.equal(step.targets.given, text)
    assert followed == drafts


def test_a_training_with_placeholders_scores_what_its_canvas_holds(
    word_lm, tiny_whisper, monkeypatch
):
    options = {"placeholders": 0.3, "whisper_scorer": {"first_pass": 1.0}}
    model = decoder(word_lm, tiny_whisper, **options).train()
    batch = audio(*[9] * 20)
    text = torch.randint(model.lm.vocab_size - 60, model.lm.vocab_size, (20, 5))
    sizes, seeds, eos = torch.full((20,), 5), list(range(20)), model.special.eos
    step, followed = step_of(model, batch, Targets(text, sizes), seeds, monkeypatch)
    targets, shown = step.targets, step.prefix.head._audio
    assert (targets.lengths > sizes).sum() > 10
    rows = zip(targets.lengths.tolist(), followed, strict=True)
    for row, (size, scored) in enumerate(rows):
        held = targets.given[row, :size].tolist()
        assert [t for t in held if t != eos] == scored
        wanted = targets.text[row, :size].tolist()
        assert [t for t in wanted if t != eos] == text[row].tolist()
        # Scores have the positions of the tokens that they are of, and of the end.
        count = int(shown.counts[row])
        places = shown.places[row, count - len(scored) - 1 : count].tolist()
        assert places == [i for i, t in enumerate(held) if t != eos] + [size]
    loss = model.loss(step.prefix, targets, seeds).mean
    loss.backward()
    assert torch.isfinite(loss)
    assert model.audio_prefix.rescored.grad.abs().sum() > 0


def test_a_checkpoint_holds_what_is_trained_of_it(word_lm, tiny_whisper):
    model = torch.nn.ModuleDict({"decoder": decoder(word_lm, tiny_whisper)})
    names, prefix = trained_state(model).keys(), "decoder.audio_prefix"
    own = [name for name in names if name.startswith(f"{prefix}.scorer.")]
    assert f"{prefix}.rescored" in names and own
    assert all(name.startswith(f"{prefix}.scorer.bottlenecks.") for name in own)


def test_what_does_not_fit_is_refused(word_lm, tiny_whisper):
    with pytest.raises(
        UserError, match="put return_frames: true into postencoder_conf"
    ):
        decoder(word_lm, tiny_whisper, window=0)
    with pytest.raises(UserError, match=r"placeholders: 0.2 needs 'decoder: llada'"):
        decoder(word_lm, tiny_whisper, placeholders=0.2)  # no first_pass
    options = {"placeholders": 0.2, "whisper_scorer": {"first_pass": 0.5}}
    with pytest.raises(UserError, match=r"placeholders: 0.2 needs 'decoder: llada'"):
        decoder(word_lm, tiny_whisper, attention="causal", **options)
    with pytest.raises(UserError, match="set postencoder: frames"):
        decoder(word_lm, tiny_whisper, whisper_scorer={"only": True})


def test_a_scorer_that_was_trained_alone_transcribes_nothing(word_lm, tiny_whisper):
    own = {"window": 0, "whisper_scorer": {"only": True}}
    model = WhisperLLM(None, None, decoder(word_lm, tiny_whisper, **own))
    with pytest.raises(UserError, match="was trained alone"):
        Transcriber(model, DecodingOptions())


def test_a_scorer_is_trained_alone_along_simulated_errors(word_lm, tiny_whisper):
    own = {"window": 0, "whisper_scorer": {"only": True}}
    model = decoder(word_lm, tiny_whisper, **own).train()
    vectors, lengths = frames(9, 5), torch.tensor([9, 5])
    text = torch.randint(model.lm.vocab_size - 60, model.lm.vocab_size, (2, 5))
    loss = model.training_loss(vectors, lengths, Targets(text, torch.tensor([5, 4])))
    assert loss.scored == 0, "no LM is run"
    loss.mean.backward()
    trained = [n for n, p in model.named_parameters() if p.grad is not None]
    assert trained
    assert all(n.startswith("audio_prefix.scorer.bottlenecks.") for n in trained)
