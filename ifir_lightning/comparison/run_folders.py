"""Run folders, read: their recipe, their validations and, for one validation, the value of every query."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from ifir_lightning.benchmarks.names import NAMED
from ifir_lightning.bootstrap import Array
from ifir_lightning.data.evalset import Task, load_task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import BENCHMARK_KEYS, SCALES, Run, p_mrr, query_values
from ifir_lightning.trec import read_run

Which = Literal["last", "best"]
FOLLOWIR = "followir:"  # may stand before the path of a task


@dataclass(frozen=True)
class RunFolder:
    """A run and the validation of it that is compared.

    Attributes:
        folder: As it was given.
        recipe: ``config.yaml``, its nested keys joined by dots.
        history: ``metrics.json`` of every validation of ``fit``, by step; one record for a model that was only
            validated.
        validation: The folder of the one that is compared, with a run file per task.
        left_out: Steps of validations on other tasks than those of the last one.
    """

    folder: Path
    recipe: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    validation: Path
    left_out: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def step(self) -> int:
        """Optimizer steps before the validation."""
        return int(self.record["step"])

    @property
    def of_fit(self) -> bool:
        """Whether ``fit`` validated; otherwise ``validate`` did."""
        return self.validation.name.startswith("step-")

    @property
    def of_training(self) -> bool:
        """Whether ``fit`` made what was validated, be it at its first step."""
        return self.of_fit or bool(self.recipe.get("ckpt_path"))

    @property
    def seed(self) -> Any:
        return self.recipe.get("seed_everything")

    @cached_property
    def record(self) -> dict[str, Any]:
        """``metrics.json`` of the validation."""
        return _read_metrics(self.validation)

    @property
    def task_paths(self) -> list[str]:
        """The FollowIR tasks among those that the recipe names: other benchmarks have no p-MRR."""
        named = {path: NAMED.fullmatch(path) for path in self.recipe["followir.tasks"]}
        return [path for path, match in named.items() if match is None or path.startswith(FOLLOWIR)]

    @property
    def task_names(self) -> list[str]:
        return [metrics["task"] for metrics in self.record["tasks"]]


def read_run_folder(folder: Path, which: Which) -> RunFolder:
    """A run folder of ``fit``, or one that holds ``followir/validate`` of an untrained model or of a checkpoint.

    Raises:
        InputError: It is no run folder, or a file of it is missing.
    """
    steps = sorted(path.parent for path in folder.glob("followir/step-*/metrics.json"))
    found = steps or [path.parent for path in folder.glob("followir/validate/metrics.json")]
    if not found:
        raise InputError(
            f"{folder} is no run folder: it lacks followir/step-*/metrics.json and followir/validate/metrics.json; "
            "allowed are folders that fit or validate wrote (trainer.default_root_dir): check the path"
        )
    records = {path: _read_metrics(path) for path in found}
    of_same = {path: record for path, record in records.items() if _tasks(record) == _tasks(records[found[-1]])}
    validation = max(of_same, key=lambda path: of_same[path]["benchmark"]["p_mrr"]) if which == "best" else found[-1]
    recipe = read_recipe(folder / "config.yaml" if steps else validation / "config.yaml")
    left_out = tuple(record["step"] for path, record in records.items() if path not in of_same)
    return RunFolder(folder, recipe, tuple(of_same.values()), validation, left_out)


def _tasks(record: dict[str, Any]) -> set[str]:
    return {metrics["task"] for metrics in record["tasks"]}


def _read_metrics(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {"step": record["step"], "benchmark": record["benchmark"], "tasks": record["tasks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'metrics.json'}: {error!r}; allowed is the file that a validation writes: leave this run out, "
            "or validate it again"
        ) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """A run's ``config.yaml``, its nested keys joined by dots.

    Raises:
        InputError: It cannot be read, or is no recipe.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; a run is compared by its recipe, which fit and validate write there: restore "
            "the file, or run validate again"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML ({' '.join(str(error).split())}): restore the file") from error
    followir = recipe.get("followir") if isinstance(recipe, dict) else None
    if not (isinstance(followir, dict) and isinstance(followir.get("tasks"), list) and followir["tasks"]):
        raise InputError(f"{path} names no followir.tasks; allowed is the config.yaml of a run: restore the file")
    return dict(_flat("", recipe))


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """Nested keys joined by dots, list entries by their number; a list of plain values stays one value."""
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        return [pair for key, entry in value.items() for pair in _flat(f"{prefix}.{key}".lstrip("."), entry)]
    return [(prefix, value)]


def load_tasks(runs: Sequence[RunFolder]) -> list[Task]:
    """The tasks that all the runs were evaluated on.

    Raises:
        InputError: Tasks of other names, or of the same name with other queries, judgements or passages.
    """
    paths = {path: load_task(path.removeprefix(FOLLOWIR)) for run in runs for path in run.task_paths}
    first = runs[0]
    for run in runs:
        if set(run.task_names) != set(first.task_names):
            raise InputError(
                f"{first.folder} was evaluated on {', '.join(first.task_names)}, {run.folder} on "
                f"{', '.join(run.task_names)}; allowed are runs of the same tasks: validate one of them again"
            )
    tasks = {run.folder: {(task := paths[path]).name: task for path in run.task_paths} for run in runs}
    for run in runs:
        for name in first.task_names:
            _same_task(name, first.folder, tasks[first.folder].get(name), run.folder, tasks[run.folder].get(name))
    shared = [tasks[first.folder][name] for name in first.task_names]
    for task in shared:
        if len(query_order(task, "p_mrr")) < 2:
            raise InputError(
                f"task {task.name!r} has fewer than 2 queries with changed passages; a bootstrap needs 2 or more: "
                "compare runs of a larger task"
            )
    return shared


def _same_task(name: str, first: Path, expected: Task | None, second: Path, found: Task | None) -> None:
    for folder, task in ((first, expected), (second, found)):
        if task is None:
            raise InputError(
                f"{folder}: its validation has task {name!r}, its config.yaml does not; allowed are runs whose "
                "followir.tasks name what they were evaluated on: validate it again"
            )
    assert expected
    assert found
    if queries := set(expected.queries) ^ set(found.queries):
        raise InputError(
            f"task {name!r} has query {min(queries)!r} in one of {first} and {second} only; allowed are runs "
            "evaluated on the same queries: validate one of them again"
        )
    if expected != found:
        raise InputError(
            f"task {name!r} has the same queries but other texts, candidates or judgements in {first} and {second}; "
            "allowed are runs of the same task: validate one of them again"
        )


def read_task_run(run: RunFolder, task: Task) -> Run:
    """The scores of every query of a task.

    Raises:
        InputError: The file is missing, lacks a query, or does not give the numbers that the validation recorded.
    """
    path = run.validation / f"{task.name}.trec"
    scores = read_run(path)
    if lacking := [query_id for query_id in task.queries if query_id not in scores]:
        raise InputError(
            f"{path} lacks {len(lacking)} of {len(task.queries)} queries of {task.name} (first {lacking[0]!r}); "
            "a comparison needs all: validate this run again"
        )
    return scores


def values_per_query(run: RunFolder, task: Task, scores: Run) -> dict[str, Array]:
    """p-MRR and the Scores of every query of a task, x100, each in the order of ``query_order``."""
    per_query: dict[str, Mapping[str, float]] = {"p_mrr": p_mrr(scores, task.changed).per_query}
    for scale in SCALES:
        per_query[f"score_{scale}"] = query_values(scores, task.qrels, task.base_ids, scale)[task.metric]
    values = {key: 100 * np.array([per_query[key][base] for base in query_order(task, key)]) for key in BENCHMARK_KEYS}
    recorded = next(metrics for metrics in run.record["tasks"] if metrics["task"] == task.name)
    for key, array in values.items():
        if abs(array.mean() - recorded[key]) > 1e-6:
            raise InputError(
                f"{run.validation}: {key} of {task.name} was {recorded[key]:.4f} at the validation and is now "
                f"{array.mean():.4f}, so the task or the run file has changed since; allowed are runs whose files are "
                "as they were: validate this run again"
            )
    return values


def query_order(task: Task, key: str) -> list[str]:
    """The base queries that a metric means: for p-MRR those with passages whose relevance changes."""
    return [base for base in task.base_ids if task.changed[base] or key != "p_mrr"]
