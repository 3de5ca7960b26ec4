"""Intervals and p-values for means over queries, by bootstrap.

A benchmark value is the mean over tasks of the mean over a task's queries, so queries are drawn anew within each task
(a stratified bootstrap) and every statistic of a comparison sees the same draws. Two systems are compared by their
per-query differences, which is the paired bootstrap.

The interval is the symmetric bootstrap-t of Hall ("On symmetric bootstrap confidence intervals", JRSS B 50, 1988;
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 12): with the estimate m, its standard error s
from the within-task variances, and m*, s* of a redrawn sample,

    t* = (m* - m) / s*     interval m +- s * (95% quantile of |t*|)     p = share of draws with |t*| >= |m| / s

so p < 0.05 exactly where the interval excludes 0 (the sample itself counts as one draw). Percentile and BCa
intervals cover too little with 20 to 60 queries, above all where many queries are ties; this one errs on the other
side. A redrawn sample without any variance counts as |t*| = infinity: where all but a few queries agree, the interval
is the whole range that the values can have, which says that these queries cannot tell. Where all agree it has no width.

What is random is the choice of queries. Tasks and models are held fixed: several seeds of one recipe enter as each
query's mean over the seeds, so the interval is about other queries for these trained models, not about other seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
_COLUMNS_AT_A_TIME = 64  # bounds memory: 10,000 draws x 64 statistics are 5 MB


@dataclass(frozen=True)
class Estimates:
    """M means with their intervals, and p-values of the hypothesis that the mean is 0. All fields are ``[M]``."""

    values: Array
    lows: Array
    highs: Array
    p_values: Array


def bootstrap(
    tasks: Sequence[Array],
    lows: Array | float = -np.inf,
    highs: Array | float = np.inf,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimates:
    """The mean over tasks of the means over queries, for M statistics at once.

    Args:
        tasks: One ``[queries, M]`` array per task; at least two queries each.
        lows: Least value that each statistic can have; an interval ends there.
        highs: Greatest value that each can have.
        num_resamples: Times that the queries are drawn.
        seed: Of the draws.
    """
    assert all(len(values_QM) > 1 for values_QM in tasks), "a bootstrap needs two queries in each task"
    generator = np.random.default_rng(seed)
    draws = [_draw(generator, len(values_QM), num_resamples) for values_QM in tasks]
    means_M, errors_M = _mean_and_error(tasks, [np.ones((1, len(values_QM))) for values_QM in tasks])
    means_M, errors_M = np.clip(means_M[0], lows, highs), errors_M[0]  # a mean of equal values may be rounded beyond
    widths_M, p_values_M = np.empty_like(means_M), np.empty_like(means_M)
    for start in range(0, len(means_M), _COLUMNS_AT_A_TIME):
        part = slice(start, start + _COLUMNS_AT_A_TIME)
        widths_M[part], p_values_M[part] = _studentised(
            [values_QM[:, part] for values_QM in tasks], draws, means_M[part], errors_M[part]
        )
    return Estimates(means_M, np.maximum(means_M - widths_M, lows), np.minimum(means_M + widths_M, highs), p_values_M)


def _draw(generator: np.random.Generator, num_queries: int, num_resamples: int) -> Array:
    """How often each query is in each redrawn sample."""
    return generator.multinomial(num_queries, np.full(num_queries, 1 / num_queries), num_resamples).astype(np.float64)


def _mean_and_error(tasks: Sequence[Array], counts: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and standard error ``[R, M]`` of samples given as counts ``[R, queries]``, one array per task."""
    mean, variance = np.zeros(1), np.zeros(1)
    for values_QM, counts_RQ in zip(tasks, counts, strict=True):
        num_queries = len(values_QM)
        centre_M = values_QM.mean(0)  # squares of centred values: no cancellation
        deviations_QM = values_QM - centre_M
        deviations_QM[np.abs(deviations_QM) < 1e-9 * np.abs(values_QM).max(0)] = 0  # rounding, of values all alike
        offset_RM = counts_RQ @ deviations_QM / num_queries
        square_RM = counts_RQ @ deviations_QM**2 / num_queries - offset_RM**2
        square_RM[square_RM < 1e-12 * deviations_QM.var(0)] = 0  # rounding, of samples that are all alike
        mean = mean + (centre_M + offset_RM) / len(tasks)
        variance = variance + square_RM / (num_queries - 1) / len(tasks) ** 2
    return mean, np.sqrt(variance)


def _studentised(
    tasks: Sequence[Array], draws: Sequence[Array], means_M: Array, errors_M: Array
) -> tuple[Array, Array]:
    """Half the width of the interval, and the p-value."""
    means_RM, errors_RM = _mean_and_error(tasks, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_RM = np.where(errors_RM > 0, np.abs(means_RM - means_M) / errors_RM, np.inf)
        t_M = np.where(means_M == 0, 0, np.abs(means_M) / errors_M)
        num_draws = len(t_RM) + 1  # the sample itself is one
        rank = int(np.ceil(CONFIDENCE * num_draws)) - 1
        widths_M = np.where(errors_M > 0, np.partition(t_RM, rank, axis=0)[rank] * errors_M, 0)
    return widths_M, np.where((errors_M > 0) | (means_M == 0), ((t_RM >= t_M).sum(0) + 1) / num_draws, 1 / num_draws)
