"""The release's checkpoint: its names, what is unused, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_llada.release.checkpoint import read_release
from espnet_llada.release.importing import ReleaseOptions, import_release
from espnet_llada.types import UserError


def test_every_tensor_is_taken_or_listed(release_checkpoint, release_content):
    release = read_release(release_checkpoint)
    assert len(release.state) + len(release.unused) == len(release_content["model"])
    assert release.unused == sorted(release.unused)
    assert len(release.unused) == 3 + 2 * 6 + 1
    sizes = (release.hidden, release.layers, release.queries, release.ffn)
    assert sizes == (24, 2, 3, 40)
    assert (release.encoder_width, release.lm_width) == (16, 32)
    assert (release.lm_layers, release.lora_rank) == (2, 4)


QUERY = "adapter.bert.encoder.layer.0.attention.self.query.weight"
LORA_B = (
    "llada.base_model.model.model.transformer.blocks.1.v_proj.lora_B.default.weight"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop(QUERY), f"missing tensor {QUERY}"),
        (lambda m: m.pop("speech_query_tokens"), "missing tensor speech_query"),
        (lambda m: m.pop(LORA_B), f"missing tensor {LORA_B}"),
        (lambda m: m.update({"llada.x": torch.ones(1)}), "unexpected tensor llada.x"),
        (lambda m: m.update({f"{QUERY}2": torch.ones(1)}), "unexpected tensor .*ht2"),
        (lambda m: m.update({QUERY: torch.ones(2)}), "self_attention.query.weight"),
        (lambda m: m.update({"linear_proj.weight": torch.ones(2)}), "a matrix"),
        (lambda m: m.update({LORA_B: torch.ones(9, 4)}), "v_proj.lora_B.* shape"),
        (lambda m: m.clear(), "missing tensor"),
        (lambda m: m.update({"note": "text"}), "no tensors under 'model'"),
    ],
)
def test_what_does_not_belong_is_named(
    release_content, tiny_whisper, tiny_llada, tmp_path, change, message
):
    damaged = copy.deepcopy(release_content)
    change(damaged["model"])
    path = tmp_path / "damaged.pth"
    torch.save(damaged, path)
    sources = (path, str(tiny_whisper), str(tiny_llada))
    with pytest.raises(UserError, match=message) as e:
        import_release(*sources, tmp_path / "out", ReleaseOptions(heads=4))
    assert str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


class _Code:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_code_is_not_unpickled(release_content, tmp_path, capsys):
    path = tmp_path / "code.pth"
    torch.save({**release_content, "optimizer": _Code()}, path)
    with pytest.raises(UserError, match="holds code") as e:
        read_release(path)
    assert str(path) in str(e.value) and "unpickled" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file"):
        read_release(tmp_path / "absent.pth")
