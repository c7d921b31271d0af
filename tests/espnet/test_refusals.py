"""ESPnet's classes and commands that cannot use our models say so in one line."""

from __future__ import annotations

import importlib
import importlib.util
import re
from argparse import Namespace

import pytest
import yaml

from espnet_llada import Speech2Text, UserError, register, run

pytest.importorskip("espnet2")

CANNOT = {
    "asr_inference_streaming": ("Speech2TextStreaming", "streaming is not supported"),
    "asr_inference_maskctc": ("Speech2Text", r"with mask_ctc: true"),
    "asr_inference_k2": ("k2Speech2Text", "use espnet_llada.Speech2Text"),
    "asr_align": ("CTCSegmentation", "use word_times=True"),
    "align": ("ForcedAligner", "use word_times=True"),
}


@pytest.mark.parametrize("module", CANNOT)
def test_a_class_refuses_our_model(module, model_dir):
    register()
    register()
    try:
        found = importlib.import_module(f"espnet2.bin.{module}")
    except ImportError as e:
        pytest.skip(f"{module}: {e}")
    name, mend = CANNOT[module]
    stock = getattr(found, name)
    config, model = (
        model_dir / "llada" / n for n in ("config.yaml", "valid.acc.ave.pth")
    )
    calls = [{"asr_train_config": config, "asr_model_file": model}]
    if module == "align":
        calls.append({"model": Speech2Text(config, model)})
    else:
        calls.append({"asr_train_config": str(config)})
        calls.append({"asr_train_args": Namespace(decoder="llada")})  # 202611
    for given in calls:
        with pytest.raises(UserError) as e:
            stock(**given)
        line = str(e.value)
        assert line.startswith(f"espnet2.bin.{module}: not for decoder: llada or llama")
        assert re.search(mend, line) and "\n" not in line


def test_a_class_says_of_other_arguments_what_it_said(model_dir, tmp_path):
    register()
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    with pytest.raises(TypeError):
        Speech2TextStreaming(nonsense=1)
    with pytest.raises(FileNotFoundError):
        Speech2TextStreaming(str(tmp_path / "config.yaml"), str(tmp_path / "x.pth"))


OTHER_TASKS = {
    "asr_transducer_inference": "asr_train_config",
    "s2t_inference": "s2t_train_config",
    "slu_inference": "slu_train_config",
    "st_inference": "st_train_config",
}


@pytest.mark.parametrize("module", [*CANNOT, *OTHER_TASKS])
def test_a_command_refuses_our_model(module, tiny_config, tmp_path):
    """Before its packages are imported, which need not be there."""
    name = f"espnet2.bin.{module}"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"no {name} in this ESPnet")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**tiny_config, "token_list": ["<blank>"]}))
    option = OTHER_TASKS.get(module, "asr_train_config")
    for words in ([f"--{option}", str(config)], [f"--{option}={config}"]):
        with pytest.raises(UserError, match=f"{name}: not for decoder: llada"):
            run.main(["-m", name, *words])


@pytest.fixture
def full_config(tiny_config, tmp_path) -> str:
    """As a training by ESPnet writes it."""
    from espnet2.tasks.asr import ASRTask

    cmd = ["--output_dir", "x", "--token_list", "x", "--token_type", "char"]
    defaults = vars(ASRTask.get_parser().parse_args(cmd))
    config = {**defaults, **tiny_config, "token_list": ["<blank>", "<unk>"]}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_a_search_of_somebodys_refuses_our_model(full_config):
    register()
    from espnet2.tasks.asr import ASRTask

    model, _ = ASRTask.build_model_from_file(full_config)
    for name in ("eos", "mask_token", "blank_id"):
        with pytest.raises(UserError, match="ESPnet's own searches cannot decode"):
            getattr(model, name)


def test_another_task_does_not_know_our_parts(full_config):
    """ESPnet's own line, as for any part of another task."""
    register()
    from espnet2.bin.slu_inference import Speech2Understand

    with pytest.raises(ValueError, match="encoder must be one of"):
        Speech2Understand(slu_train_config=full_config)
