"""Runs whose recipes differ in nothing that changes numbers but the seed are seeds of one recipe; what else differs
between recipes is said.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from ifir_lightning.comparison.run_folders import RunFolder, read_recipe
from ifir_lightning.errors import InputError
from ifir_lightning.resume import changes_training, is_branch

ABSENT = "not there"
_HEAD = ("model.pooling", "model.scorer")
_OF_FIT = ("trainer.max_", "trainer.callbacks")
"""What runs of one recipe also share, though ``fit`` lets it change on the way."""
_LOST = "ckpt_path: of a run that is not there"
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
        """Those keys of the recipe that change numbers, but seed and folder."""
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
        is_trained = any(run.of_training and run.step for run in self.runs)
        return str(source) if is_trained else f"{source}, not trained"

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
        if _LOST in recipe.settings:
            lines.append(
                f"{recipe.name} goes on from ckpt_path {recipe.runs[0].recipe['ckpt_path']}, whose run is not there: "
                "how that was trained is not compared (a relative path is read from the folder you are in)"
            )
    steps = {run.folder: run.step for recipe in recipes for run in recipe.runs if run.of_training}
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{folder} {step}" for folder, step in steps.items())
        lines.append(f"the runs are compared at different steps: {found}")
    for run in (run for recipe in recipes for run in recipe.runs if run.left_out):
        steps_left = ", ".join(map(str, run.left_out))
        lines.append(f"{run.folder}: validations at steps {steps_left}, on other tasks than the last, are left out")
    return lines


def _settings(run: RunFolder) -> dict[str, Any]:
    """What can change a number, but for the seed: the settings of its training and, where ``validate`` read the
    checkpoint of another run, those that differed from that run's.
    """
    checkpoint = None if run.of_fit else run.recipe.get("ckpt_path")
    source = _run_of(checkpoint) if checkpoint else None
    settings = _of_fit(*(source or (run.recipe, run.folder)))
    otherwise = _otherwise("validate", run.recipe, settings) if source else {}
    return settings | otherwise | {"trained": run.of_training}


def _of_fit(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of a training. Of a branch also the checkpoint of its trunk at which it began, by its name alone since
    each seed has a trunk of its own, and the settings in which the trunk differed.
    """
    settings = {key: value for key, value in recipe.items() if _counts(key, value)}
    checkpoint = recipe.get("ckpt_path")
    if checkpoint is None or not is_branch(folder, checkpoint):
        return settings
    trunk = _run_of(checkpoint)
    otherwise = _otherwise("ckpt_path", trunk[0], settings) if trunk else {_LOST: True}
    return settings | {"ckpt_path": Path(checkpoint).name} | otherwise


def _otherwise(where: str, recipe: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What another recipe says otherwise of training."""
    found = {key: value for key, value in recipe.items() if _counts(key, value) and not key.startswith(_OF_FIT)}
    return {f"{where}: {key}": value for key, value in found.items() if settings.get(key) != value}


def _run_of(checkpoint: str) -> tuple[dict[str, Any], Path] | None:
    """Recipe and folder of the run that a checkpoint is from; None where it is not there."""
    path = Path(checkpoint)
    folder = next((each for each in (path, *path.parents[:2]) if (each / "config.yaml").is_file()), None)
    return None if folder is None else (read_recipe(folder / "config.yaml"), folder)


def _counts(key: str, value: Any) -> bool:
    """Null is as good as not there, where an older version wrote the recipe."""
    is_seed = key == "seed_everything" or key.endswith(".seed")
    return value is not None and not is_seed and (changes_training(key) or key.startswith(_OF_FIT))


def _class_name(recipe: dict[str, Any], key: str) -> str:
    return str(recipe.get(f"{key}.class_path") or "").rpartition(".")[2]


def _name(names: Sequence[str]) -> str:
    """Of several seeds what their folders' names share before a number; of one run its folder's name."""
    shared = {re.sub(r"[-_.]?(seed[-_.]?)?\d+$", "", name) for name in names}
    return min(shared) if len(names) > 1 and len(shared) == 1 and "" not in shared else names[0]
