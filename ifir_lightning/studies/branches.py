"""Trials of every length from one trunk (``optimization.Schedule``): each costs the steps of its decay only.

Trials that differ in their budget alone share a run at a constant rate, in the folder of the first with ``-trunk``
behind it. A trial first takes the trunk to where its own decay begins, unless another has, and branches off there.
"""

import copy
import fcntl
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ifir_lightning.errors import InputError
from ifir_lightning.studies.plan import Trial

Recipe = dict[str, Any]
_CHECKPOINTS = "ifir_lightning.callbacks.checkpoints.Checkpoints"
_NEVER = 10**9


def branch_off(listed: Sequence[Trial], recipes: Sequence[Recipe], share: float) -> tuple[list[Recipe], list[Recipe]]:
    """What each trial trains first, the trunk as far as it needs it, and then, its own recipe from there.

    Args:
        listed: The trials.
        recipes: Their whole recipes, in the same order.
        share: Of its steps, those over which the rate of a trial falls.

    Raises:
        InputError: A decay that would begin within the warm-up.
    """
    keys = [_key(trial) for trial in listed]
    starts = [_start(recipe, share) for recipe in recipes]
    trunks, branches = [], []
    for key, start, recipe in zip(keys, starts, recipes, strict=True):
        first = recipes[keys.index(key)]["trainer"]["default_root_dir"]
        folder = f"{first}-trunk"
        kept = sorted({other for other, own in zip(starts, keys, strict=True) if own == key})
        trunks.append(_trunk(recipe, start, kept, folder))
        branches.append(_branch(recipe, start, folder))
    return trunks, branches


def take_trunk(file: Path, fit: Callable[[], None]) -> None:
    """Train the trunk of a recipe's file as far as it says, in a process of its own, unless that was done.

    Of several trials that need one trunk at a time, one trains and the others wait. Ends this process as ``fit`` ended
    if that failed.
    """
    with open(f"{_trainer(file)['default_root_dir']}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if unfinished_trunk(file) is None:
            return
        process = multiprocessing.get_context("fork").Process(target=fit)
        process.start()
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        process.join()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if process.exitcode:
        sys.exit(process.exitcode if process.exitcode > 0 else 128 - process.exitcode)


def unfinished_trunk(file: Path) -> Path | None:
    """The run folder of a trunk that has not come as far as its recipe's file says; None where it has."""
    folder, end = _trainer(file)["default_root_dir"], _trainer(file)["max_steps"]
    return None if _checkpoint(folder, end).exists() else Path(folder)


def _trainer(file: Path) -> Recipe:
    recipe: Recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    return recipe["trainer"]


def _key(trial: Trial) -> str:
    settings = {key: value for key, value in trial.settings.items() if key != "budget"}
    return json.dumps([trial.head, trial.seed, settings], sort_keys=True)


def _start(recipe: Recipe, share: float) -> int:
    steps, warmup = recipe["trainer"]["max_steps"], recipe["model"].get("schedule", {}).get("warmup_steps", 0)
    start = steps - max(1, round(share * steps))
    if start < max(1, warmup):
        raise InputError(
            f"a trial of {steps} steps with decay_share {share} would decay from step {start} on, within its warm-up "
            f"of {warmup}; allowed is a decay that begins after it: lower model.schedule.warmup_steps or decay_share"
        )
    return start


def _trunk(recipe: Recipe, start: int, kept: list[int], folder: str) -> Recipe:
    trunk = copy.deepcopy(recipe)
    trunk["model"]["schedule"] = trunk["model"].get("schedule", {}) | {"decay": "constant"}
    trunk["trainer"] |= {"default_root_dir": folder, "max_steps": start, "val_check_interval": _NEVER}
    others = [each for each in trunk["trainer"].get("callbacks") or () if not _saves(each)]
    saver = {"class_path": _CHECKPOINTS, "init_args": {"keep_last": 1, "keep_steps": kept}}
    trunk["trainer"]["callbacks"] = [*others, saver]
    return trunk


def _saves(callback: Recipe) -> bool:
    return callback["class_path"].rpartition(".")[2] in ("Checkpoints", "ExportBest")


def _branch(recipe: Recipe, start: int, folder: str) -> Recipe:
    branch = copy.deepcopy(recipe)
    schedule = branch["model"].get("schedule", {})
    decay = {"decay": "linear"} if schedule.get("decay") in (None, "constant") else {}
    branch["model"]["schedule"] = schedule | decay | {"decay_steps": recipe["trainer"]["max_steps"] - start}
    return branch | {"ckpt_path": str(_checkpoint(folder, start))}


def _checkpoint(folder: str, step: int) -> Path:
    return Path(folder) / "checkpoints" / f"step-{step:08d}.ckpt"
