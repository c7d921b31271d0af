"""Whisper's decoder, teacher-forced along texts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_scorer import OracleScorer
from tiny_models import decoder_of, encoded

from espnet_llada.core.model import LMDecoder, WhisperLLM
from espnet_llada.core.objective import Targets
from espnet_llada.extensions.whisper_qformer import special_tokens
from espnet_llada.extensions.whisper_scorer.network import Options, WhisperScorer
from espnet_llada.extensions.whisper_scorer.scorer import (
    NextToken,
    Scored,
    Scorer,
    transcribed,
)
from espnet_llada.inference.options import DecodingOptions
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.checkpoint import trained_state
from espnet_llada.types import UserError

WIDTH = 16  # of tiny_whisper
WORDS = slice(2, 62)  # of its tokens
END = 3  # id of the LM's end, among them
texts_st = st.lists(st.integers(4, 9), max_size=5)


@pytest.fixture
def network(tiny_whisper) -> WhisperScorer:
    return WhisperScorer.from_pretrained(str(tiny_whisper), Options()).eval()


@pytest.fixture
def table(tiny_whisper) -> torch.Tensor:
    from safetensors.torch import load_file

    state = load_file(tiny_whisper / "model.safetensors")
    return state["decoder.embed_tokens.weight"]


def frames(*lengths: int) -> torch.Tensor:
    torch.manual_seed(1)
    batch = torch.randn(len(lengths), max(lengths), WIDTH)
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return batch * there[..., None]


@pytest.fixture
def scorer(network, table) -> Scorer:
    """Three utterances."""
    return Scorer(network, frames(9, 4, 6), table[WORDS], END)


def alone(scorer: Scorer, row: int, text: list[int]) -> Scored:
    """Scored in the way that trainings take."""
    sizes = (9, 4, 6)
    audio = frames(*sizes)[row : row + 1, : sizes[row]]
    log_probs, _ = scorer.network(audio, [text], scorer.words, scorer.eos)
    return scorer._result(row, text, log_probs[0], torch.zeros(0))


@torch.no_grad()
def test_texts_of_one_utterance_share_its_frames(scorer):
    rows, texts = [2, 0, 2, 1, 0], [[5, 40], [7], [], [33, 5, 8], [12, 13, 14]]
    for found, row, text in zip(scorer(rows, texts), rows, texts, strict=True):
        expected = alone(scorer, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.own == pytest.approx(expected.own, abs=1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 2), texts_st, texts_st), min_size=1, max_size=4)
)
@torch.no_grad()
def test_what_texts_begin_with_is_not_computed_again(scorer, triples):
    rows, texts, others = zip(*triples, strict=True)
    before = scorer(rows, texts)
    for found, row, text in zip(
        scorer.again(before, others), rows, others, strict=True
    ):
        expected = alone(scorer, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.value == pytest.approx(expected.value, abs=1e-4)
        whole = scorer([row], [text])[0]
        torch.testing.assert_close(found.past, whole.past)
    kept = [len(text) // 2 for text in texts]
    behind, _ = scorer.behind(before, kept, others)
    for log_probs, row, n, text, other in zip(
        behind, rows, kept, texts, others, strict=True
    ):
        expected = alone(scorer, row, [*text[:n], *other]).log_probs[n + 1 :]
        torch.testing.assert_close(log_probs, expected)


@torch.no_grad()
def test_the_likelihood_is_that_of_each_token_and_the_end(scorer):
    texts = [(1, [5, 40]), (0, [7]), (1, [5, 41, 9]), (1, [])]
    for found, (row, text) in zip(scorer.likelihoods(texts), texts, strict=True):
        log_probs = alone(scorer, row, text).log_probs
        own = log_probs[range(len(text) + 1), [*text, END]].sum()
        assert found == pytest.approx(float(own), abs=1e-4)
    assert scorer.likelihoods([]) == []


@torch.no_grad()
def test_many_texts_are_tried_a_few_at_a_time(scorer, monkeypatch):
    texts = [(n % 2, [n, *range(n)]) for n in range(1, 9)]
    expected = scorer.likelihoods(texts)
    sizes, along = [], scorer._along

    def counted(rows, texts, pasts=None):
        sizes.append(sum(map(len, texts)))
        return along(rows, texts, pasts)

    monkeypatch.setattr(scorer, "_along", counted)
    monkeypatch.setattr("espnet_llada.extensions.whisper_scorer.scorer._AT_ONCE", 12)
    assert scorer.likelihoods(texts) == pytest.approx(expected, abs=1e-4)
    assert len(sizes) > 3 and max(sizes) <= 12


@torch.no_grad()
def test_a_search_is_told_token_by_token(scorer):
    following = NextToken(scorer, 0.5)
    texts = [[], []]
    for tokens in ([], [5, 6], [7, 8], [9, 9]):
        texts = [[*text, *tokens[i : i + 1]] for i, text in enumerate(texts)]
        expected = [alone(scorer, row, text) for row, text in enumerate(texts)]
        values = torch.stack([0.5 * s.log_probs[-1] for s in expected])
        torch.testing.assert_close(following([0, 1], texts), values)
    # One of the hypotheses goes on twice, the other one is given up.
    values = following([1, 1], [[*texts[1], 3], [*texts[1], 4]])
    expected = [alone(scorer, 1, [*texts[1], token]) for token in (3, 4)]
    expected = torch.stack([0.5 * s.log_probs[-1] for s in expected])
    torch.testing.assert_close(values, expected)


@torch.no_grad()
def test_texts_beyond_whispers_reach_are_scored_as_far_as_that(scorer):
    longest = scorer.network.longest
    long = [5] * (longest + 3)
    (whole,) = scorer([0], [long])
    assert whole.text == long and len(whole.log_probs) == longest + 1
    (short,) = scorer([0], [long[: longest - 1]])
    (found,) = scorer.again([short], [long])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    (found,) = scorer.again([whole], [[*long, 7]])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    following = NextToken(scorer, 1.0)
    for size in range(len(long)):
        values = following([0], [long[:size]])
    torch.testing.assert_close(values[0], whole.log_probs[-1])


@torch.no_grad()
def test_it_says_what_whispers_own_decoder_says(network, table, tiny_whisper):
    """transformers' decoder, fed with the same text, row by row."""
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    reference = WhisperModel.from_pretrained(tiny_whisper).decoder.eval()
    texts, sizes = [[5, 40, 7], [], [33, 5]], (9, 4, 6)
    audio = frames(*sizes)
    found, counts = network(audio, texts, table[WORDS], END)
    assert counts.tolist() == [4, 1, 3]
    for row, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        start = [0, 0]  # the special tokens of so small a vocabulary
        fed = torch.tensor([start + [token + WORDS.start for token in text]])
        theirs = reference(
            input_ids=fed, encoder_hidden_states=audio[row : row + 1, :size]
        ).last_hidden_state[0, len(start) - 1 :]
        logits = theirs @ table[WORDS].T
        logits[:, END] = theirs @ table[0]
        expected = logits.log_softmax(dim=-1)
        got = found[row, : counts[row]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_word_changes_what_comes_behind_it_only(network, table):
    audio = frames(8)
    before, _ = network(audio, [[5, 6, 7, 8]], table[WORDS], END)
    after, _ = network(audio, [[5, 6, 50, 8]], table[WORDS], END)
    differs = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert differs.tolist() == [False, False, False, True, True]


@torch.no_grad()
def test_a_transcript_beyond_whispers_reach_is_scored_as_far_as_that(network, table):
    long = [5] * (network.longest + 9)
    found, counts = network(frames(8), [long], table[WORDS], END)
    assert counts.tolist() == [network.longest + 1] == [found.shape[1]]


def test_its_loss_is_that_of_what_is_said_next(network, table):
    """Behind every token of a transcript with an error of each kind."""
    said = [10, 11, 12, 13, 14]
    transcripts = {
        (10, 11, 12, 13, 14): [10, 11, 12, 13, 14, END],
        (10, 30, 12, 13, 14): [10, 11, 12, 13, 14, END],  # another word
        (10, 12, 13, 14): [10, 11, 13, 14, END],  # one too few
        (10, 11, 30, 12, 13, 14): [10, 11, 12, 12, 13, 14, END],  # one too many
        (30, 10, 11, 12, 13, 14): [10, 10, 11, 12, 13, 14, END],
        (): [10],
    }
    texts = [list(t) for t in transcripts]
    log_probs, counts = network(frames(*[8] * 6), texts, table[WORDS], END)
    text, lengths = torch.tensor([said] * 6), torch.tensor([5] * 6)
    loss = network.loss(log_probs, texts, text, lengths, END)
    for row, following in enumerate(transcripts.values()):
        assert len(following) == counts[row]
        own = log_probs[row, range(len(following)), following]
        torch.testing.assert_close(loss[row], -own.mean())


def test_the_bottlenecks_change_nothing_at_first_and_then_something(
    tiny_whisper, table
):
    whisper = str(tiny_whisper)
    small = WhisperScorer.from_pretrained(whisper, Options(bottleneck=4))
    none = WhisperScorer.from_pretrained(whisper, Options(bottleneck=0))
    assert not [p for p in none.parameters() if p.requires_grad]
    given = frames(8), [[5, 6]], table[WORDS], END
    torch.testing.assert_close(small(*given)[0], none(*given)[0])
    text, lengths = torch.tensor([[5, 6]]), torch.tensor([2])
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], 1.0)
    losses = []
    for _ in range(5):
        loss = small.loss(small(*given)[0], [[5, 6]], text, lengths, END).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("size", [51864, 51865, 51866])  # .en, all but v3, v3
def test_the_special_tokens_are_whispers(size):
    tokenizer = pytest.importorskip("whisper.tokenizer")
    languages = 100 if size == 51866 else 99
    english_only = size == 51864
    theirs = tokenizer.get_tokenizer(
        not english_only, num_languages=languages, language="en", task="transcribe"
    )
    start, end = special_tokens(size)
    assert tuple(start) == theirs.sot_sequence_including_notimestamps
    assert end == theirs.eot


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


@torch.no_grad()
def test_a_text_is_as_likely_as_its_tokens_and_the_end(model, speech, texts):
    ids = model.decoder.encode_texts(texts[:1])
    own = model.decoder.prefix(*encoded(model, speech[0]), ids)
    (whole,) = own.scorer([0], ids)
    end = whole.log_probs[-1, model.decoder.special.eos].item()
    assert whole.value == pytest.approx(sum(own.draft.log_probs[0]) + end, abs=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), min_size=1),
    st.integers(1, 9),
)
def test_a_scorer_transcribes_what_is_said(said, longest):
    found, sure = transcribed(OracleScorer(*said), len(said), longest)
    assert [len(row) for row in sure] == [len(row) for row in found]
    assert found == [row[:longest] for row in said]
