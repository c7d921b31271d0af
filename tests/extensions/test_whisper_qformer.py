"""Whisper's decoder as the adapter."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.extensions.whisper_qformer import WhisperQFormer
from espnet_llada.io.checkpoint import load_trained, trained_state
from espnet_llada.types import UserError

WIDTH = 16


@pytest.fixture(params=[1, 2])
def adapter(request, tiny_whisper) -> WhisperQFormer:
    return WhisperQFormer(WIDTH, str(tiny_whisper), queries=request.param, window=4)


def frames(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    batch = torch.randn(len(lengths), max(lengths), WIDTH)
    sizes = torch.tensor(lengths)
    return batch * (torch.arange(max(lengths)) < sizes[:, None])[..., None], sizes


@torch.no_grad()
def test_one_window_is_what_whispers_decoder_says_of_it(tiny_whisper):
    """The same layers as transformers' decoder, with the query as its only token."""
    from espnet_llada.import_guards import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    reference = WhisperModel.from_pretrained(tiny_whisper).decoder.eval()
    adapter = WhisperQFormer(WIDTH, str(tiny_whisper), window=4).eval()
    batch, lengths = frames(8)
    ours, _ = adapter(batch, lengths)
    place = torch.tensor([[2]])
    query = adapter.queries - reference.embed_positions.weight[place[0]]
    for i in range(2):
        window = batch[:, 4 * i : 4 * i + 4]
        theirs = reference(
            inputs_embeds=query[None],
            encoder_hidden_states=window,
            position_ids=place,
            use_cache=False,
        ).last_hidden_state
        torch.testing.assert_close(ours[:, i : i + 1], theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_batch(adapter):
    batch, lengths = frames(9, 4, 6)
    together, counts = adapter.eval()(batch, lengths)
    queries = len(adapter.queries)
    assert counts.tolist() == [3 * queries, queries, 2 * queries]
    for i, n in enumerate(lengths.tolist()):
        alone, _ = adapter(batch[i : i + 1, :n], lengths[i : i + 1])
        torch.testing.assert_close(alone[0], together[i, : counts[i]])


def test_every_parameter_that_is_trained_matters(adapter):
    batch, lengths = frames(9, 4)
    adapter(batch, lengths)[0].square().sum().backward()
    for name, parameter in adapter.named_parameters():
        used = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert used == parameter.requires_grad, name


@pytest.mark.parametrize("frozen", [False, True])  # ESPnet's freeze_param
def test_a_checkpoint_holds_all_of_it_but_what_one_query_has_no_use_for(
    adapter, tiny_whisper, frozen
):
    adapter.requires_grad_(not frozen)
    model = torch.nn.ModuleDict({"postencoder": adapter})
    state = trained_state(model)
    assert {f"postencoder.{name}" for name in adapter.state_dict()} < state.keys()
    used = any(".attn.query." in name for name in state)
    assert used == (len(adapter.queries) > 1)
    again = WhisperQFormer(
        WIDTH, str(tiny_whisper), queries=len(adapter.queries), window=4
    )
    with torch.no_grad():
        adapter.ln.weight.add_(1.0)
    load_trained(torch.nn.ModuleDict({"postencoder": again}), trained_state(model), "x")
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@torch.no_grad()
def test_context_shows_a_window_its_neighbours_frames_and_no_others(tiny_whisper):
    adapter = WhisperQFormer(WIDTH, str(tiny_whisper), window=4, context=2).eval()
    adapter.place.normal_()
    batch, lengths = frames(15)
    before, _ = adapter(batch, lengths)
    for frame in range(15):
        changed = batch.clone()
        changed[0, frame] += 1.0
        after, _ = adapter(changed, lengths)
        differs = (after - before).abs().amax(dim=-1)[0] > 1e-6
        for window in range(4):
            reads = 4 * window - 2 <= frame < 4 * window + 6
            assert bool(differs[window]) == reads, (frame, window)
    # A row's end is an end, whatever the batch pads it with.
    longer = torch.cat([batch, torch.zeros(1, 9, WIDTH)], dim=1)
    torch.testing.assert_close(adapter(longer, lengths)[0][:, :4], before)


def test_another_width_is_refused(tiny_whisper):
    with pytest.raises(UserError, match="frames of width 16, the encoder's have 32"):
        WhisperQFormer(32, str(tiny_whisper))
