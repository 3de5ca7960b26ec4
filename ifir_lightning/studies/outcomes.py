"""What a trial leaves on the disk: its files, how its training ended, its result."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifir_lightning.studies.plan import Trial

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


def has_diverged(run: Path, status: int) -> bool:
    """Whether a step that was not finite ended it (``callbacks.non_finite``), or ``metrics.csv`` holds such a loss."""
    if status and any(run.glob("non_finite/*.json")):
        return True
    with suppress(OSError), open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        losses = [row.get("train/loss") for row in csv.DictReader(file)]
        return not all(math.isfinite(float(loss)) for loss in losses if loss)
    return False


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


def last_line(log: Path) -> str:
    """The last error in a log, or what stands at its end."""
    with suppress(OSError):
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return next(
            (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no output"
        )
    return "no output"
