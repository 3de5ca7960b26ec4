"""The numbers of a comparison: means with intervals per recipe, differences with p-values per pair, curves.

Everything is x100 and plain data (dicts, lists, numbers), because it is what ``--json`` prints; terminal and HTML
show the same data.
"""

from collections.abc import Sequence
from itertools import combinations, product
from statistics import fmean
from typing import Any

import numpy as np

from ifir_lightning.bootstrap import Array, Estimates, bootstrap
from ifir_lightning.comparison.recipes import Recipe
from ifir_lightning.metrics import BENCHMARK_KEYS

MEAN = "mean"
RANGES = {"p_mrr": (-100, 100)} | {key: (0, 100) for key in BENCHMARK_KEYS if key != "p_mrr"}
Values = dict[str, dict[str, Array]]  # task -> metric -> value of each query


def average(seeds: Sequence[Values]) -> Values:
    """Each query's mean over the seeds of a recipe."""
    return {
        task: {key: np.mean([values[task][key] for values in seeds], axis=0) for key in metrics}
        for task, metrics in seeds[0].items()
    }


def estimate(recipes: Sequence[Values]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """For each recipe, then for each pair (first minus second): task or "mean" -> metric -> numbers."""
    pairs = list(combinations(range(len(recipes)), 2))
    of_recipes: list[dict[str, Any]] = [{} for _ in recipes]
    of_pairs: list[dict[str, Any]] = [{} for _ in pairs]
    for name, key in product((MEAN, *recipes[0]), BENCHMARK_KEYS):
        names = list(recipes[0]) if name == MEAN else [name]
        found = _bootstrap([[values[task][key] for values in recipes] for task in names], pairs, *RANGES[key])
        for index, numbers in enumerate(of_recipes):
            numbers.setdefault(name, {})[key] = _interval("value", found, index)
        for index, numbers in enumerate(of_pairs, start=len(recipes)):
            difference = _interval("difference", found, index) | {"p_value": float(found.p_values[index])}
            numbers.setdefault(name, {})[key] = difference
    return of_recipes, of_pairs


def _bootstrap(tasks: Sequence[Sequence[Array]], pairs: list[tuple[int, int]], low: int, high: int) -> Estimates:
    """The statistics of all recipes, then of all pairs, on the same draws."""
    columns = [
        np.stack([*recipes, *(recipes[first] - recipes[second] for first, second in pairs)], axis=1)
        for recipes in tasks
    ]
    is_pair = np.arange(columns[0].shape[1]) >= len(tasks[0])
    return bootstrap(columns, np.where(is_pair, low - high, low), np.where(is_pair, high - low, high))


def _interval(name: str, found: Estimates, index: int) -> dict[str, float]:
    return {name: float(found.values[index]), "low": float(found.lows[index]), "high": float(found.highs[index])}


def run_means(values: Values) -> dict[str, float]:
    """Mean over tasks of each metric, of one run."""
    return {key: fmean(float(metrics[key].mean()) for metrics in values.values()) for key in BENCHMARK_KEYS}


def seed_pairs(first: Sequence[dict[str, float]], second: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Least and greatest difference between a seed of one recipe and a seed of another, from ``run_means``.

    The interval over queries says nothing of other seeds; this range shows how far those at hand scatter.
    """
    ranges = {}
    for key in BENCHMARK_KEYS:
        differences = [one[key] - other[key] for one, other in product(first, second)]
        ranges[key] = {"low": min(differences), "high": max(differences)}
    return ranges


def curve(recipe: Recipe) -> dict[str, Any]:
    """p-MRR and Score B over the validations that all seeds have: mean, least and greatest over seeds."""
    by_step = [{record["step"]: record["benchmark"] for record in run.history} for run in recipe.runs]
    steps = sorted(set.intersection(*(set(records) for records in by_step)))
    bands = {}
    for key in ("p_mrr", "score_b"):
        values = [[records[step][key] for records in by_step] for step in steps]
        bands[key] = {
            name: [float(of(v)) for v in values] for name, of in (("mean", fmean), ("low", min), ("high", max))
        }
    return {"recipe": recipe.name, "steps": steps, "queries_seen": [recipe.queries_seen(s) for s in steps]} | bands
