"""Products with a vocabulary's table, whichever side it stands on."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.networks.frozen import _FEW, scores


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (2,), (_FEW,), (_FEW + 1,), (2, 3), (1, 1)]
)
@pytest.mark.parametrize("tokens", [50, 4096 + 50])
def test_scores_are_the_products_with_each_row(shape, tokens):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*shape, 8, generator=generator, requires_grad=True)
    table = torch.randn(tokens, 8, generator=generator)
    got = scores(hidden, table)
    assert got.shape == (*shape, tokens) and got.is_contiguous()
    expected = torch.einsum("...d,vd->...v", hidden.double(), table.double()).float()
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(scores(hidden, table), expected)
    weights = torch.randn(got.shape, generator=generator)
    (gradient,) = torch.autograd.grad((got * weights).sum(), hidden)
    torch.testing.assert_close(gradient, weights @ table)


@pytest.mark.parametrize("trained", [False, True])
def test_scores_go_where_they_are_wanted(trained):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 8, generator=generator, requires_grad=trained)
    table = torch.randn(50, 8, generator=generator)
    whole = torch.zeros(3, 52)
    got = scores(hidden, table, out=whole[:, 1:51])
    torch.testing.assert_close(whole[:, 1:51], (hidden @ table.T))
    assert got.requires_grad == trained and not whole[:, [0, 51]].any()
