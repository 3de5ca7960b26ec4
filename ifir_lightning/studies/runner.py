"""Runs the trials of a study: each an ordinary ``fit`` in a folder and a process of its own.

The process is a fork of the worker, which has imported everything: that costs a short trial more than its training.

What is done is what lies on disk: NAME.json beside the run folder NAME is a trial's result. A worker takes the first
trial without a result whose lock is free, so any number of machines that see one folder share a study, and one that is
killed loses nothing: its trial is continued by ``fit`` from the last checkpoint. The trial's process holds the lock
too, so that a training whose worker died is not started a second time beside it.
"""

import fcntl
import json
import logging
import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.studies.branches import branch_off, take_trunk
from ifir_lightning.studies.outcomes import Paths, outcome, paths, refusal, result_of
from ifir_lightning.studies.plan import Study, Trial
from ifir_lightning.studies.recipes import recipe_of
from ifir_lightning.studies.search import add_points, known_trials, num_trials

_log = logging.getLogger(__name__)

FIT = ("ifir_lightning", "fit", "--config")
"""The module that a trial runs and its arguments; its recipe comes after them."""
POLL_SECONDS = 0.2
SEARCH_SECONDS = 1.0
"""While points are still to be suggested, perhaps from results of another machine."""


@dataclass
class Running:
    """A trial that this worker trains."""

    trial: Trial
    process: ForkProcess
    lock: IO[str]
    log_size: int
    """Bytes of its log before this start."""
    began: float
    seconds: float = 0.0
    """How long it ran, once it has ended."""
    fault: str | None = None
    """Why it did not come to train, once it has ended."""


def prepare(study: Study, folder: Path, prepared: Sequence[Trial] = ()) -> list[Trial]:
    """Write the recipe of every trial that is known; all faults of the study's settings show here.

    Args:
        study: A whole one.
        folder: Its folder.
        prepared: Of a search, trials whose recipes have been written since the program began: they are left alone.

    Returns:
        All trials that are known.

    Raises:
        InputError: The folder holds trials of other settings, or what a trial that is left learns from is not there.
    """
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    if study.search == "tpe":
        add_points(study, folder, partial(result_of, folder))
    listed = known_trials(study, folder)
    if not listed:
        raise InputError(
            f"{study.recipe}: the study has no trial; allowed is one or more: give it points, heads and seeds"
        )
    written = {trial.name for trial in prepared}
    new = [trial for trial in listed if trial.name not in written]
    files = [paths(folder, trial) for trial in new]
    recipes = [recipe_of(study, trial, own.run) for trial, own in zip(new, files, strict=True)]
    for own, recipe in zip(files, recipes, strict=True):
        if not own.result.exists():
            _check_teacher(own.run.name, recipe)
    if study.decay_share is not None:
        trunks, recipes = branch_off(new, recipes, study.decay_share)
        for own, trunk in zip(files, trunks, strict=True):
            _write_recipe(own.trunk, trunk)
    for own, recipe in zip(files, recipes, strict=True):
        _write_recipe(own.recipe, recipe)
    return listed


def _check_teacher(trial: str, recipe: Mapping[str, Any]) -> None:
    """Trials without a teacher train before those that miss theirs fail one by one."""
    folder = (recipe.get("data") or {}).get("teacher_scores")
    if folder is not None and not Path(str(folder)).is_dir():
        raise InputError(
            f"{trial} learns from data.teacher_scores {folder}, which is not there; allowed is a folder that teach "
            "wrote: run teach first (the study's file may say how), or correct the folder"
        )


def _write_recipe(file: Path, recipe: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(recipe, sort_keys=False)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{file} was made from other settings than the study has now; allowed is to continue the same study: "
            "choose another --output, or restore the study's file and recipe"
        )
    if not file.exists():
        durable.write_text(file, text)


def run(study: Study, folder: Path, jobs: int = 1, command: Sequence[str] = FIT) -> list[Trial]:
    """Run what is left, ``jobs`` trials at a time; returns all trials of the study, of which others may run some still.

    A trial that does not come to train is recorded when another of this start has: until then what is amiss may be the
    machine (no GPU, no data), where every trial that is left would fail, and none be run again.

    Raises:
        InputError: A trial was killed; the first of the study to end, or all of this start, did not come to train; or
            the file system has no locks.
    """
    listed = prepare(study, folder)
    planned = num_trials(study)
    start = partial(_start, command, max(1, _num_cores() // jobs))
    running: list[Running] = []
    ended: list[Running] = []  # and not recorded
    has_trained = False
    try:
        while True:
            for each in [each for each in running if each.process.exitcode is not None]:
                each.seconds = time.monotonic() - each.began
                each.fault = refusal(paths(folder, each.trial), each.process.exitcode or 0, each.log_size)
                running.remove(each)
                ended.append(each)
                has_trained = has_trained or each.fault is None
                if not has_trained:
                    _log.warning(each.fault)
            while ended and has_trained:
                _log.info(_finish(folder, ended.pop(0), planned))
            if ended and not any((folder / "trials").glob("*.json")):
                raise InputError(ended[-1].fault)
            if len(listed) < planned:
                listed = prepare(study, folder, listed)
            waiting = _free(folder, listed, start, running, ended)
            while len(running) < jobs and (started := next(waiting, None)) is not None:
                running.append(started)
            if ended and not running:
                raise InputError(
                    f"none of {len(ended)} trials comes to train here, and none is recorded: {ended[-1].fault}"
                )
            if not running and len(listed) == planned:
                return listed
            time.sleep(POLL_SECONDS if len(listed) == planned else SEARCH_SECONDS)
    finally:
        for each in running:  # interrupted: they save, and the next start continues them
            each.process.terminate()
        for each in running:
            each.process.join()
        for each in (*running, *ended):
            each.lock.close()


def _free(
    folder: Path,
    listed: Sequence[Trial],
    start: Callable[[Paths, Sequence[IO[str]]], ForkProcess],
    running: Sequence[Running],
    ended: Sequence[Running],
) -> Iterator[Running]:
    """Starts trials that nobody has begun or whose process is gone; none of them keeps the locks of the others."""
    for trial in listed:
        files = paths(folder, trial)
        if files.result.exists():
            continue
        if (lock := _take(files.lock)) is None:
            continue
        if files.result.exists():  # it was finished between the look and the lock
            lock.close()
            continue
        log_size = files.log.stat().st_size if files.log.exists() else 0
        yield Running(trial, start(files, [each.lock for each in (*running, *ended)]), lock, log_size, time.monotonic())


def _take(file: Path) -> IO[str] | None:
    """A trial's lock; None where another process has it."""
    lock = file.open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if isinstance(error, BlockingIOError):
            return None
        raise InputError(
            f"{file} cannot be locked ({error.strerror}), and locks are what keeps a trial from being trained twice at "
            "a time; allowed is a folder on a file system that has them: choose another --output"
        ) from error
    return lock


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _start(command: Sequence[str], num_threads: int, files: Paths, locks: Sequence[IO[str]]) -> ForkProcess:
    arguments = (command, num_threads, files, locks)
    process = multiprocessing.get_context("fork").Process(target=_train, args=arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        process.start()
    return process


def _train(command: Sequence[str], num_threads: int, files: Paths, locks: Iterable[IO[str]]) -> None:
    """In the trial's process, which keeps its own lock until it ends: as ``python -m`` the command and the recipe.

    Trials share the processor: threads that wait for a core which another trial has slow both down many times over.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_threads)
    for lock in locks:  # of the trials beside it
        lock.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = files.log.open("a", encoding="utf-8", buffering=1)
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = log
    if files.trunk.exists():
        take_trunk(files.trunk, partial(_fit, command, files.trunk))
    _fit(command, files.recipe)


def _fit(command: Sequence[str], recipe: Path) -> None:
    sys.argv = [*command, str(recipe)]
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _finish(folder: Path, ended: Running, planned: int) -> str:
    """Record how a trial ended; a line that says so."""
    files = paths(folder, ended.trial)
    with ended.lock:
        result: dict[str, Any] = {
            "head": ended.trial.head,
            "point": ended.trial.point,
            "seed": ended.trial.seed,
            "values": dict(ended.trial.values),
            "seconds": round(ended.seconds, 1),
        }
        result |= outcome(files, ended.process.exitcode or 0, ended.log_size)
        durable.write_text(files.result, json.dumps(result, indent=1))
    done = len(list((folder / "trials").glob("*.json")))
    score = result.get("message") or f"p-MRR {result['p_mrr']:+.2f}, Score B {result['score_b']:.2f}"
    return f"{done}/{planned} {ended.trial.name}: {result['status']}, {score} ({result['seconds']:.0f} s)"
