"""Bootstrap intervals cover a known truth; the paired test is wrong as often as it says."""

from collections.abc import Callable

import numpy as np
import pytest

from ifir_lightning.bootstrap import bootstrap

CASES = 500
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def average_precision(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A strong ranker's: three queries in five perfect, the others anywhere. Mean 0.8."""
    return np.where(generator.random(shape) < 0.6, 1, generator.random(shape))


def weak_precision(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A weak ranker's: skewed towards 0. Mean 0.25."""
    return generator.beta(0.5, 1.5, shape)


def p_mrr(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Three kinds of query: instruction without effect, followed, taken the wrong way. Mean 0.2."""
    kind = generator.random(shape)
    return np.where(kind < 0.3, 0, np.where(kind < 0.8, generator.beta(3, 2, shape), -generator.beta(2, 2, shape)))


def seldom(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Zero for 17 queries in 20. Mean 0.075."""
    return np.where(generator.random(shape) < 0.85, 0, generator.random(shape))


TRUTH: dict[Draw, float] = {average_precision: 0.8, weak_precision: 0.25, p_mrr: 0.2, seldom: 0.075}


@pytest.mark.parametrize("sizes", [(20,), (52,), (20, 20, 20), (20, 32, 52)])
@pytest.mark.parametrize("draw", TRUTH)
def test_intervals_cover_a_known_truth(draw: Draw, sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    tasks = [draw(generator, (size, CASES)) for size in sizes]
    found = bootstrap(tasks, 0, 1, num_resamples=1000)
    covered = (found.lows <= TRUTH[draw]) & (found.highs >= TRUTH[draw])
    assert covered.mean() >= 0.93
    if sizes == (20, 32, 52):
        assert covered.mean() <= 0.98  # not by being endless


@pytest.mark.parametrize("sizes", [(52,), (20, 20, 20), (20, 32, 52)])
@pytest.mark.parametrize("draw", [average_precision, weak_precision, p_mrr])
def test_two_equal_systems_differ_in_one_case_of_twenty(draw: Draw, sizes: tuple[int, ...]) -> None:
    """Each query has a difficulty of its own that both systems share: the test is paired."""
    generator = np.random.default_rng(2)
    tasks = []
    for size in sizes:
        difficulty = generator.normal(0, 1, (size, 4 * CASES))
        first, second = (draw(generator, (size, 4 * CASES)) + difficulty for _ in range(2))
        tasks.append(first - second)
    assert 0.03 <= (bootstrap(tasks, num_resamples=1000).p_values < 0.05).mean() <= 0.07


def test_a_difference_that_is_there_is_found() -> None:
    generator = np.random.default_rng(3)
    tasks = [p_mrr(generator, (20, CASES)) - p_mrr(generator, (20, CASES)) + 0.3 for _ in range(3)]
    assert (bootstrap(tasks, num_resamples=1000).p_values < 0.05).mean() > 0.75


def test_it_equals_a_slow_loop() -> None:
    generator = np.random.default_rng(4)
    tasks = [generator.normal(0.3, 1, (size, 1)) for size in (5, 8)]
    found = bootstrap(tasks, num_resamples=300, seed=7)

    def estimate(samples: list[list[float]]) -> tuple[float, float]:
        mean = sum(sum(sample) / len(sample) for sample in samples) / 2
        variance = sum(np.var(sample) / (len(sample) - 1) for sample in samples) / 4
        return mean, variance**0.5

    draws = np.random.default_rng(7)
    counts = [draws.multinomial(len(task), np.full(len(task), 1 / len(task)), 300) for task in tasks]
    mean, error = estimate([list(task[:, 0]) for task in tasks])
    ratios = []
    for one, two in zip(*counts, strict=True):
        redrawn = [list(np.repeat(task[:, 0], count)) for task, count in zip(tasks, (one, two), strict=True)]
        redrawn_mean, redrawn_error = estimate(redrawn)
        ratios.append(abs(redrawn_mean - mean) / redrawn_error)
    width = sorted(ratios)[285] * error  # the 286th of 300: 15 draws, and the sample itself, are 5%
    p_value = (1 + sum(ratio >= abs(mean) / error for ratio in ratios)) / 301
    assert found.values[0] == pytest.approx(mean)
    assert (found.lows[0], found.highs[0]) == pytest.approx((mean - width, mean + width))
    assert found.p_values[0] == pytest.approx(p_value)


def test_interval_and_p_value_agree() -> None:
    generator = np.random.default_rng(5)
    found = bootstrap([p_mrr(generator, (30, CASES)) - 0.1], num_resamples=1000)
    excludes = (found.lows > 0) | (found.highs < 0)
    assert 50 < excludes.sum() < CASES - 50
    assert np.array_equal(excludes, found.p_values < 0.05)


def test_statistics_share_the_draws_however_many_there_are() -> None:
    values = np.random.default_rng(6).normal(0, 1, (25, 130))
    together = bootstrap([values], num_resamples=200)
    for column in (0, 63, 64, 129):
        alone = bootstrap([values[:, [column]]], num_resamples=200)
        assert (alone.lows[0], alone.p_values[0]) == pytest.approx((together.lows[column], together.p_values[column]))


@pytest.mark.parametrize("num_tasks", [3, 6, 7, 9, 11])
def test_a_perfect_score_lies_in_its_interval(num_tasks: int) -> None:
    """100 / 6, six times, is more than 100 by rounding."""
    found = bootstrap([np.full((4, 1), 100.0)] * num_tasks, 0, 100)
    assert found.lows[0] <= found.values[0] <= found.highs[0] <= 100


def test_queries_that_agree() -> None:
    """All alike: no width. One apart: a third of the draws lack it, so nothing is known."""
    alike, none, one = np.full(20, 0.7), np.zeros(20), np.zeros(20)
    one[3] = 0.5
    found = bootstrap([np.stack([alike, none, one], 1)], -1, 1, num_resamples=2000)
    assert (found.lows[0], found.highs[0]) == pytest.approx((0.7, 0.7))
    assert found.p_values[0] < 0.001
    assert (found.values[1], found.lows[1], found.highs[1], found.p_values[1]) == (0, 0, 0, 1)
    assert (found.lows[2], found.highs[2]) == (-1, 1)
    assert found.p_values[2] > 0.3


def test_differences_that_are_alike_but_for_rounding_have_no_width() -> None:
    values = 100 * np.random.default_rng(0).random((20, 64))
    found = bootstrap([(values + 2.7) - values], -200, 200, num_resamples=2000)
    assert found.lows.tolist() == found.highs.tolist() == pytest.approx([2.7] * 64)
    assert found.p_values.max() < 0.001
