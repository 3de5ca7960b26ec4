"""A study's file -> the study: every fault of the file that can be seen before a trial runs, in one line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args

import yaml

from ifir_lightning.errors import InputError, reason
from ifir_lightning.studies.plan import Axis, Kind, Search, Study, Value


def read_study(path: str | Path) -> Study:
    """The study in a YAML file.

    Raises:
        InputError: No such file, no YAML, unknown or missing fields, an axis that cannot be drawn.
    """
    file = Path(path)
    content = read_yaml(file, "a study in YAML: see configs/studies")
    _check_fields(file, "the study", content, Study)
    for name in ("heads", "axes"):
        if not isinstance(content[name], dict):
            raise InputError(f"{file}: {name} is {content[name]!r}; allowed is name: settings for each: correct it")
    for name, axis in content["axes"].items():
        _check_fields(file, f"axis {name!r}", axis, Axis)
    axes = {name: Axis(**{key: _tuple(value) for key, value in axis.items()}) for name, axis in content["axes"].items()}
    recipe = Path(str(content["recipe"]))
    lists = {key: _tuple(value) for key, value in content.items() if key == "seeds"}
    study = Study(**content | lists | {"axes": axes, "recipe": recipe})
    _check(file, study)
    return study


def read_yaml(file: Path, allowed: str) -> Any:
    """What a YAML file holds; InputError where it cannot be read."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read ({reason(error)}): allowed is {allowed}") from error


def _tuple(value: Value) -> Value:
    return tuple(value) if isinstance(value, list) else value


def _check_fields(file: Path, what: str, content: Any, kind: type) -> None:
    allowed = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(content, dict):
        raise InputError(f"{file}: {what} is {content!r}; allowed are the keys {', '.join(allowed)}: correct it")
    if unknown := [key for key in content if key not in allowed]:
        raise InputError(f"{file}: {what} has the key {unknown[0]!r}; allowed are {', '.join(allowed)}: correct it")
    needed = [name for name, each in allowed.items() if each.default is MISSING and each.default_factory is MISSING]
    if lacking := [name for name in needed if name not in content]:
        raise InputError(f"{file}: {what} lacks the key {lacking[0]!r}; needed are {', '.join(needed)}: add it")


def _check(file: Path, study: Study) -> None:
    """Every fault of a study that can be seen before a trial runs."""
    faults = [
        (study.kind not in get_args(Kind), f"kind {study.kind!r}; allowed are {', '.join(get_args(Kind))}"),
        (
            not study.recipe.is_file(),
            f"recipe {study.recipe}, which is no file; allowed is a recipe (from where you are)",
        ),
        (not study.heads, "no head; allowed is one or more"),
        (
            not isinstance(study.budget, int) or study.budget < 1,
            f"budget {study.budget!r}; allowed is a number of queries",
        ),
        (
            not isinstance(study.seeds, tuple) or not study.seeds or not all(isinstance(s, int) for s in study.seeds),
            f"seeds {study.seeds!r}, of which there is no seed to use; allowed is a list of one or more whole numbers",
        ),
        (
            study.decay_share is not None and not 0 < study.decay_share < 1,
            f"decay_share {study.decay_share}; allowed is more than 0 and less than 1",
        ),
        (study.points is not None and study.points < 1, f"points {study.points}; allowed is 1 or more"),
        (study.points is not None and not study.cross, "points and cross: false; allowed is one of the two"),
        (study.search not in get_args(Search), f"search {study.search!r}; allowed are {', '.join(get_args(Search))}"),
        (
            study.search == "tpe" and (study.points is None or study.kind != "search" or study.decay_share is not None),
            "search tpe; allowed is it with points, kind search (other reports take points for independent) and no "
            "decay_share",
        ),
    ]
    for name, head in study.heads.items():
        named = re.fullmatch(r"[\w.-]+", str(name)) is not None  # it becomes the name of a folder
        faults += [
            (not named, f"the head {name!r}; allowed are letters, digits, dots and dashes"),
            (not isinstance(head, Mapping), f"the head {name!r}: {head!r}; allowed are settings, or {{}} for none"),
        ]
    for name, axis in study.axes.items():
        given = [way for way in ("choices", "uniform", "log_uniform") if getattr(axis, way) is not None]
        wide = axis.uniform or axis.log_uniform
        named = isinstance(axis.choices, Mapping)
        faults += [
            (len(given) != 1, f"axis {name!r} with {given}; allowed is one of choices, uniform, log_uniform"),
            (study.points is None and axis.choices is None, f"axis {name!r} without choices, and no number of points"),
            (
                named == (axis.key is not None),
                f"axis {name!r}: a key goes with a list or a range, not with named choices",
            ),
            (
                wide is not None and not _ordered(wide, axis),
                f"axis {name!r} from {wide}; allowed are two rising numbers",
            ),
            (axis.choices is not None and not axis.choices, f"axis {name!r} without a choice"),
            (not set(axis.heads or ()) <= set(study.heads), f"axis {name!r} for heads {axis.heads}"),
        ]
    for wrong, what in faults:
        if wrong:
            raise InputError(f"{file}: the study has {what}: correct it")


def _ordered(ends: Sequence[float], axis: Axis) -> bool:
    return len(ends) == 2 and ends[0] < ends[1] and (axis.log_uniform is None or ends[0] > 0)
