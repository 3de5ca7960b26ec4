"""The command ``study``: what SLURM is given, and what an interrupted study says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from studies import stand_in, write_study

from ifir_lightning.commands import study
from ifir_lightning.errors import InputError
from ifir_lightning.studies import runner


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """The command has its own."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def test_the_script_for_slurm_names_paths_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", "echo submitted"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "my studies").mkdir()
    file, folder = str(write_study(tmp_path / "my studies")), tmp_path / "it's out"
    study.study(file, output=str(folder), slurm=True)
    script = folder / "study.sbatch"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    expected = [sys.executable, "-m", "ifir_lightning", "study", file, "--output", str(folder)]
    assert done.stdout.splitlines() == expected
    assert f"""#SBATCH --output='{tmp_path}/it'"'"'s out/slurm-%a.log'""" in script.read_text()


def test_a_script_for_slurm_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may ask for a GPU by now; the number of jobs is this start's."""
    (tmp_path / "sbatch").write_text('#!/bin/sh\necho "$@" >> "$0.log"\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    start = partial(study.study, str(write_study(tmp_path)), output=str(tmp_path / "out"), slurm=True)
    script = tmp_path / "out" / "study.sbatch"
    start(jobs=2)
    assert "study.sbatch asks for no GPU" in caplog.text
    own = script.read_text().replace("##SBATCH --gpus=1", "#SBATCH --gpus=1")
    script.write_text(own)
    caplog.clear()
    with caplog.at_level("INFO", "ifir_lightning"):
        start(jobs=3)
    assert "no GPU" not in caplog.text
    assert script.read_text() == own
    assert "study.sbatch is submitted as it is, with --jobs 3" in caplog.text
    submitted = (tmp_path / "sbatch.log").read_text().splitlines()
    assert submitted == [f"--array=1-{jobs} {script}" for jobs in (2, 3)]


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("#SBATCH --gpus-per-node=8", True),
        ("#SBATCH --account=a --gres=gpu:h100:1", True),
        ("#SBATCH -G 1", True),
        ("##SBATCH --gpus=1", False),
        ("#SBATCH --gres=disk:1", False),
        ("#SBATCH --partition=gpu", False),
    ],
)
def test_which_lines_ask_for_a_gpu(line: str, asks: bool) -> None:
    assert bool(study._GPU.search(f"#!/bin/bash\n{line}\n# --gpus=1")) == asks


def test_an_interrupted_study_is_reported_and_says_why_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the head ``late`` has a result, and with it the axis ``width``, which it alone has."""
    monkeypatch.syspath_prepend(tmp_path)
    killed = stand_in(tmp_path, fault='recipe["model"]["scorer"]["class_path"] == "S"', status=143)
    monkeypatch.setattr(study, "run", partial(runner.run, command=killed))
    with pytest.raises(InputError, match=r"late-000-seed0 was killed \(status 143\); start the study again"):
        study.study(file := str(write_study(tmp_path, kind="negatives")), output=str(tmp_path / "out"))
    assert "1 of 12 trials have ended" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["file"] == file


LONG = """
import pathlib, signal, sys, time, yaml
run = pathlib.Path(yaml.safe_load(open(sys.argv[1]))["trainer"]["default_root_dir"])
def save(*_):
    (run / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
run.mkdir()
(run / "began").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_stopped_has_its_trials_save_and_reports(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal reaches the study's process alone, while two of 12 trials run."""
    folder = tmp_path / "out"

    def stop(_: float) -> None:
        while len(list(folder.glob("trials/*/began"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=stop, monotonic=time.monotonic))
    monkeypatch.setattr(study, "run", partial(runner.run, command=("fit_long",)))
    (tmp_path / "fit_long.py").write_text(LONG)
    with pytest.raises(SystemExit) as ended:
        study.study(str(write_study(tmp_path)), output=str(folder), jobs=2)
    assert ended.value.code == 128 + number
    saved = {file.parent.name for file in folder.glob("trials/*/saved")}
    assert saved == {"plain-000-seed0", "late-000-seed0"}
    assert list(folder.glob("trials/*.json")) == []
    assert "0 of 12 trials have ended" in (folder / "report.html").read_text()


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"--output .*out: .*out is no folder to write in"):
        study.study(str(write_study(tmp_path)), output=str(tmp_path / "out"))
