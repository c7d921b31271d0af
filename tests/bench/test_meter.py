"""What a meter says without a decoding: how much a GPU has to do in a call."""

from __future__ import annotations

import pytest
import torch

from espnet_llada.bench.meter import covered, kernels_of


def test_what_overlaps_counts_once():
    assert covered([]) == 0.0
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == 4.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_nothing_to_say():
    def never():
        raise AssertionError("called")

    assert kernels_of(never) is None


@pytest.mark.gpu
def test_a_product_is_a_kernel_that_takes_its_time():
    given = torch.randn(2048, 2048, device="cuda")
    count, busy = kernels_of(lambda: [given @ given for _ in range(3)])
    assert 3 <= count < 20
    assert 0 < busy < 1.0
