"""metrics.csv of a run folder: one line per step, kept over restarts."""

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Writes ``metrics.csv`` into a run folder.

    Lightning's CSVLogger deletes the file of an earlier start; this one reads it and goes on. A step that is
    logged again, as happens after a resume, replaces its old values.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        return self

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings of a run are in its ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._rows is None:
            self._rows = self._read()
        assert step is not None
        self._rows.setdefault(step, {"step": step}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew, beside and then over the old one."""
        if not self._rows:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        columns = sorted({name for row in self._rows.values() for name in row} - {"step", "epoch"})
        partial = self._path.with_suffix(".csv.tmp")
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *columns])
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
        os.replace(partial, self._path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _read(self) -> dict[int, dict[str, Any]]:
        if not self._path.exists():
            return {}
        with open(self._path, newline="", encoding="utf-8") as file:
            rows = [{name: value for name, value in row.items() if value != ""} for row in csv.DictReader(file)]
        return {int(row["step"]): {**row, "step": int(row["step"])} for row in rows}
