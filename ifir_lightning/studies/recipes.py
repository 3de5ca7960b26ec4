"""A trial -> its whole recipe."""

import copy
from pathlib import Path
from typing import Any

from ifir_lightning.errors import InputError
from ifir_lightning.studies.files import read_yaml
from ifir_lightning.studies.plan import NUMBERS, Study, Trial, Value, is_number, times


def recipe_of(study: Study, trial: Trial, folder: Path) -> dict[str, Any]:
    """The whole recipe of a trial that runs in ``folder``.

    Raises:
        InputError: A setting inside something that is no mapping, a factor of what is no number, or a budget or batch
            that cannot be counted.
    """
    recipe = read_yaml(study.recipe, "a recipe in YAML")
    settings = dict(trial.settings)
    budget = settings.pop("budget")
    if not is_number(budget) or budget < 1:
        raise InputError(f"{trial.name} has the budget {budget!r}; allowed are {NUMBERS} of 1 or more: correct it")
    if not isinstance(recipe, dict):
        raise InputError(f"{study.recipe} is {recipe!r}; allowed is a recipe of fit: name another")
    for key, value in settings.items():
        _set(recipe, key, value)
    batch = (recipe.get("data") or {}).get("global_batch_size")
    if not isinstance(batch, int) or batch < 1 or not isinstance(recipe.get("trainer"), dict):
        raise InputError(
            f"{study.recipe} has data.global_batch_size {batch!r}; allowed is a recipe of fit with a number there and "
            "a trainer, since the budget is counted in queries: set it in the recipe or the study"
        )
    accumulated = recipe["trainer"].get("accumulate_grad_batches") or 1  # batches of each step
    if not isinstance(accumulated, int) or accumulated < 1:
        raise InputError(
            f"{study.recipe} has trainer.accumulate_grad_batches {accumulated!r}; allowed is a number of 1 or more, "
            "since the budget is counted in queries: set it in the recipe or the study"
        )
    steps = max(1, int(budget) // (batch * accumulated))
    recipe["seed_everything"] = trial.seed
    recipe["trainer"] |= {
        "default_root_dir": str(folder),
        "max_steps": steps,
        "val_check_interval": steps * accumulated,
    }
    return recipe


def _set(recipe: dict[str, Any], key: str, value: Value) -> None:
    *parents, last = key.split(".")
    place = recipe
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise InputError(f"the study sets {key}, but {parent} is {place!r} in the recipe: correct the key")
    place[last] = copy.deepcopy(times(key, place.get(last), value))
