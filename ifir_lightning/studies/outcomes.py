"""What a trial leaves on the disk: its files, how its training ended, its result."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifir_lightning.errors import InputError
from ifir_lightning.studies.branches import unfinished_trunk
from ifir_lightning.studies.files import read_yaml
from ifir_lightning.studies.plan import Trial

USER_ERROR = 2
"""Exit status of a mistake in the recipe, of a run that diverged, and of one that memory was too small for."""
KILLED = 128
"""Exit statuses above it are signals': of the trial's process (then negative, too), or of its trunk's."""

_OUT_OF_MEMORY = "error: out of memory at step"  # callbacks.memory: the training had begun
_ENDS = (".trunk.yaml", ".yaml", ".log", ".lock", ".json")


@dataclass(frozen=True)
class Paths:
    """The files of one trial; of a study with ``decay_share``, the recipe of the trunk, too."""

    run: Path
    trunk: Path
    recipe: Path
    log: Path
    lock: Path
    result: Path


def paths(folder: Path, trial: Trial) -> Paths:
    """``folder`` is the study's."""
    stem = folder / "trials" / trial.name
    return Paths(stem, *(stem.with_name(f"{trial.name}{end}") for end in _ENDS))


def outcome(files: Paths, status: int, log_size: int) -> dict[str, Any]:
    """How a trial ended: ``finished`` with the validation of its last step, ``failed`` or ``diverged`` with a message.

    Args:
        files: Of the trial.
        status: Of its process.
        log_size: Bytes of its log before the process began.

    Raises:
        InputError: It was killed, which leaves it to the next start.
    """
    last = _last_line(files.log, log_size)
    if status < 0 or status > KILLED:
        raise InputError(f"trial {files.run.name} was killed (status {status}); start the study again to continue it")
    if has_diverged(_at_work(files), status):
        return {"status": "diverged", "message": last}
    if status:
        return {"status": "failed", "message": last}
    steps, found = read_yaml(files.recipe, "a trial's recipe")["trainer"]["max_steps"], last_validation(files.run)
    if found is None or found["step"] < steps:
        return {"status": "failed", "message": _too_early(steps, found)}
    return {"status": "finished", **found}


def refusal(files: Paths, status: int, log_size: int) -> str | None:
    """Why a trial ended before it trained; None where it did train. Arguments as of ``outcome``.

    Whether its own settings are to blame, or the recipe or the machine, is seen by whether other trials train.
    """
    last, at_work = _last_line(files.log, log_size), _at_work(files)
    trained = last.startswith(_OUT_OF_MEMORY) or bool(_losses(at_work)) or has_diverged(at_work, status)
    if status != USER_ERROR or trained:
        return None
    return f"trial {files.run.name} does not start ({last.removeprefix('error: ')}): see {files.log}"


def _too_early(steps: int, found: Mapping[str, Any] | None) -> str:
    newest = "there is none" if found is None else f"the newest is of step {found['step']}"
    return (
        f"ended without the validation of step {steps}, its last ({newest}); allowed is a recipe that nothing ends "
        "earlier (max_epochs, max_time), with accumulate_grad_batches that divides the batches of an epoch"
    )


def _at_work(files: Paths) -> Path:
    """The run folder in which a trial trained last: its trunk's until that is as long as the trial needs it."""
    trunk = unfinished_trunk(files.trunk) if files.trunk.exists() else None
    return trunk or files.run


def has_diverged(run: Path, status: int) -> bool:
    """Whether numbers that were not finite ended a run: a step's (``callbacks.non_finite``), or those of its scores.

    A run that left such steps out and came to its end has not diverged.
    """
    if status != USER_ERROR:
        return False
    return any(run.glob("non_finite/*.json")) or not _losses(run).isdisjoint(("nan", "inf", "-inf"))


def _losses(run: Path) -> set[str]:
    """As they were logged; none where no step was."""
    with suppress(OSError), open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        return {row.get("train/loss") or "" for row in csv.DictReader(file)} - {""}
    return set()


def last_validation(run: Path) -> dict[str, Any] | None:
    """Step, benchmark means and per-task figures of a run's newest validation; None where there is none."""
    files = sorted(run.glob("followir/step-*/metrics.json"))
    if not files:
        return None
    record = json.loads(files[-1].read_text(encoding="utf-8"))
    return {
        "step": record["step"],
        **record["benchmark"],
        "tasks": {task["task"]: task["p_mrr"] for task in record["tasks"]},
    }


def results(folder: Path, listed: Sequence[Trial]) -> list[Mapping[str, Any]]:
    """The results that are there, in the order of the trials."""
    return [result for trial in listed if (result := result_of(folder, trial)) is not None]


def result_of(folder: Path, trial: Trial) -> Mapping[str, Any] | None:
    """With the trial's place as the study names it now: an axis may have come after the trial had ended."""
    file = paths(folder, trial).result
    return json.loads(file.read_text(encoding="utf-8")) | {"values": dict(trial.values)} if file.exists() else None


def _last_line(log: Path, begin: int) -> str:
    """The last error in a log from a byte on, or what stands at its end."""
    with suppress(OSError):
        lines = [line for line in log.read_bytes()[begin:].decode(errors="replace").splitlines() if line.strip()]
        return next(
            (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no output"
        )
    return "no output"
