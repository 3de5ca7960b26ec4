"""The command ``study``: many trainings that answer one question, and their report."""

import json
import logging
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ifir_lightning import durable
from ifir_lightning.commands.places import output_folder
from ifir_lightning.errors import InputError
from ifir_lightning.studies.answers import answer, as_csv
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.outcomes import results
from ifir_lightning.studies.page import study_page
from ifir_lightning.studies.plan import Study
from ifir_lightning.studies.runner import prepare, run
from ifir_lightning.studies.search import known_trials

_log = logging.getLogger(__name__)
_SBATCH = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{jobs}
#SBATCH --output={log}
#SBATCH --requeue
# No GPU is asked for, and no time: take a # away from each line that your cluster wants, and add what else it does.
##SBATCH --gpus=1
##SBATCH --cpus-per-task=8
##SBATCH --time=24:00:00
# What is in this file stays; without the file the next start writes it anew.
# Every task takes trials that nobody has begun, until none is left.
srun {python} -m ifir_lightning study {file} --output {folder}
"""
_GPU = re.compile(r"^#SBATCH\s.*(--gpus|--gres\S*[=\s:,]gpu|(?<=\s)-G)", re.MULTILINE)


def study(*files: str, output: str | None = None, jobs: int = 1, slurm: bool = False) -> None:
    """Run what is left of a study, or of several in turn; write report.html, results.json and results.csv.

    Any number of machines that see the folder may run the same command: they share the trials. A study that was
    interrupted goes on where it was; a trial that has ended is never run again, unless you remove its result, NAME.json
    in trials: of one that failed it holds the error. An interrupted study is reported, too.

    Args:
        files: studies, in YAML: see configs/studies.
        output: the folder of the one study; by default runs/studies/NAME.
        jobs: trials at a time on this machine; with --slurm, machines at a time.
        slurm: submit the study as an array of jobs with sbatch, instead of running it here. The script is study.sbatch
            in the folder, which asks for no GPU until you say so in it; one that is there is left alone.
    """
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; allowed is 1 or more: leave it out for 1")
    if output is not None and len(files) > 1:
        raise InputError(
            f"--output {output} is one folder for {len(files)} studies; allowed is one study: leave it out"
        )
    whole = [(file, read_study(file), output_folder(output or f"runs/studies/{Path(file).stem}")) for file in files]
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _leave)
    for file, planned, folder in whole:
        if slurm:
            _submit(file, planned, folder, jobs)
            continue
        prepare(planned, folder)
        try:
            run(planned, folder, jobs)
        finally:  # interrupted or not, it says what has ended
            _report(file, planned, folder)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """End the study; on its way out it tells the trials that run, which save first."""
    sys.exit(128 + number)


def _report(file: str, planned: Study, folder: Path) -> None:
    found = results(folder, known_trials(planned, folder))
    content = {"file": file} | answer(planned, found)
    durable.write_text(folder / "results.json", json.dumps(content, indent=1))
    durable.write_text(folder / "results.csv", as_csv(found))
    durable.write_text(folder / "report.html", study_page(content, list(planned.heads), list(planned.axes)))
    counts = content["trials"]
    if left := counts["planned"] - counts["ended"]:
        _log.info("%d trials have not ended; the report holds those that have", left)
    _log.info(
        "%s: report.html, results.json, results.csv (%s)", folder, ", ".join(f"{v} {k}" for k, v in counts.items())
    )


def _submit(file: str, planned: Study, folder: Path, jobs: int) -> None:
    prepare(planned, folder)
    script = folder / "study.sbatch"
    names = {"name": folder.name, "log": f"{folder}/slurm-%a.log", "folder": str(folder), "file": file}
    quoted = {key: shlex.quote(value) for key, value in (names | {"python": sys.executable}).items()}
    if script.exists():
        _log.info("%s is submitted as it is, with --jobs %d; removed, it is written anew", script, jobs)
    else:
        durable.write_text(script, _SBATCH.format(jobs=jobs, **quoted))
    try:
        done = subprocess.run(["sbatch", f"--array=1-{jobs}", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{script} is there, but there is no sbatch here; allowed is a machine that submits to SLURM: "
            "submit the script there, or leave --slurm out"
        ) from error
    if done.returncode:
        raise InputError(f"sbatch refused {script} ({' '.join(done.stderr.split())}): correct it and start again")
    _log.info("%s: %s", script, done.stdout.strip())
    if not _GPU.search(script.read_text(encoding="utf-8")):
        _log.warning(
            "%s asks for no GPU, so its jobs have none where the cluster gives none unasked: to train on GPUs, cancel "
            "them (scancel), take a # away from ##SBATCH --gpus=1 in it, and start again",
            script,
        )
