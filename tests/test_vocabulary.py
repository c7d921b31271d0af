"""Products with a vocabulary's table, whichever side it stands on."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.vocabulary import FEW, scores


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (2,), (FEW,), (FEW + 1,), (2, 3), (1, 1)]
)
def test_scores_are_the_products_with_each_row(shape):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*shape, 8, generator=generator, requires_grad=True)
    table = torch.randn(50, 8, generator=generator)
    got = scores(hidden, table)
    assert got.shape == (*shape, 50) and got.is_contiguous()
    expected = torch.einsum("...d,vd->...v", hidden.double(), table.double()).float()
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, generator=generator)
    (gradient,) = torch.autograd.grad((got * weights).sum(), hidden)
    torch.testing.assert_close(gradient, weights @ table)
