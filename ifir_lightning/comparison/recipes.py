"""Runs that differ in seed and folder only are seeds of one recipe; what else differs between recipes is said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from ifir_lightning.comparison.run_folders import RunFolder, read_recipe
from ifir_lightning.errors import InputError

ABSENT = "not there"
_HEAD = ("model.pooling", "model.scorer")
_HOW = ("watchdog.", "non_finite.", "trainer.enable_progress_bar", "trainer.enable_model_summary", "resume")
_PARADIGMS = {
    "MeanPooling": "bi-encoder",
    "CLSPooling": "bi-encoder",
    "LastTokenPooling": "bi-encoder",
    "TokenProjection": "late interaction",
}


@dataclass(frozen=True)
class Recipe:
    """One recipe and its runs, one per seed."""

    name: str
    runs: tuple[RunFolder, ...]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All keys of the recipe but seed and folder."""
        return _settings(self.runs[0])

    @property
    def initialisation(self) -> str:
        """What training started from."""
        recipe = self.runs[0].recipe
        source = recipe.get("model.checkpoint")
        if not source:
            kind, layers, width = (
                recipe.get(f"model.backbone.config.{key}", "?")
                for key in ("model_type", "num_hidden_layers", "hidden_size")
            )
            source = f"random ({kind}, {layers} layers of {width})"
        return str(source) if self.runs[0].trained else f"{source}, not trained"

    @property
    def paradigm(self) -> str:
        """Bi-encoder or late interaction, with pooling and scorer as the recipe names them."""
        pooling, scorer = (_class_name(self.runs[0].recipe, key) for key in _HEAD)
        if not (pooling and scorer):
            return "as the checkpoint says"
        return f"{_PARADIGMS.get(pooling, 'own pooling')} ({pooling}, {scorer})"

    def queries_seen(self, step: int) -> int:
        """Training queries of so many optimizer steps."""
        recipe = self.runs[0].recipe
        batch = recipe.get("data.global_batch_size")
        if step and batch is None:
            raise InputError(
                f"{self.runs[0].folder}: its config.yaml lacks data.global_batch_size; allowed is the recipe of a run: "
                "restore the file"
            )
        return step * int(batch or 0) * int(recipe.get("trainer.accumulate_grad_batches") or 1)


def group_runs(runs: Sequence[RunFolder]) -> list[Recipe]:
    """The recipes among some runs, in the order of their first runs, with distinct names."""
    settings: list[dict[str, Any]] = []
    groups: list[list[RunFolder]] = []
    for run in runs:
        own = _settings(run)
        if own in settings:
            groups[settings.index(own)].append(run)
        else:
            settings.append(own)
            groups.append([run])
    names = [_name([run.name for run in group]) for group in groups]
    return [
        Recipe(name if names.count(name) == 1 else f"{name} ({group[0].folder})", tuple(group))
        for name, group in zip(names, groups, strict=True)
    ]


def differing_settings(recipes: Sequence[Recipe]) -> dict[str, list[Any]]:
    """Key -> its value in each recipe, for every key that is not the same in all."""
    settings = [recipe.settings for recipe in recipes]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    values = {key: [each.get(key, ABSENT) for each in settings] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def warnings_about(recipes: Sequence[Recipe]) -> list[str]:
    """What a reader of the numbers must know: two things changed at once, other steps, a seed counted twice."""
    lines = []
    for first, second in combinations(recipes, 2):
        others = [key for key in differing_settings([first, second]) if not key.startswith(_HEAD)]
        if others:
            lines.append(f"{first.name} and {second.name} differ in more than pooling and scorer: {', '.join(others)}")
    for recipe in recipes:
        seeds = [run.seed for run in recipe.runs]
        if len(set(seeds)) < len(seeds):
            lines.append(f"{recipe.name} has seeds {seeds}: one that is there twice counts twice")
    steps = {run.folder: run.step for recipe in recipes for run in recipe.runs if run.trained}
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{folder} {step}" for folder, step in steps.items())
        lines.append(f"the runs are compared at different steps: {found}")
    for run in (run for recipe in recipes for run in recipe.runs if run.left_out):
        steps_left = ", ".join(map(str, run.left_out))
        lines.append(f"{run.folder}: validations at steps {steps_left}, on other tasks than the last, are left out")
    return lines


def _settings(run: RunFolder) -> dict[str, Any]:
    """What can change a number. A branch's trunk is what it is called and does otherwise: each seed has its own."""
    settings = _of_all_seeds(run.recipe, run.folder)
    if checkpoint := settings.get("ckpt_path"):
        otherwise = {key: value for key, value in _trunk(checkpoint).items() if settings.get(key) != value}
        settings["ckpt_path"] = Path(checkpoint).name
        settings |= {f"ckpt_path: {key}": value for key, value in otherwise.items()}
    return settings


def _trunk(checkpoint: str) -> dict[str, Any]:
    """The settings of the run that a checkpoint is from; the checkpoint's path where they are not there."""
    folder = Path(checkpoint).resolve().parent.parent
    try:
        return _of_all_seeds(read_recipe(folder / "config.yaml"), folder)
    except InputError:
        return {"of": checkpoint}


def _of_all_seeds(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Null is as good as not there, where an older version wrote the recipe."""
    kept = {key: value for key, value in recipe.items() if not _is_of_the_run(folder, key, value)}
    return {key: value for key, value in kept.items() if value is not None and not key.startswith(_HOW)}


def _is_of_the_run(folder: Path, key: str, value: Any) -> bool:
    """Seed, folder, and the checkpoint of its own from which a run was continued."""
    if key == "ckpt_path" and value:
        return value == "last" or folder.resolve() in Path(value).resolve().parents
    return key in ("seed_everything", "trainer.default_root_dir") or key.endswith(".seed")


def _class_name(recipe: dict[str, Any], key: str) -> str:
    return str(recipe.get(f"{key}.class_path") or "").rpartition(".")[2]


def _name(names: Sequence[str]) -> str:
    """Of several seeds what their folders' names share before a number; of one run its folder's name."""
    shared = {re.sub(r"[-_.]?(seed[-_.]?)?\d+$", "", name) for name in names}
    return min(shared) if len(names) > 1 and len(shared) == 1 and "" not in shared else names[0]
