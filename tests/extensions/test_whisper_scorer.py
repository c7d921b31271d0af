"""Whisper's decoder reading along a transcript."""

from __future__ import annotations

import pytest
import torch
from espnet_llada.core.decoder import LMDecoder
from espnet_llada.extensions.posterior_prefix.whisper_qformer import special_tokens
from espnet_llada.extensions.whisper_scorer.reader import Beside, Reader, Reading
from espnet_llada.extensions.whisper_scorer.text_qformer import TextQFormer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_llada.io.checkpoint import trained_state
from espnet_llada.io.weights import resolve
from espnet_llada.types import UserError

WIDTH = 16  # of tiny_whisper
WORDS = slice(2, 62)  # of its tokens
END = 3  # id of the LM's end, among them
texts_st = st.lists(st.integers(4, 9), max_size=5)


@pytest.fixture
def reader(tiny_whisper) -> TextQFormer:
    return TextQFormer.from_pretrained(str(tiny_whisper)).eval()


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
def reads(reader, table) -> Reader:
    """Three utterances."""
    return Reader(reader, frames(9, 4, 6), table[WORDS], END)


def alone(reads: Reader, row: int, text: list[int]) -> Reading:
    """Read by the way that trainings take."""
    sizes = (9, 4, 6)
    audio = frames(*sizes)[row : row + 1, : sizes[row]]
    log_probs, _ = reads.text_qformer(audio, [text], reads.words, reads.eos)
    return reads._reading(row, text, log_probs[0], torch.zeros(0))


@torch.no_grad()
def test_texts_of_one_utterance_share_its_frames(reads):
    rows, texts = [2, 0, 2, 1, 0], [[5, 40], [7], [], [33, 5, 8], [12, 13, 14]]
    for found, row, text in zip(reads(rows, texts), rows, texts, strict=True):
        expected = alone(reads, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.own == pytest.approx(expected.own, abs=1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 2), texts_st, texts_st), min_size=1, max_size=4)
)
@torch.no_grad()
def test_what_texts_begin_with_is_not_read_again(reads, triples):
    rows, texts, others = zip(*triples, strict=True)
    before = reads(rows, texts)
    for found, row, text in zip(reads.again(before, others), rows, others, strict=True):
        expected = alone(reads, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.value == pytest.approx(expected.value, abs=1e-4)
        whole = reads([row], [text])[0]
        torch.testing.assert_close(found.past, whole.past)
    kept = [len(text) // 2 for text in texts]
    behind, _ = reads.behind(before, kept, others)
    for log_probs, row, n, text, other in zip(
        behind, rows, kept, texts, others, strict=True
    ):
        expected = alone(reads, row, [*text[:n], *other]).log_probs[n + 1 :]
        torch.testing.assert_close(log_probs, expected)


@torch.no_grad()
def test_the_likelihood_is_that_of_each_token_and_the_end(reads):
    texts = [(1, [5, 40]), (0, [7]), (1, [5, 41, 9]), (1, [])]
    for found, (row, text) in zip(reads.likelihoods(texts), texts, strict=True):
        log_probs = alone(reads, row, text).log_probs
        own = log_probs[range(len(text) + 1), [*text, END]].sum()
        assert found == pytest.approx(float(own), abs=1e-4)
    assert reads.likelihoods([]) == []


@torch.no_grad()
def test_many_texts_are_tried_a_few_at_a_time(reads, monkeypatch):
    texts = [(n % 2, [n, *range(n)]) for n in range(1, 9)]
    expected = reads.likelihoods(texts)
    sizes, along = [], reads._along

    def counted(rows, texts, pasts=None):
        sizes.append(sum(map(len, texts)))
        return along(rows, texts, pasts)

    monkeypatch.setattr(reads, "_along", counted)
    monkeypatch.setattr("espnet_llada.extensions.whisper_scorer.reader._AT_ONCE", 12)
    assert reads.likelihoods(texts) == pytest.approx(expected, abs=1e-4)
    assert len(sizes) > 3 and max(sizes) <= 12


@torch.no_grad()
def test_a_search_is_told_token_by_token(reads):
    beside = Beside(reads, 0.5)
    texts = [[], []]
    for tokens in ([], [5, 6], [7, 8], [9, 9]):
        texts = [[*text, *tokens[i : i + 1]] for i, text in enumerate(texts)]
        expected = [alone(reads, row, text) for row, text in enumerate(texts)]
        values = torch.stack([0.5 * read.log_probs[-1] for read in expected])
        torch.testing.assert_close(beside([0, 1], texts), values)
    # One of the hypotheses goes on twice, the other one is given up.
    values = beside([1, 1], [[*texts[1], 3], [*texts[1], 4]])
    expected = [alone(reads, 1, [*texts[1], token]) for token in (3, 4)]
    expected = torch.stack([0.5 * read.log_probs[-1] for read in expected])
    torch.testing.assert_close(values, expected)


@torch.no_grad()
def test_texts_beyond_whispers_reach_are_read_as_far_as_that(reads):
    longest = reads.text_qformer.longest
    long = [5] * (longest + 3)
    (whole,) = reads([0], [long])
    assert whole.text == long and len(whole.log_probs) == longest + 1
    (short,) = reads([0], [long[: longest - 1]])
    (found,) = reads.again([short], [long])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    (found,) = reads.again([whole], [[*long, 7]])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    beside = Beside(reads, 1.0)
    for size in range(len(long)):
        values = beside([0], [long[:size]])
    torch.testing.assert_close(values[0], whole.log_probs[-1])


@torch.no_grad()
def test_it_says_what_whispers_own_decoder_says(reader, table, tiny_whisper):
    """transformers' decoder, fed with the same text, row by row."""
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    reference = WhisperModel.from_pretrained(tiny_whisper).decoder.eval()
    texts, sizes = [[5, 40, 7], [], [33, 5]], (9, 4, 6)
    audio = frames(*sizes)
    found, counts = reader(audio, texts, table[WORDS], END)
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
def test_a_word_changes_what_comes_behind_it_only(reader, table):
    audio = frames(8)
    before, _ = reader(audio, [[5, 6, 7, 8]], table[WORDS], END)
    after, _ = reader(audio, [[5, 6, 50, 8]], table[WORDS], END)
    differs = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert differs.tolist() == [False, False, False, True, True]


@torch.no_grad()
def test_a_transcript_beyond_whispers_reach_is_read_as_far_as_that(reader, table):
    long = [5] * (reader.longest + 9)
    found, counts = reader(frames(8), [long], table[WORDS], END)
    assert counts.tolist() == [reader.longest + 1] == [found.shape[1]]


def test_its_loss_is_that_of_what_is_said_next(reader, table):
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
    log_probs, counts = reader(frames(*[8] * 6), texts, table[WORDS], END)
    text, lengths = torch.tensor([said] * 6), torch.tensor([5] * 6)
    loss = reader.loss(log_probs, texts, text, lengths, END)
    for row, following in enumerate(transcripts.values()):
        assert len(following) == counts[row]
        own = log_probs[row, range(len(following)), following]
        torch.testing.assert_close(loss[row], -own.mean())


def test_the_bottlenecks_change_nothing_at_first_and_then_something(
    tiny_whisper, table
):
    small = TextQFormer.from_pretrained(str(tiny_whisper), bottleneck=4)
    none = TextQFormer.from_pretrained(str(tiny_whisper), bottleneck=0)
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


def decoder(lm, whisper, attention="bidirectional", window=4, **options) -> LMDecoder:
    torch.manual_seed(0)
    given = {"text_qformer": {"bottleneck": 8}, "misheard": 0.5, **options}
    return LMDecoder(
        WIDTH * (1 + window),
        attention,
        resolve(whisper, "whisper"),
        lm=str(lm),
        chat_template=False,
        ctc={"weight": 1.0, "scale": 30.0},
        projection="words",
        audio_positions="beside",
        pointer=True,
        **given,
    )


def audio(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of windows of 4 frames, and the frames."""
    torch.manual_seed(2)
    batch = torch.randn(len(lengths), max(lengths), WIDTH * 5)
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return batch * there[..., None], torch.tensor(lengths)


@torch.no_grad()
def test_the_lm_is_shown_both_readings_and_can_tell_them_apart(word_lm, tiny_whisper):
    model = decoder(word_lm, tiny_whisper).eval()
    vectors, lengths = audio(9, 3, 6)
    listened = model.listen(vectors, lengths)
    prefix, texts = listened.prefix, listened.draft.ids
    assert all(texts)
    alone = decoder(word_lm, tiny_whisper, text_qformer=None, window=0).eval()
    alone.ctc.load_state_dict(model.ctc.state_dict())
    once = alone.prefix(vectors[..., :WIDTH], lengths, transcripts=texts).heard
    more = torch.tensor([len(text) + 1 for text in texts])
    assert prefix.heard.counts.tolist() == (once.counts + more).tolist()
    for row, (n, k) in enumerate(zip(once.counts.tolist(), more.tolist(), strict=True)):
        both = prefix.heard.vectors[row]
        torch.testing.assert_close(both[:n], once.vectors[row, :n])
        assert prefix.heard.places[row, n : n + k].tolist() == [*range(k)]
        by_itself = model.prefix(
            vectors[row : row + 1, : lengths[row]], lengths[row : row + 1]
        )
        torch.testing.assert_close(by_itself.heard.vectors[0], both[: n + k])
    model.read_again += 1.0
    marked = model.prefix(vectors, lengths).heard.vectors - prefix.heard.vectors
    n, k = int(once.counts[0]), int(more[0])
    expected = torch.tensor([0.0] * n + [1.0] * k)[:, None].expand_as(
        marked[0, : n + k]
    )
    torch.testing.assert_close(marked[0, : n + k], expected)


@torch.no_grad()
def test_deliberation_reads_along_the_first_pass(word_lm, tiny_whisper):
    model = decoder(word_lm, tiny_whisper).eval()
    vectors, lengths = audio(9)
    text = [model.lm.vocab_size - 7, model.lm.vocab_size - 9]
    heard = model.prefix(vectors, lengths, transcripts=[text]).heard
    read, _ = model.text_qformer(
        vectors[..., WIDTH:].reshape(1, -1, WIDTH),
        [text],
        model.projection.words,
        model.special.eos,
    )
    best = heard.tokens[0, -3:, 0].tolist()
    assert best == read[0].argmax(dim=-1).tolist()
    own = model.prefix(vectors, lengths)
    assert own.heard.counts != heard.counts


def test_a_training_reads_along_drafts_and_first_passes(word_lm, tiny_whisper):
    options = {"bottleneck": 8, "first_pass": 0.5}
    model = decoder(word_lm, tiny_whisper, text_qformer=options).train()
    vectors, lengths = audio(*[9] * 40)
    vectors.requires_grad_()
    text = torch.randint(model.lm.vocab_size - 60, model.lm.vocab_size, (40, 5))
    sizes = torch.full((40,), 5)
    seeds = list(range(40))
    prefix, response, _ = model.training_prefix(vectors, lengths, text, sizes, seeds)
    read, given = response.transcripts, response.given
    drafts = model.listen(vectors, lengths).draft.ids
    first_passes = [row for row in range(40) if read[row] != drafts[row]]
    assert 10 < len(first_passes) < 30
    assert all(read[row] == given[row].tolist() for row in first_passes)
    assert torch.equal(response.text, text) and torch.equal(response.lengths, sizes)
    assert 0.1 < (given != text).float().mean() < 0.6, "some tokens are misheard"
    loss = model.loss(prefix, text, sizes, seeds, given=given)
    loss.mean.backward()
    assert model.read_again.grad.abs().sum() > 0
    assert vectors.grad[..., :WIDTH].abs().sum() > 0
    for name, parameter in model.text_qformer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("bottlenecks."), name
    model.eval()
    prefix, response, _ = model.training_prefix(vectors, lengths, text, sizes, seeds)
    assert torch.equal(response.given, text)
    assert response.transcripts == drafts


def test_a_training_with_slots_reads_what_its_canvas_holds(word_lm, tiny_whisper):
    options = {"bottleneck": 8, "first_pass": 1.0}
    model = decoder(word_lm, tiny_whisper, text_qformer=options, slots=0.3).train()
    vectors, lengths = audio(*[9] * 20)
    text = torch.randint(model.lm.vocab_size - 60, model.lm.vocab_size, (20, 5))
    sizes, seeds, eos = torch.full((20,), 5), list(range(20)), model.special.eos
    prefix, response, _ = model.training_prefix(vectors, lengths, text, sizes, seeds)
    assert (response.lengths > sizes).sum() > 10
    for row, (size, read) in enumerate(
        zip(response.lengths.tolist(), response.transcripts, strict=True)
    ):
        held = response.given[row, :size].tolist()
        assert [t for t in held if t != eos] == read
        wanted = response.text[row, :size].tolist()
        assert [t for t in wanted if t != eos] == text[row].tolist()
        # What was read along stands at the tokens that it was read along, and the end.
        count = int(prefix.heard.counts[row])
        places = prefix.heard.places[row, count - len(read) - 1 : count].tolist()
        assert places == [i for i, t in enumerate(held) if t != eos] + [size]
    loss = model.loss(
        prefix, response.text, response.lengths, seeds, given=response.given
    )
    loss.mean.backward()
    assert torch.isfinite(loss.mean) and model.read_again.grad.abs().sum() > 0


def test_a_checkpoint_holds_what_is_trained_of_it(word_lm, tiny_whisper):
    model = torch.nn.ModuleDict({"decoder": decoder(word_lm, tiny_whisper)})
    names = trained_state(model).keys()
    own = [name for name in names if "text_qformer" in name]
    assert "decoder.read_again" in names and own
    assert all(name.startswith("decoder.text_qformer.bottlenecks.") for name in own)


def test_what_does_not_fit_is_refused(word_lm, tiny_whisper):
    with pytest.raises(UserError, match="put hand_on: true into postencoder_conf"):
        decoder(word_lm, tiny_whisper, window=0)
    with pytest.raises(UserError, match=r"slots: 0.2 needs 'decoder: llada'"):
        decoder(word_lm, tiny_whisper, slots=0.2)  # no first_pass
    with pytest.raises(UserError, match=r"slots: 0.2 needs 'decoder: llada'"):
        decoder(word_lm, tiny_whisper, attention="causal", slots=0.2)
