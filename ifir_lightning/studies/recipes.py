"""A trial -> its whole recipe."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifir_lightning.errors import InputError
from ifir_lightning.studies.files import read_yaml
from ifir_lightning.studies.plan import Study, Trial, Value


def recipe_of(study: Study, trial: Trial, folder: Path) -> dict[str, Any]:
    """The whole recipe of a trial that runs in ``folder``.

    Raises:
        InputError: A setting inside something that is no mapping, or a factor of what is no number.
    """
    recipe = read_yaml(study.recipe, "a recipe in YAML")
    settings = dict(trial.settings)
    budget = settings.pop("budget", study.budget)
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
    steps = max(1, int(budget) // batch)
    recipe["seed_everything"] = trial.seed
    recipe["trainer"] |= {"default_root_dir": str(folder), "max_steps": steps, "val_check_interval": steps}
    return recipe


def _set(recipe: dict[str, Any], key: str, value: Value) -> None:
    *parents, last = key.split(".")
    place = recipe
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise InputError(f"the study sets {key}, but {parent} is {place!r} in the recipe: correct the key")
    if isinstance(value, Mapping) and set(value) == {"times"}:
        if not isinstance(place.get(last), int | float):
            raise InputError(
                f"the study multiplies {key}, which is {place.get(last)!r} in the recipe: give it a number"
            )
        value = place[last] * value["times"]
    place[last] = copy.deepcopy(value)
