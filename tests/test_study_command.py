"""The command ``study``: what SLURM is given, and what an interrupted study says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from studies import stand_in, write_study

from ifir_lightning.commands import study
from ifir_lightning.errors import InputError
from ifir_lightning.studies import runner


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """The command has one of its own for SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


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


def test_an_interrupted_study_is_reported_and_says_why_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the head ``late`` has a result, and with it the axis ``width``, which it alone has."""
    monkeypatch.syspath_prepend(tmp_path)
    killed = stand_in(tmp_path, fault='recipe["model"]["scorer"]["class_path"] == "S"', status=143)
    monkeypatch.setattr(study, "run", partial(runner.run, command=killed))
    with pytest.raises(InputError, match=r"late-000-seed0 was killed \(status 143\); start the study again"):
        study.study(str(write_study(tmp_path, kind="negatives")), output=str(tmp_path / "out"))
    assert "1 of 12 trials have ended" in (tmp_path / "out" / "report.html").read_text()
