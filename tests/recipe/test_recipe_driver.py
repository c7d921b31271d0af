from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipe_helpers import write_audio, write_set

from espnet_llada.recipe.datadir import read_table
from espnet_llada.recipe.driver import main
from espnet_llada.recipe.jobs import Job, Tail, last_error, run_jobs
from espnet_llada.types import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_python: str):
    """Options of a run in an empty recipe whose local/data.sh is a stand-in."""
    monkeypatch.chdir(tmp_path)
    for name in ("tr", "dv", "te"):
        utts = {f"s-c-{name}{i}": f"wav/{name}{i}.flac" for i in range(3)}
        for path in utts.values():
            write_audio(Path(path), 0.5)
        write_set(Path("data") / name, utts, "s-c")
    Path("local").mkdir()
    Path("local/data.sh").write_text('#!/bin/sh\necho "$@" > data.args\n')
    Path("local/data.sh").chmod(0o755)
    handler = signal.getsignal(signal.SIGTERM)
    yield [
        *("--train_set", "tr", "--valid_set", "dv", "--test_sets", "te"),
        *("--asr_tag", "x", "--inference_tag", "y", "--nj", "2", "--inference_nj", "2"),
        *("--python", fake_python, "--local_data_opts", "--max_utts 3"),
        *("--ngpu", "0"),
    ]
    signal.signal(signal.SIGTERM, handler)


def test_all_stages(argv: list[str], capsys: pytest.CaptureFixture):
    main(argv)
    out = capsys.readouterr().out
    for number in (1, 3, 4, 5, 10, 11, 12, 13):
        assert f"Stage {number}: " in out
    assert "trained 29.9 M of 8.68 G parameters (0.34 %): LoRA 1\n" in out
    assert "epoch 1: train loss=2, valid loss=1.5" in out
    assert Path("data.args").read_text() == "--max_utts 3\n"
    results = Path("exp/asr_x/y/te")
    assert list(read_table(results / "text")) == ["s-c-te0", "s-c-te1", "s-c-te2"]
    assert read_table(results / "passes")["s-c-te1"] == "3"
    for name in ("token", "token_int", "score", "seconds"):
        assert len(read_table(results / name)) == 3
    for unit in ("wer", "cer"):
        for name in ("ref.trn", "hyp.trn", "result.txt"):
            assert (results / f"score_{unit}" / name).is_file()
    assert "A B" in (results / "score_wer/hyp.trn").read_text()
    assert "RESULTS" in Path("exp/asr_x/RESULTS.md").read_text()
    shape = "exp/asr_stats_raw_hugging_face_/train/text_shape.hugging_face"
    assert Path(shape).read_text() == "s-c-0 2,3\n"


def test_training_command_is_that_of_asr_sh(argv: list[str]):
    main([*argv, "--stop_stage", "11", "--asr_args", "--max_epoch 1"])
    command = Path("exp/asr_x/train.log").read_text().splitlines()[0]
    for part in (
        "--train_data_path_and_name_and_type dump/raw/tr/wav.scp,speech,sound",
        "--valid_data_path_and_name_and_type dump/raw/dv/text,text,text",
        "--token_list data/token_list/hugging_face_/tokens.txt",
        "train/speech_shape --train_shape_file",
        "--fold_length 80000 --fold_length 150",
        "--resume true --output_dir exp/asr_x --ngpu 0",
        "--max_epoch 1",
    ):
        assert part in command


def test_training_on_text_reads_no_speech(argv: list[str]):
    for name in ("tr", "dv"):
        Path("dump/text").mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path("data", name), Path("dump/text", name))
    main([*argv, "--stage", "10", "--stop_stage", "11", "--feats_type", "text"])
    command = Path("exp/asr_x/train.log").read_text().splitlines()[0]
    assert "dump/text/tr/text,text,text" in command
    assert "speech" not in command
    assert command.count("--fold_length") == command.count("--train_shape_file") == 1


def test_resume_scripts_repeat_the_options(argv: list[str]):
    main(argv)
    for folder, stage in (("exp/asr_x", 11), ("exp/asr_x/y", 12)):
        script = Path(folder) / "run.sh"
        assert os.access(script, os.X_OK)
        text = script.read_text()
        assert "--local_data_opts '--max_utts 3'" in text
        assert f"--stage {stage} " in text
    done = subprocess.run(
        ["exp/asr_x/y/run.sh", "--stop_stage", "12"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Stage 12" in done.stdout
    assert "Stage 11" not in done.stdout


def test_a_failing_job_is_named(argv: list[str]):
    main([*argv, "--stop_stage", "11"])
    with pytest.raises(UserError) as e:
        main([*argv, "--stage", "12", "--inference_args", "--fail_on te2"])
    assert "ValueError: planted failure (exit code 1)" in str(e.value)
    assert "exp/asr_x/y/te/logdir/asr_inference.2.log" in str(e.value)
    assert not Path("exp/asr_x/y/te/text").exists()


def test_a_failing_data_script_stops_the_driver(argv: list[str]):
    Path("local/data.sh").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UserError, match=r"local/data\.sh ended with exit code 3"):
        main(argv)
    assert not Path("dump").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [("3", "data/zz: no such"), ("11", "run stage 10"), ("12", "run stage 11")],
)
def test_a_stage_out_of_turn_says_what_to_run(argv: list[str], stage, message):
    extra = ["--valid_set", "zz"] if stage == "3" else []
    with pytest.raises(UserError, match=message):
        main([*argv, *extra, "--stage", stage])


def test_packing_is_that_of_asr_sh(argv: list[str], capsys):
    main([*argv, "--stop_stage", "14"])
    assert not list(Path("exp/asr_x").glob("*.zip"))  # --skip_packing true
    main([*argv, "--stage", "14", "--skip_packing", "false"])
    packed = "exp/asr_x/asr_x_valid.acc.ave.zip"
    assert Path(packed).read_text() == (
        "asr --asr_train_config exp/asr_x/config.yaml "
        "--asr_model_file exp/asr_x/valid.acc.ave.pth "
        f"--option exp/asr_x/RESULTS.md --outpath {packed}"
    )
    assert f"wrote {packed}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"9epoch\.pth: no such file; run stage 11"):
        extra = ("--inference_asr_model", "9epoch.pth")
        main([*argv, "--stage", "14", "--skip_packing", "false", *extra])


def test_decoding_again_keeps_its_jobs_and_drops_those_of_another_split(argv):
    main([*argv, "--stop_stage", "12"])
    logdir = Path("exp/asr_x/y/te/logdir")
    for n in (1, 2):
        (logdir / f"output.{n}/decoding.json").write_text("a job's own")
    text = Path("exp/asr_x/y/te/text").read_text()
    main([*argv, "--stage", "12", "--stop_stage", "12"])
    assert (logdir / "output.2/decoding.json").read_text() == "a job's own"
    stop = ("--stop_stage", "12", "--inference_nj", "1")
    (logdir / "notes.2026.txt").touch()
    main([*argv, "--stage", "12", *stop])
    assert sorted(p.name for p in logdir.iterdir()) == [
        "asr_inference.1.log",
        "keys.1.scp",
        "notes.2026.txt",  # a user's
        "output.1",
    ]
    assert Path("exp/asr_x/y/te/text").read_text() == text


def test_a_missing_checkpoint_lists_the_others(argv: list[str]):
    main([*argv, "--stop_stage", "11"])
    with pytest.raises(UserError, match=r"no such checkpoint.*valid\.acc\.ave\.pth"):
        main([*argv, "--stage", "12", "--inference_asr_model", "9epoch.pth"])


def test_error_line_of_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "espnet_llada.recipe", "--stge", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown option --stge (did you mean '--stage'?)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_jobs(argv: list[str], number: signal.Signals):
    main([*argv, "--stop_stage", "10"])
    Path("sleep.py").write_text(
        "import os, time\nopen('pid', 'w').write(f'{os.getpid()} ')\ntime.sleep(60)\n"
    )
    argv = [*argv, "--stage", "11", "--python", f"{sys.executable} sleep.py"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "espnet_llada.recipe", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A background shell job ignores SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 20
    while not Path("pid").exists() or not Path("pid").read_text().endswith(" "):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(number)
    assert driver.wait(timeout=20) == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_the_first_failure_ends_the_other_jobs(tmp_path: Path):
    jobs = [
        Job(["sh", "-c", "echo RuntimeError: no; exit 4"], tmp_path / "1.log"),
        Job(["sleep", "60"], tmp_path / "2.log"),
    ]
    began = time.monotonic()
    with pytest.raises(UserError, match=r"RuntimeError: no \(exit code 4\).*1\.log"):
        run_jobs(jobs)
    assert time.monotonic() - began < 10


def test_a_command_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="cannot run it"):
        run_jobs([Job(["no-such-python"], tmp_path / "log")])


def test_last_error_passes_over_older_runs_and_later_chatter(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("# a\nOSError: old\n# b\ntorch.OutOfMemoryError: new\nbye\n")
    assert last_error(log) == "torch.OutOfMemoryError: new"
    log.write_text("OSError: old\n# b\nbye\n")
    assert last_error(log) == "bye"


def test_tail_gives_whole_lines_once(tmp_path: Path):
    tail = Tail(tmp_path / "log")
    assert tail.read() == b""
    with open(tmp_path / "log", "wb") as f:
        f.write(b"one\ntw")
        f.flush()
        assert tail.read() == b"one\n"
        f.write(b"o\n")
    assert tail.read() == b"two\n"
