"""tests/gpu/measure.sh, rehearsed on the CPU, so that no minute on a GPU is lost."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml


@pytest.mark.slow
def test_a_rehearsal(repo, configs, tmp_path):
    content = yaml.safe_load((repo / "conf/bench_8b.yaml").read_text())
    content["train_configs"] = {}
    for system, config in configs.items():
        (tmp_path / f"{system}.yaml").write_text(yaml.safe_dump(config))
        content["train_configs"][system] = f"{system}.yaml"
    rows = tmp_path / "rows.yaml"
    rows.write_text(yaml.safe_dump(content, sort_keys=False))
    given = {"ROWS": rows, "DEVICE": "cpu", "PYTHON": sys.executable}
    # Compiled by a GPU's compiler; here as if.
    given |= {"TORCHDYNAMO_DISABLE": 1, "SECONDS_IN_ALL": 300, "REPEATS": 1}
    script, out = repo / "tests/gpu/measure.sh", tmp_path / "out"
    done = subprocess.run(
        [script, out],
        env={**os.environ, **{name: str(value) for name, value in given.items()}},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "exit status" not in done.stdout, done.stdout
    text = (out / "GPU.md").read_text()
    assert text in done.stdout and "left out" not in text
    for label in ("6 passes, block cache", "trained with cached_prefix, 6 passes"):
        for seconds in ("2", "7.4", "15", "30"):
            for batch in (1, 4):
                assert f"| {seconds} | {batch} | LLaDA" in text
        assert text.count(f"{label} |") == 8
    assert text.count("6 passes, compiled |") == 2 * 4
    assert "| 15 | compiled |" in text.partition("## A training step")[2]
