"""The mean of several trainings."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

SCRIPT = "egs2/librispeech/asr_llada/local/soup.py"


@pytest.fixture
def trainings(tmp_path):
    files = []
    for i in range(2):
        torch.manual_seed(i)
        state = {
            "post.a": torch.randn(3),
            "ctc.b": torch.randn(()),
            "lm.c": torch.ones(2),
        }
        files.append(tmp_path / f"{i}.pth")
        torch.save({name: tensor.half() for name, tensor in state.items()}, files[-1])
    return files


def run(repo, output, parts, files):
    command = [sys.executable, repo / SCRIPT, "--output", output, "--parts", *parts]
    return subprocess.run(
        [*map(str, command), "--", *map(str, files)], capture_output=True, text=True
    )


def test_it_has_the_mean_of_what_was_asked_for(repo, trainings, tmp_path):
    done = run(repo, tmp_path / "soup.pth", ["post", "ctc.b"], trainings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = torch.load(tmp_path / "soup.pth", weights_only=True)
    first, second = (torch.load(file, weights_only=True) for file in trainings)
    assert made.keys() == {"post.a", "ctc.b"}
    for name, tensor in made.items():
        expected = (first[name].float() + second[name].float()) / 2
        torch.testing.assert_close(tensor, expected)


def test_trainings_that_do_not_belong_together_are_refused(repo, trainings, tmp_path):
    output = tmp_path / "soup.pth"
    done = run(repo, output, ["pos"], trainings)
    assert done.returncode == 2 and "has no tensor of pos" in done.stderr
    torch.save({"post.a": torch.zeros(4)}, trainings[1])
    done = run(repo, output, ["post"], trainings)
    assert done.returncode == 2 and "1.pth: its tensors of post" in done.stderr
    assert not output.exists()
