"""Beam search against plain searches that keep no cache and know no batch."""

from __future__ import annotations

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.build import build_model
from espnet_llada.core.prefix import Prefix
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.networks.backbone import OutputHead
from espnet_llada.types import SpecialTokens, UserError

EOS = 0


class TableLM(torch.nn.Module):
    """log P(next token | last token) from a table; a row's prefix names its table.

    ``forward`` answers as the backbone does, with hidden states: of a prefix its own
    vectors, of a token the row that its cache remembers and the token.
    """

    def __init__(self, tables):
        super().__init__()
        self.tables = torch.tensor(tables).log()  # (tables, 1 + V, V); first: prefix
        self.batches = []

    def embed(self, tokens):
        return torch.stack([torch.full(tokens.shape, -1), tokens + 1], -1).float()

    def forward(self, embeds, valid, cache, positions):
        self.batches.append(len(embeds))
        keys, _ = cache.update(embeds[:, None], embeds[:, None], 0)
        owner = keys[:, 0, :1, :1].expand(-1, embeds.shape[1], -1)
        return torch.cat([owner, embeds[:, :, 1:]], -1)

    def logits(self, hidden):
        return self.tables[hidden[..., 0].long(), hidden[..., 1].long()]


def table_decoder(*tables):
    lm, special = TableLM(tables), SpecialTokens(mask=9, eos=EOS)
    return SimpleNamespace(lm=lm, special=special)


def table_prefix(decoder, *owners):
    embeds = torch.tensor([[[o, 0.0]] for o in owners])
    ones = torch.ones(len(owners), 1, dtype=torch.long)
    return Prefix(embeds, ones > 0, ones - 1, ones[:, 0], OutputHead(decoder.lm))


def searched(tables, owners, *given):
    decoder = table_decoder(*tables)
    return beam_search(decoder, table_prefix(decoder, *owners), *given)


def random_table(seed, vocab=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1 + vocab, vocab, generator=generator)
    return logits.softmax(-1).tolist()


def reference(next_log_probs, max_tokens, beam_size, eos):
    """Beam search for one row, in lists; returns tokens, their log-probs, passes."""
    live, ended, passes = [((), ())], [], 0

    def score(hypothesis, length=None):
        return sum(hypothesis[1]) / (length or len(hypothesis[1]))

    while live:
        passes += 1
        grown = [
            ((*tokens, i), (*log_probs, p))
            for tokens, log_probs in live
            for i, p in enumerate(next_log_probs(tokens))
        ]
        kept = sorted(grown, key=lambda h: -sum(h[1]))[:beam_size]
        live = [h for h in kept if h[0][-1] != eos and passes < max_tokens]
        ended += [h for h in kept if h not in live]
        if live and ended:
            enough = passes if len(ended) >= beam_size else max_tokens
            if max(score(h, enough) for h in live) <= max(map(score, ended)):
                break
    return *max(ended, key=score), passes


def row_of(result, i, eos=EOS):
    """(tokens with EOS, their log-probs, passes) of one row; the rest is padding."""
    tokens = result.tokens[i].tolist()
    length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
    assert set(tokens[length:]) <= {eos} and not result.log_probs[i, length:].any()
    return tuple(tokens[:length]), result.log_probs[i, :length], int(result.passes[i])


@pytest.fixture(scope="module")
def llama(tiny_config):
    torch.manual_seed(0)
    return build_model({**copy.deepcopy(tiny_config), "decoder": "llama"})


@pytest.fixture(scope="module")
def noise(llama):
    """The tiny decoder with prefixes of 9, 4 and 7 vectors of audio.

    Its head is a random one, since the tied one repeats the last token for ever, and
    large for EOS, so that some hypotheses end early and others are cut off.
    """
    decoder, generator = llama.decoder.eval(), torch.Generator().manual_seed(8)
    head = torch.randn(decoder.lm.head.shape, generator=generator) * 0.4
    head[decoder.special.eos] *= 2
    decoder.lm.head = torch.nn.Parameter(head, requires_grad=False)
    width = decoder.audio_prefix.projection.in_features
    audio = torch.randn(3, 9, width, generator=generator) * 4
    with torch.no_grad():
        return decoder, decoder.prefix(audio, torch.tensor([9, 4, 7]))


def without_cache(decoder, row):
    """All log-probabilities of the next token, computed from the first on."""

    @torch.no_grad()
    def next_log_probs(tokens):
        text = torch.tensor([tokens], dtype=torch.long)
        given = row, text, torch.tensor([len(tokens)])
        head, hidden = decoder.next_token_hidden(*given)
        return head.all_logits(hidden)[0, -1].log_softmax(-1).tolist()

    return next_log_probs


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_a_beam_is_what_a_search_without_cache_finds(noise, beam_size):
    decoder, prefix = noise
    eos = decoder.special.eos
    got = beam_search(decoder, prefix, 7, beam_size)
    for i in range(len(prefix)):
        next_log_probs = without_cache(decoder, prefix.rows([i]))
        tokens, log_probs, passes = row_of(got, i, eos)
        expected = reference(next_log_probs, 7, beam_size, eos)
        assert (tokens, passes) == (expected[0], expected[2])
        assert log_probs.tolist() == pytest.approx(list(expected[1]), abs=1e-4)


def test_a_beam_of_one_is_greedy(noise):
    decoder, prefix = noise
    eos, got = decoder.special.eos, beam_search(decoder, prefix, 8)
    for i in range(len(prefix)):
        next_log_probs, greedy = without_cache(decoder, prefix.rows([i])), []
        while len(greedy) < 8 and eos not in greedy:
            log_probs = next_log_probs(greedy)
            greedy.append(log_probs.index(max(log_probs)))
        tokens, _, passes = row_of(got, i, eos)
        assert tokens == tuple(greedy) and passes == len(greedy)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_row_does_not_depend_on_its_batch_or_order(noise, beam_size):
    decoder, prefix = noise
    together = beam_search(decoder, prefix, 8, beam_size)
    order = [2, 0, 1]
    mixed = beam_search(decoder, prefix.rows(order), 8, beam_size)
    for place, i in enumerate(order):
        expected = row_of(together, i, decoder.special.eos)
        single = beam_search(decoder, prefix.rows([i]), 8, beam_size)
        for result, row in ((mixed, place), (single, 0)):
            got = row_of(result, row, decoder.special.eos)
            assert got[0] == expected[0] and got[2] == expected[2]
            torch.testing.assert_close(got[1], expected[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(12))
def test_a_beam_as_wide_as_the_space_finds_the_optimum(seed):
    table, length = random_table(seed), 5

    def score(tokens):
        steps = itertools.pairwise([-1, *tokens])
        return sum(math.log(table[a + 1][b]) for a, b in steps) / len(tokens)

    inner = [itertools.product((1, 2), repeat=n) for n in range(length)]
    ended = [(*words, EOS) for words in itertools.chain(*inner)]
    everything = ended + list(itertools.product((1, 2), repeat=length))
    got = searched([table], [0], length, 3**length)
    tokens, log_probs, _ = row_of(got, 0)
    assert tokens == max(everything, key=score)
    assert float(log_probs.mean()) == pytest.approx(score(tokens), abs=1e-5)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("beam_size", [2, 3])
def test_each_row_of_a_batch_follows_its_own_search(seed, beam_size):
    tables = [random_table(100 * seed + i, vocab=6) for i in range(3)]
    got = searched(tables, [2, 0, 1], 9, beam_size)
    for i, owner in enumerate((2, 0, 1)):
        log_table = torch.tensor(tables[owner]).log().tolist()
        expected = reference(
            lambda tokens, t=log_table: t[tokens[-1] + 1 if tokens else 0],
            max_tokens=9,
            beam_size=beam_size,
            eos=EOS,
        )
        tokens, log_probs, passes = row_of(got, i)
        assert (tokens, passes) == (expected[0], expected[2])
        assert log_probs.tolist() == pytest.approx(list(expected[1]), abs=1e-5)


def test_a_row_that_ends_at_once_costs_one_pass_and_leaves_the_batch():
    at_once = [[0.98, 0.01, 0.01]] * 4
    never = [[0.0, 0.4, 0.6]] * 4
    decoder = table_decoder(at_once, never)
    got = beam_search(decoder, table_prefix(decoder, 0, 1, 0), 4, 2)
    assert row_of(got, 0)[0] == row_of(got, 2)[0] == (EOS,)
    assert row_of(got, 1)[0] == (2, 2, 2, 2)  # cut off at max_tokens
    assert got.passes.tolist() == [1, 4, 1]
    assert decoder.lm.batches == [3, 2, 2, 2]  # the prefix once, then two beams


def test_unlikely_early_ends_do_not_cut_a_sure_hypothesis_off():
    table = [[0.06] + [0.01] * 5 for _ in range(7)]
    for last, following in enumerate((1, EOS, 2, 3, 4, 5, EOS)):
        table[last][following] = 0.9
    got = searched([table], [0], 20, 2)
    assert row_of(got, 0)[0] == (1, 2, 3, 4, 5, EOS)


def test_repetition_does_not_outlive_enough_ended_hypotheses():
    # "1" and its end are best; "1 2 2 2 …" has the higher mean from 4 tokens on.
    table = [[0.06, 0.9, 0.04], [1.0, 0.0, 0.0], [0.6, 0.0, 0.4], [0.03, 0.0, 0.97]]
    got = searched([table], [0], 20, 2)
    tokens, _, passes = row_of(got, 0)
    assert tokens == (1, EOS) and passes == 2


def test_of_equally_probable_tokens_the_lowest_ids_are_kept():
    # Four openings tie, two may stay: 4, whose end is the surest, may not.
    table = [[0.0, 0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0, 0.0]]
    table += [[p, 1 - p, 0.0, 0.0, 0.0] for p in (0.6, 0.7, 0.8, 0.9)]
    got = searched([table], [0], 3, 2)
    assert row_of(got, 0)[0] == (2, EOS)


def test_a_beam_wider_than_what_is_possible_is_no_error():
    table = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    got = searched([table], [0], 5, 50)
    assert row_of(got, 0)[0] == (1, EOS)


def test_the_recognizer_searches_a_beam_and_diffusion_refuses_one(noise, llama):
    speech = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(1)) * 0.1
    with torch.no_grad():
        audio = llama.eval().encode(speech, torch.full((3,), 16_000))
        expected = beam_search(llama.decoder, llama.decoder.prefix(*audio), 6, 4)
    greedy, beam = (
        Transcriber(llama, make_options({"canvas_length": 6, "beam_size": k}))(
            list(speech.numpy()), ["a", "b", "c"]
        )
        for k in (1, 4)
    )
    assert [h.passes for h in beam] == expected.passes.tolist()
    for hypothesis, log_probs in zip(beam, expected.log_probs, strict=True):
        assert hypothesis.score == pytest.approx(float(log_probs.sum()), abs=1e-3)
    assert [h.passes for h in beam] != [h.passes for h in greedy]
    diffuses = SimpleNamespace(
        decoder=SimpleNamespace(diffuses=True), encode=lambda *_: None
    )
    with pytest.raises(UserError, match=r"beam_size 4: .*masked diffusion"):
        Transcriber(diffuses, make_options({"beam_size": 4}))


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_second_judge_decides_with_the_lm(beam_size):
    """One that is sure of a text has it written; how sure the LM is stays its own."""
    tables = random_table(3), random_table(4)
    decoder = table_decoder(*tables)
    prefix = table_prefix(decoder, 1, 0, 1)
    liked = [[2, 1, 2, 2], [], [1]]

    def beside(rows, texts):
        found = torch.full((len(rows), 3), -50.0)
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            if text == liked[row][: len(text)]:
                found[i, [*liked[row], EOS][len(text)]] = 0.0
        return found

    result = beam_search(decoder, prefix, 9, beam_size, beside)
    texts = [[t for t in row if t != EOS] for row in result.tokens.tolist()]
    assert texts == liked
    for row, owner in enumerate((1, 0, 1)):
        before = [0, *(t + 1 for t in liked[row])]
        own = [
            tables[owner][b][t] for b, t in zip(before, [*liked[row], EOS], strict=True)
        ]
        got = result.log_probs[row, : len(own)].exp()
        torch.testing.assert_close(got, torch.tensor(own))
    without = beam_search(decoder, prefix, 9, beam_size)
    none = beam_search(
        decoder, prefix, 9, beam_size, lambda rows, _: torch.zeros(len(rows), 3)
    )
    assert torch.equal(without.tokens, none.tokens)
