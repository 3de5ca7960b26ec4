"""Points that Optuna suggests from what a head's earlier points scored (``search: tpe``).

The study's folder is the storage: points/HEAD-007.json is a place on the axes, written once, by whichever worker was
first; machines that see the folder search together. A point is suggested when all earlier ones of its head have ended,
so what is suggested follows from the results alone, not from how many trials ran at a time.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.studies.plan import Axis, Study, Trial, Value, make_trial, random_point, trials

LOWEST = -100.0
"""What a training that failed or diverged counts: the lowest p-MRR that there is."""
Place = dict[str, Value]
Ended = Callable[[Trial], Mapping[str, Any] | None]
"""The result of a trial, None while there is none."""


def num_trials(study: Study) -> int:
    """How many there will be."""
    if study.search == "random":
        return len(trials(study))
    return (study.points or 0) * len(study.heads) * len(study.seeds)


def known_trials(study: Study, folder: Path) -> list[Trial]:
    """All trials of a study whose points are drawn; where they are suggested, those of the points so far.

    Raises:
        InputError: The folder holds points of other axes.
    """
    if study.search == "random":
        return trials(study)
    known = [
        trial
        for head in study.heads
        for number, place in enumerate(_places(study, head, folder))
        for trial in _at(study, head, number, place)
    ]
    return sorted(known, key=lambda trial: (trial.point, trial.seed))


def add_points(study: Study, folder: Path, ended: Ended) -> None:
    """A new point for each head whose trials so far have all ended, until it has all of its points.

    Raises:
        InputError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise InputError(
            "the study has search: tpe, but optuna is not installed; allowed is it with optuna: install the extra "
            "'search', or set search: random"
        )
    for head in study.heads:
        places = _places(study, head, folder)
        results = [[ended(trial) for trial in _at(study, head, *point)] for point in enumerate(places)]
        if len(places) < (study.points or 0) and all(map(all, results)):
            scored = [(place, _score(found)) for place, found in zip(places, results, strict=True)]
            _write_once(_file(folder, head, len(places)), suggest(study, head, len(places), scored))


def _score(results: Sequence[Mapping[str, Any] | None]) -> float:
    """Mean p-MRR over seeds."""
    values = [result["p_mrr"] if result["status"] == "finished" else LOWEST for result in results if result]
    return sum(values) / len(values)


def _at(study: Study, head: str, number: int, place: Place) -> list[Trial]:
    made = [make_trial(study, head, number, seed, place) for seed in study.seeds]
    return [trial for trial in made if trial is not None]


def _places(study: Study, head: str, folder: Path) -> list[Place]:
    files = (_file(folder, head, number) for number in range(study.points or 0))
    return [_read(file, _axes(study, head)) for file in takewhile(Path.exists, files)]


def _file(folder: Path, head: str, number: int) -> Path:
    return folder / "points" / f"{head}-{number:03d}.json"


def _axes(study: Study, head: str) -> dict[str, Axis]:
    return {name: axis for name, axis in study.axes.items() if head in (axis.heads or (head,))}


def _read(file: Path, axes: Mapping[str, Axis]) -> Place:
    place = json.loads(file.read_text(encoding="utf-8"))
    if set(place) != set(axes) or not all(axis.holds(place[name]) for name, axis in axes.items()):
        raise InputError(
            f"{file} is {place}, a place on other axes than the study has now; allowed is to continue the same study: "
            "choose another --output, or restore the study's file"
        )
    return place


def _write_once(file: Path, place: Place) -> None:
    """Whole or not at all; of two workers the first one's."""
    file.parent.mkdir(exist_ok=True)
    draft = file.with_name(f"{file.name}.{platform.node()}-{os.getpid()}")
    durable.write_text(draft, json.dumps(place))
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def suggest(study: Study, head: str, number: int, scored: Sequence[tuple[Place, float]]) -> Place:
    """Where point ``number`` of a head stands: the first third at random, the same for all heads, then by Optuna.

    Args:
        study: Its axes.
        head: Axes of other heads are left out.
        number: Of the point; it seeds the draw.
        scored: The head's earlier points and their p-MRR, the mean over seeds.
    """
    axes = _axes(study, head)
    if not axes or number < max(1, (study.points or 0) // 3):
        return {name: value for name, value in random_point(study, number).items() if name in axes}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {name: _distribution(axis) for name, axis in axes.items()}
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=0)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    for place, value in scored:
        params = {name: _parameter(axis, place[name]) for name, axis in axes.items()}
        search.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    found = search.ask(ranges).params
    return {name: _value(axis, found[name]) for name, axis in axes.items()}


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if axis.choices is not None:
        return CategoricalDistribution(range(len(axis.choices)))
    if axis.log_uniform is not None:
        return FloatDistribution(*axis.log_uniform, log=True)
    assert axis.uniform is not None
    return FloatDistribution(*axis.uniform)


def _parameter(axis: Axis, value: Value) -> float:
    """Optuna knows a choice by its number."""
    return value if axis.choices is None else list(axis.choices).index(value)


def _value(axis: Axis, parameter: Any) -> Value:
    if axis.choices is not None:
        return list(axis.choices)[parameter]
    return axis.rounded(parameter)
