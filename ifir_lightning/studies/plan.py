"""A study file -> the list of its trials: a pure function, so that every machine and every restart sees the same list.

A study names a base recipe, heads (settings that make one paradigm of it), axes (what is varied), seeds and a budget of
training queries that is equal for every trial. Trial i of every head takes the same point on every axis, the same seed,
hence the same initial backbone, rows, order and negatives: pairs are matched by construction.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from ifir_lightning.errors import InputError, reason

Kind = Literal["sensitivity", "data-demand", "negatives", "distillation", "training-length", "search"]
Search = Literal["random", "tpe"]
Value = Any
Settings = Mapping[str, Value]
"""Dotted configuration key -> value; ``{times: x}`` multiplies what stands there."""


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Args:
        key: Dotted configuration key, or ``budget``: the number of training queries.
        choices: Values in their order, or name -> settings where one choice sets several keys (or none).
        uniform: Lower and upper end of a continuous range, drawn evenly; for random search only.
        log_uniform: The same, drawn evenly on a logarithmic scale.
        heads: Heads to which it applies; by default all.
    """

    key: str | None = None
    choices: Sequence[Value] | Mapping[str, Settings] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    heads: tuple[str, ...] | None = None

    def at(self, share: float) -> Value:
        """The value at ``share`` of the axis, in [0, 1): a draw where share is one."""
        if self.choices is not None:
            names = list(self.choices)
            return names[int(share * len(names))]
        if self.log_uniform is not None:
            low, high = map(math.log, self.log_uniform)
            return float(f"{math.exp(low + share * (high - low)):.4g}")
        assert self.uniform is not None
        return float(f"{self.uniform[0] + share * (self.uniform[1] - self.uniform[0]):.4g}")

    def settings(self, value: Value) -> Settings:
        """Configuration keys that a value stands for."""
        if isinstance(self.choices, Mapping):
            return self.choices[value]
        assert self.key is not None
        return {self.key: value}


@dataclass(frozen=True)
class Trial:
    """One training: ``point`` is its number within head and seed, ``values`` its place on the axes."""

    head: str
    point: int
    seed: int
    values: Mapping[str, Value]
    settings: Settings = field(repr=False)

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.head}-{self.point:03d}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study file, checked.

    Args:
        question: What it answers, in a sentence.
        kind: Which analysis and pictures its report has.
        recipe: The base recipe.
        heads: Name -> settings of each paradigm.
        axes: Name -> what is varied.
        budget: Training queries of every trial; with the batch it gives ``trainer.max_steps``.
        seeds: Every point is run with each of them.
        points: Number of points drawn at random; by default all choices.
        search: Where points come from: all ``random``, or later ones suggested by what the head's earlier ones scored
            (``tpe``, Optuna's tree-structured Parzen estimator).
        cross: Without ``points``, every combination of choices; if false, one axis at a time, with the others at their
            first choice: point 0 has the first choice of every axis, and the others are compared with it.
        settings: Settings of every trial.
        decay_share: Of each training's steps, the last over which its rate falls. Trainings that differ in their budget
            only then share the steps before that, at a constant rate (``branches``); by default each has its own.
    """

    question: str
    kind: Kind
    recipe: Path
    heads: Mapping[str, Settings]
    axes: Mapping[str, Axis]
    budget: int
    seeds: tuple[int, ...] = (0, 1, 2)
    points: int | None = None
    search: Search = "random"
    cross: bool = True
    settings: Settings = field(default_factory=dict)
    decay_share: float | None = None


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


def trials(study: Study) -> list[Trial]:
    """Every trial, one point after the other; of each point all seeds and heads: early results can be compared."""
    points = list(_points(study))
    return [
        trial
        for number, point in enumerate(points)
        for seed in study.seeds
        for head in study.heads
        if (trial := make_trial(study, head, number, seed, point)) is not None
    ]


def _points(study: Study) -> Iterator[dict[str, Value]]:
    """Name of axis -> value; one that is varied alone is named alone, but for point 0."""
    if study.points is None and not study.cross:
        yield first_choices(study)
        yield from ({name: value} for name, axis in study.axes.items() for value in list(axis.choices or ())[1:])
        return
    if study.points is None:
        yield from (
            dict(zip(study.axes, values, strict=True))
            for values in itertools.product(*(axis.choices or () for axis in study.axes.values()))
        )
        return
    yield from (random_point(study, number) for number in range(study.points))


def random_point(study: Study, number: int) -> dict[str, Value]:
    """Name of axis -> value, the same wherever and whenever it is drawn."""
    shares = np.random.Generator(np.random.Philox(key=number)).random(len(study.axes))
    return {name: axis.at(share) for (name, axis), share in zip(study.axes.items(), shares.tolist(), strict=True)}


def first_choices(study: Study) -> dict[str, Value]:
    """What the other points of a study without ``cross`` are compared with."""
    return {name: next(iter(axis.choices or ())) for name, axis in study.axes.items()}


def make_trial(study: Study, head: str, number: int, seed: int, point: Mapping[str, Value]) -> Trial | None:
    """The trial at a point; None where the head does without an axis and another point is the same training already."""
    own = {name: value for name, value in point.items() if head in (study.axes[name].heads or (head,))}
    base = {} if study.points else first_choices(study)
    if study.points is None and any(point[name] != base[name] for name in point if name not in own):
        return None
    held = {} if study.cross else {name: base[name] for name in base if head in (study.axes[name].heads or (head,))}
    settings = [study.settings, study.heads[head]]
    settings += [study.axes[name].settings(value) for name, value in (held | own).items()]
    merged: dict[str, Value] = {}
    for each in settings:
        for key, value in each.items():
            merged[key] = _times(merged, key, value)
    return Trial(head, number, seed, own, merged)


def _times(settings: Settings, key: str, value: Value) -> Value:
    """``{times: x}`` on a key that was set before is worked out at once; otherwise when the recipe is known."""
    if isinstance(value, Mapping) and set(value) == {"times"} and key in settings:
        return settings[key] * value["times"]
    return value
