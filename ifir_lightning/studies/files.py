"""A study's file -> the study: every fault of the file that can be seen before a trial runs, in one line."""

import re
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args

import yaml

from ifir_lightning.errors import InputError, reason
from ifir_lightning.studies.plan import NUMBERS, Axis, Kind, Search, Study, Value, distinct, is_number

Fault = tuple[bool, str]
"""Whether a study has it; what is wrong, and what is allowed."""
_SETTINGS = "allowed are settings by their dotted keys, or {} for none"
_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


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
    faults = _faults(study)
    for head, settings in study.heads.items():
        named = isinstance(head, str) and re.fullmatch(r"[^\W_][\w.-]*", head)  # it becomes the name of a folder
        faults += [
            (
                not named,
                f"the head {head!r}; allowed are letters, digits, dots, dashes; in a text, a letter or digit first",
            ),
            (not _are_settings(settings), f"the head {head!r}: {settings!r}; {_SETTINGS}"),
        ]
    for name, axis in study.axes.items():
        faults.append((not isinstance(name, str), f"the axis {name!r}; allowed is a text: put it in quotes"))
        faults += [(wrong, f"axis {name!r} {what}") for wrong, what in _faults_of_axis(study, axis)]
    for wrong, what in faults:
        if wrong:
            raise InputError(f"{file}: the study has {what}: correct it")


def _faults(study: Study) -> list[Fault]:
    """Of all but its heads and axes."""
    seeds, share, points = study.seeds, study.decay_share, study.points
    return [
        (not isinstance(study.question, str), f"the question {study.question!r}; allowed is a text: put it in quotes"),
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
            not isinstance(seeds, tuple) or not seeds or not all(isinstance(seed, int) for seed in seeds),
            f"seeds {seeds!r}, of which there is no seed to use; allowed is a list of one or more whole numbers",
        ),
        (_has_equal(seeds), f"seeds {seeds!r}; allowed is each once, since the same training is no repetition"),
        (
            share is not None and not (is_number(share) and 0 < share < 1),
            f"decay_share {share!r}; allowed is more than 0 and less than 1",
        ),
        (
            points is not None and not (isinstance(points, int) and points >= 1),
            f"points {points!r}; allowed is 1 or more",
        ),
        (not isinstance(study.cross, bool), f"cross {study.cross!r}; allowed are true and false"),
        (points is not None and not study.cross, "points and cross: false; allowed is one of the two"),
        (
            study.kind == "sensitivity" and not study.cross,
            "kind sensitivity and cross: false; allowed is it with points or every combination, or another kind",
        ),
        (
            study.kind == "data-demand" and study.cross and len(study.axes) > 1,
            f"kind data-demand and {len(study.axes)} axes varied together, of which no power law holds; allowed is it "
            "with cross: false, or one axis",
        ),
        (not _are_settings(study.settings), f"settings {study.settings!r}; {_SETTINGS}"),
        (study.search not in get_args(Search), f"search {study.search!r}; allowed are {', '.join(get_args(Search))}"),
        (
            study.search == "tpe" and (points is None or study.kind != "search" or share is not None),
            "search tpe; allowed is it with points, kind search (other reports take points for independent) and no "
            "decay_share",
        ),
    ]


def _faults_of_axis(study: Study, axis: Axis) -> list[Fault]:
    given = [way for way in ("choices", "uniform", "log_uniform") if getattr(axis, way) is not None]
    wide = axis.log_uniform if axis.uniform is None else axis.uniform
    named = axis.choices if isinstance(axis.choices, Mapping) else {}
    listed = axis.choices if isinstance(axis.choices, tuple) else ()
    heads = axis.heads or ()
    faults = [
        (len(given) != 1, f"with {given}; allowed is one of choices, uniform, log_uniform"),
        (study.points is None and axis.choices is None, "without choices, and no number of points"),
        (
            isinstance(axis.choices, Mapping) == (axis.key is not None),
            "whose key does not fit: a key goes with a list or a range, not with named choices",
        ),
        (not isinstance(axis.key, str | None), f"with the key {axis.key!r}; allowed is a dotted configuration key"),
        (wide is not None and not _are_ends(wide, axis), f"from {wide}; allowed are two rising {NUMBERS}"),
        (
            axis.choices is not None and not (named or listed),
            f"without a choice, but {axis.choices!r}; allowed is a list, or name: settings",
        ),
        (
            _has_equal(listed),
            f"with the choices {list(listed)}; allowed is each once, since the same training is no repetition",
        ),
        (not isinstance(heads, tuple) or not set(heads) <= set(study.heads), f"for heads {axis.heads}"),
    ]
    faults += [
        (not _are_settings(each), f"with the choice {name!r}: {each!r}; {_SETTINGS}") for name, each in named.items()
    ]
    texts = [each for each in listed if isinstance(each, str) and _POWER.fullmatch(each)]
    return faults + [(True, f"with the text {text!r}; allowed are {NUMBERS}") for text in texts]


def _has_equal(values: Any) -> bool:
    return isinstance(values, tuple) and len(distinct(values)) < len(values)


def _are_settings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _are_ends(ends: Any, axis: Axis) -> bool:
    numbers = isinstance(ends, tuple) and len(ends) == 2 and all(map(is_number, ends))
    return numbers and ends[0] < ends[1] and (axis.log_uniform is None or ends[0] > 0)
