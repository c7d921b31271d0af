"""Calibration error and cross entropy, by hand and as sclite has them."""

from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np
import pytest

from espnet_llada.scoring.confidence import fitted, reliability, right_ones


def test_by_hand():
    found = reliability([0.95, 0.95, 0.95, 0.55], [True, True, False, True])
    assert (found.count, found.wrong) == (4, 1)
    assert found.ece == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * 0.45)
    highest = -(3 * math.log(0.75) + math.log(0.25))
    own = -(2 * math.log(0.95) + math.log(0.05) + math.log(0.55))
    assert found.nce == pytest.approx((highest - own) / highest)
    assert math.isnan(reliability([0.9], [True]).nce)
    assert right_ones("a b c".split(), "a x c d".split()) == [1, 0, 1, 0]


def test_a_fit_is_calibrated_on_its_data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2))
    right = rng.uniform(size=4000) < 1 / (1 + np.exp(-(1 + 2 * features[:, 0])))
    bias, *weights = fitted(features, right)
    assert [bias, *weights] == pytest.approx([1, 2, 0], abs=0.15)
    assert min(weights) >= 0
    sure = 1 / (1 + np.exp(-(bias + features @ weights)))
    assert reliability(sure, right).ece < 0.03


@pytest.mark.skipif(not shutil.which("sclite"), reason="no sclite")
def test_cross_entropy_is_sclites(tmp_path):
    ref, hyp = "a b c d e f g h".split(), "a x c d e f y h".split()
    sure = [0.9, 0.3, 0.8, 0.95, 0.7, 0.99, 0.6, 0.85]
    (tmp_path / "ref.stm").write_text(f"u 1 s 0.0 9.0 {' '.join(ref)}\n")
    lines = [
        f"u 1 {i} 0.5 {w} {c}\n" for i, (w, c) in enumerate(zip(hyp, sure, strict=True))
    ]
    (tmp_path / "hyp.ctm").write_text("".join(lines))
    command = "sclite -r ref.stm stm -h hyp.ctm ctm -o sum stdout"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    own = reliability(sure, right_ones(ref, hyp)).nce
    assert f"{own:.3f}" in done.stdout, (own, done.stdout)
