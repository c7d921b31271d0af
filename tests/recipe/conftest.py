"""A small corpus in LibriSpeech's layout, and stand-ins for the neural commands."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from recipe_helpers import write_chapter

# Stands in for asr_train, aggregate_stats_dirs and asr_inference: the files they
# write, without a model. It is called as `python fake.py -m <module> <options>`.
FAKE_BIN = """
    import sys
    from pathlib import Path

    module, argv = sys.argv[2], sys.argv[3:]
    if argv[:1] == ["-m"]:
        module, argv = argv[1], argv[2:]
    options = dict(zip(argv, argv[1:]))
    if module.endswith("pack"):
        Path(options["--outpath"]).write_text(" ".join(argv))
        sys.exit()
    out = Path(options["--output_dir"])
    out.mkdir(parents=True, exist_ok=True)
    if module.endswith("asr_inference"):
        recog = out / "1best_recog"
        recog.mkdir(exist_ok=True)
        if options.get("--fail_on", "\\0") in Path(options["--key_file"]).read_text():
            sys.exit("ValueError: planted failure")
        utts = [x.split()[0] for x in open(options["--key_file"])]
        values = dict(text="A B", token="A B", token_int="1 2", score="-1.5")
        for name, value in dict(values, passes="3", seconds="0.5 2.0").items():
            lines = [f"{utt} {value}\\n" for utt in reversed(utts)]
            (recog / name).write_text("".join(lines))
    elif module.endswith("aggregate_stats_dirs"):
        for kind in ("train", "valid"):
            (out / kind).mkdir(exist_ok=True)
            (out / kind / "speech_shape").write_text("s-c-0 16000\\n")
            (out / kind / "text_shape").write_text("s-c-0 2\\n")
    elif options.get("--collect_stats") != "true":
        (out / "config.yaml").write_text("fake: true\\n")
        (out / "valid.acc.ave.pth").write_bytes(b"x")
        print("(trainer:54) INFO: trained 29.9 M of 8.68 G parameters (0.34 %): LoRA 1")
        print("(trainer:334) INFO: 1/2epoch started")
        print("(trainer:392) INFO: 1epoch results: [train] loss=2, [valid] loss=1.5")
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two subsets; the speakers 2 and 10 tell numeric order from the C locale's."""
    root = tmp_path / "corpora"
    write_chapter(root, "train-x", "2-7", 2)
    write_chapter(root, "train-x", "10-7", 2)
    write_chapter(root, "dev-x", "3-1", 2)
    return root


@pytest.fixture
def fake_python(tmp_path: Path) -> str:
    """A value for ``--python`` that runs the stand-ins."""
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE_BIN))
    return f"{sys.executable} {script}"
