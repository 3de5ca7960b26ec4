"""A study -> the list of its trials: a pure function, so that every machine and every restart sees the same list.

A study names a base recipe, heads (settings that make one paradigm of it), axes (what is varied), seeds and a budget of
training queries that is equal for every trial. Trial i of every head takes the same point on every axis, the same seed,
hence the same initial backbone, rows, order and negatives: pairs are matched by construction.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ifir_lightning.errors import InputError

Kind = Literal["sensitivity", "data-demand", "negatives", "distillation", "training-length", "search"]
Search = Literal["random", "tpe"]
Value = Any
Settings = Mapping[str, Value]
"""Dotted configuration key -> value; ``{times: x}`` multiplies what stands there."""
NUMBERS = "numbers (YAML takes 1e-5 for a text: write 1.0e-5)"


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
            return self.rounded(math.exp(low + share * (high - low)))
        assert self.uniform is not None
        return self.rounded(self.uniform[0] + share * (self.uniform[1] - self.uniform[0]))

    def rounded(self, value: float) -> float:
        """A number of the range to four digits, or as it is where the range is too narrow for that."""
        low, high = self.ends
        short = float(f"{value:.4g}")
        return short if self.holds(short) and abs(short - value) <= 1e-3 * (high - low) else min(max(value, low), high)

    @property
    def ends(self) -> tuple[float, float]:
        """Of the range."""
        ends = self.log_uniform or self.uniform
        assert ends is not None
        return ends

    def holds(self, value: Value) -> bool:
        """Whether a value is on the axis."""
        if self.choices is not None:
            return value in list(self.choices)
        return self.ends[0] <= value <= self.ends[1]

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


def is_number(value: Value) -> bool:
    """Whether it is one: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each once, in their order; a choice may be a list or a mapping, which have no hash."""
    found: list[Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


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
    reads = {name for name, axis in study.axes.items() if head in (axis.heads or (head,))}
    own = varied = {name: value for name, value in point.items() if name in reads}
    if study.points is None:
        base = first_choices(study)
        if any(value != base[name] for name, value in point.items() if name not in reads):
            return None
        if not study.cross:
            varied = {name: value for name, value in base.items() if name in reads} | own
    settings = [study.settings, study.heads[head]]
    settings += [study.axes[name].settings(value) for name, value in varied.items()]
    merged: dict[str, Value] = {"budget": study.budget}
    for each in settings:
        for key, value in each.items():  # a factor of what only the recipe says is kept
            merged[key] = times(key, merged[key], value) if key in merged else value
    return Trial(head, number, seed, own, merged)


def times(key: str, before: Value, value: Value) -> Value:
    """What a setting makes of the value before it: ``{times: x}`` multiplies that, anything else takes its place.

    Raises:
        InputError: One of the two is no number.
    """
    if not isinstance(value, Mapping) or set(value) != {"times"}:
        return value
    if not is_number(before) or not is_number(value["times"]):
        raise InputError(
            f"the study multiplies {key}, which is {before!r}, by {value['times']!r}; allowed are two {NUMBERS}: "
            "correct it"
        )
    return before * value["times"]
