"""Shows that the paper stands alone: ``espnet_llada.core`` without the extensions.

    python tests/core/check_alone.py [DIR]

With the import of ``espnet_llada.extensions`` blocked it compares this package with
the recordings of the published implementation (DIR, see tests/parity/check_parity.py),
makes a training step, decodes and deliberates with the paper's parts, and counts. Exit
code 0 only if all of it holds.
"""

from __future__ import annotations

import importlib.abc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CORE = TESTS.parent / "espnet_llada/core"
BLOCKED = "espnet_llada.extensions"
FILES, LINES, MODULES = 9, 1500, 40


class Block(importlib.abc.MetaPathFinder):
    """Refuses the extensions."""

    def find_spec(self, name, path=None, target=None):
        if name == BLOCKED or name.startswith(f"{BLOCKED}."):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
        return None


def size() -> tuple[int, int]:
    """Files and lines of the core, without ``__init__.py``."""
    files = [f for f in CORE.glob("**/*.py") if f.name != "__init__.py"]
    return len(files), sum(len(f.read_text().splitlines()) for f in files)


def parity(directory: Path):
    """The report of check_parity.py."""
    sys.path.insert(0, str(TESTS / "parity"))
    import check_parity

    return check_parity.check(directory)


def import_model(directory: Path, out: Path) -> None:
    """The recordings' model, with the paper's parts, as a directory of ours."""
    from espnet_llada.release.importing import ReleaseOptions, import_release

    heads = json.loads((directory / "qformer_config.json").read_text())
    import_release(
        directory / "checkpoint_best.pth",
        str(directory / "whisper"),
        str(directory / "llada"),
        out,
        ReleaseOptions(heads["num_attention_heads"]),
    )


def train(model: Path) -> None:
    """A step: the loss is finite, and everything that is trained moves."""
    import torch

    from espnet_llada.build import build_model
    from espnet_llada.core.objective import Targets
    from espnet_llada.io.files import read_yaml

    torch.manual_seed(0)
    llada = build_model(read_yaml(model / "config.yaml")).train()
    trained = [p for p in llada.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    speech = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    ids = llada.decoder.encode_texts(["a small step", "for a man"])
    texts = [torch.tensor(row) for row in ids]
    text = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)
    lengths = torch.tensor([len(row) for row in ids])
    for _ in range(2):  # LoRA's first factor moves once the second is no longer zero
        audio = llada.encode(*speech)
        loss = llada.decoder.training_loss(*audio, Targets(text, lengths)).mean
        assert torch.isfinite(loss), loss
        optimizer.zero_grad()
        loss.backward()
        before = [p.detach().clone() for p in trained]
        optimizer.step()
    moved = [not torch.equal(*pair) for pair in zip(before, trained, strict=True)]
    assert sum(moved) > 0.9 * len(moved), f"{sum(moved)} of {len(moved)} tensors moved"


def decode(model: Path) -> list[str]:
    """Decode and deliberate; the modules of ours that this has loaded."""
    import numpy as np

    from espnet_llada import Deliberator, Speech2Text

    files = model / "config.yaml", model / "model.safetensors"
    speech = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    for options in ({}, {"strategy": "semi_ar", "num_blocks": 4}):
        found = Speech2Text(*files, steps=8, canvas_length=16, **options)(speech)
        assert found[0][3].passes == 8, found
    for strategy in ("random", "low_confidence", "semi_ar"):
        options = {"strategy": f"deliberation_{strategy}", "steps": 4}
        found = Deliberator(*files, **options)(speech, "A SMALL STEP FOR A MAN")
        assert 0 < found[0][3].passes <= 4, found
    return [name for name in sys.modules if name.split(".")[0] == "espnet_llada"]


def loaded(model: Path) -> list[str]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--decode", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(args: list[str]) -> int:
    sys.meta_path.insert(0, Block())
    if args[:1] == ["--decode"]:
        sys.stdout.write(json.dumps(decode(Path(args[1]))) + "\n")
        return 0
    directory = Path(args[0]) if args else TESTS / "parity/reference"
    files, lines = size()
    with tempfile.TemporaryDirectory() as scratch:
        import_model(directory, model := Path(scratch) / "model")
        train(model)
        modules = loaded(model)
    report = parity(directory)
    known = [n for n in [*sys.modules, *modules] if n.startswith(BLOCKED)]
    fits = files <= FILES and lines <= LINES and len(modules) <= MODULES
    alone = fits and report.holds and not known
    same = f"{report.cases - len(report.wrong)}/{report.cases}"
    sys.stdout.writelines(f"{line}\n" for line in [*report.problems, *report.wrong])
    if len(modules) > MODULES:
        sys.stdout.write(" ".join(sorted(modules)) + "\n")
    sys.stdout.write(
        f"core: {files} files, {lines} lines, {len(modules)} modules loaded, "
        f"parity {same}, alone {'ok' if alone else 'NOT'}\n"
    )
    return 0 if alone else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
