"""metrics.csv of a run folder: one line per step, kept over restarts."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from ifir_lightning import metrics_file


class MetricsCSV(Logger):
    """Writes ``metrics.csv`` into a run folder.

    Lightning's CSVLogger deletes the file of an earlier start; this one reads it and goes on. A step that is
    logged again, as happens after a resume, replaces its old values.

    Args:
        save_dir: The run folder; on the command line it is ``trainer.default_root_dir``, whatever is given here.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] | None = None
        self._unsaved: set[int] = set()
        self._columns: list[str] = []  # of the file
        self._last = -1  # step in the file

    def write_into(self, folder: str) -> None:
        """Before anything is logged: the run folder, where resumption and its lock see to the file."""
        self._path = Path(folder) / "metrics.csv"

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
        self._unsaved.add(step)

    @rank_zero_only
    def save(self) -> None:
        """Append the steps that are new; with a new column, or where an older step has changed, write the file anew."""
        if not self._rows or not self._unsaved:
            return
        new = [self._rows[step] for step in sorted(self._unsaved)]
        names = {name for row in new for name in row}
        if names.issubset(self._columns) and new[0]["step"] > self._last and self._path.exists():
            columns, lines = self._columns, list(self._lines(new))
            self._columns = []  # what is torn if this fails is written anew
            metrics_file.append(self._path, lines)
            self._columns = columns
        else:
            names = {name for row in self._rows.values() for name in row}
            self._columns = ["step", "epoch", *sorted(names - {"step", "epoch"})]
            rows = (self._rows[step] for step in sorted(self._rows))
            metrics_file.write(self._path, [self._columns, *self._lines(rows)])
        self._last = max(self._last, new[-1]["step"])
        self._unsaved.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _lines(self, rows: Iterable[dict[str, Any]]) -> Iterator[list[Any]]:
        return ([row.get(name, "") for name in self._columns] for row in rows)

    def _read(self) -> dict[int, dict[str, Any]]:
        header, rows, is_whole = metrics_file.read(self._path)
        self._columns = header if is_whole else []  # nothing is appended to a torn line
        self._last = max(rows, default=-1)
        named = {step: dict(zip(header, row, strict=True)) for step, row in rows.items()}
        return {step: {k: v for k, v in row.items() if v != ""} | {"step": step} for step, row in named.items()}
