"""Whisper's decoder as the adapter."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.adapter.whisper_qformer import WhisperQFormer
from espnet_llada.checkpoint import load_trained, trained_state
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
    from espnet_llada.torchaudio_guard import import_torchaudio

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


def test_what_is_not_trained_is_not_in_a_checkpoint(adapter, tiny_whisper):
    model = torch.nn.ModuleDict({"postencoder": adapter})
    state = trained_state(model)
    missing = [
        name for name in adapter.state_dict() if f"postencoder.{name}" not in state
    ]
    assert bool(missing) == (len(adapter.queries) == 1)
    assert all(".attn.query." in name or ".attn.key." in name for name in missing)
    again = WhisperQFormer(
        WIDTH, str(tiny_whisper), queries=len(adapter.queries), window=4
    )
    with torch.no_grad():
        adapter.ln.weight.add_(1.0)
    load_trained(torch.nn.ModuleDict({"postencoder": again}), trained_state(model), "x")
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_another_width_is_refused(tiny_whisper):
    with pytest.raises(UserError, match="frames of width 16, the encoder's have 32"):
        WhisperQFormer(32, str(tiny_whisper))
