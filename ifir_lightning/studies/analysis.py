"""Results of trials -> answers: pure functions of numbers.

Seeds are the repetitions: an interval over seeds says how far the mean would move if other seeds had been drawn, for
these tasks and queries. It says nothing about other tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import stats

from ifir_lightning.studies.plan import distinct, is_number


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95% interval; no ends where one value gives none."""

    mean: float
    low: float | None
    high: float | None
    count: int


def interval(values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Student's t interval of a mean over seeds, cut off at the ends of what the mean can be, ``within``.

    Of few seeds it reaches far, and knows nothing of a scale; no mean is lost by the cut.
    """
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, None, None, len(sample))
    half = float(stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    low, high = max(mean - half, within[0]), min(mean + half, within[1])
    return Interval(mean, min(low, mean), max(high, mean), len(sample))  # rounding may take a mean over an end


def best_of(values: Sequence[float]) -> np.ndarray:
    """expected_K[k - 1]: the best of k configurations drawn without replacement, expected over all draws.

    With values sorted, v_1 <= ... <= v_n: E_k = sum over i of v_i C(i - 1, k - 1) / C(n, k).
    Source: Dodge et al., Show Your Work, EMNLP 2019, section 3, there with replacement.
    """
    rising, n = sorted(values), len(values)
    return np.array([sum(v * comb(i, k - 1) for i, v in enumerate(rising)) / comb(n, k) for k in range(1, n + 1)])


def best_of_band(values: Sequence[float], draws: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95% percentile bootstrap interval of ``best_of``, over configurations."""
    rows = np.random.Generator(np.random.Philox(0)).integers(len(values), size=(draws, len(values)))
    curves = np.array([best_of(np.asarray(values)[row].tolist()) for row in rows])
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    return low, high


def share_near_best(values: Sequence[float], margin: float = 1.0) -> float:
    """Share of configurations at most ``margin`` points below the best: the larger, the less sensitive."""
    sample = np.asarray(values)
    return float((sample >= sample.max() - margin).mean())


def importance(places: Sequence[object], outcomes: Sequence[float]) -> float:
    """Share of the variance of outcomes that an axis alone accounts for, in [0, 1].

    Numbers: the squared rank correlation (Spearman), which sees rises and falls; anything else: the correlation ratio
    (between-group over total sum of squares). Neither sees what axes do together, and with few points both are noisy.
    """
    sample = np.asarray(outcomes, dtype=float)
    if len(distinct(places)) < 2 or np.ptp(sample) == 0:
        return 0.0
    if all(map(is_number, places)):
        return float(stats.spearmanr(places, sample).statistic ** 2)
    groups = [sample[[place == each for place in places]] for each in distinct(places)]
    between = sum(len(group) * (group.mean() - sample.mean()) ** 2 for group in groups)
    return float(between / ((sample - sample.mean()) ** 2).sum())


@dataclass(frozen=True)
class PowerLaw:
    """y = limit - gap * n ** -rate."""

    limit: float
    gap: float
    rate: float

    def __call__(self, size: np.ndarray | float) -> np.ndarray | float:
        return self.limit - self.gap * np.asarray(size, dtype=float) ** -self.rate

    def size_for(self, value: float) -> float:
        """The n at which y reaches ``value``; infinite where it never does."""
        left = self.limit - value
        if self.gap <= 0 or left < 1e-9:  # a curve that is flat but for rounding
            return float("inf")
        exponent = math.log(self.gap / left) / self.rate
        return math.exp(exponent) if exponent < 700 else float("inf")  # beyond what a float holds


RATES = np.geomspace(0.02, 4.0, 200)


def fit_power_law(
    sizes: Sequence[float], values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)
) -> PowerLaw:
    """Least squares: for each rate on a grid limit and gap are a straight line's, the best rate is taken.

    Args:
        sizes: three different ones or more, each above 0.
        within: what the limit may be: a metric's lowest and highest value, for a curve that has not bent yet would
            otherwise be taken to rise beyond them.

    Source of the form: Hestness et al., Deep Learning Scaling is Predictable, Empirically, 2017, section 3 (there for
    a falling error).
    """
    return _fit(sizes, np.asarray([values], dtype=float), within)[0]


def _fit(sizes: Sequence[float], values_DS: np.ndarray, within: tuple[float, float]) -> list[PowerLaw]:
    """``fit_power_law`` of D rows of values at once."""
    assert len(set(sizes)) >= 3, "three parameters want three sizes"
    assert min(sizes) > 0, "a power law has no value at 0"
    least_D = np.full(len(values_DS), np.inf)
    found_D3 = np.zeros((len(values_DS), 3))
    for rate in RATES:
        falling_S = np.asarray(sizes, dtype=float) ** -rate
        limit_D = values_DS @ np.linalg.pinv(np.stack([np.ones(len(sizes)), -falling_S], axis=1))[0]
        limit_D = np.clip(limit_D, *within)
        gap_D = (limit_D[:, None] - values_DS) @ falling_S / (falling_S @ falling_S)  # the best one for that limit
        error_D = ((limit_D[:, None] - gap_D[:, None] * falling_S - values_DS) ** 2).sum(axis=1)
        better_D = error_D < least_D - 1e-12
        least_D[better_D] = error_D[better_D]
        found_D3[better_D] = np.column_stack([limit_D, gap_D, np.full(len(limit_D), rate)])[better_D]
    return [PowerLaw(*row) for row in found_D3.tolist()]


def power_laws_over_seeds(
    sizes: Sequence[float],
    values_SR: np.ndarray,
    within: tuple[float, float] = (-math.inf, math.inf),
    draws: int = 500,
) -> list[PowerLaw]:
    """Power laws of bootstrap samples: in each, every size's mean is over R seeds drawn anew from its R."""
    generator = np.random.Generator(np.random.Philox(0))
    num_sizes, num_seeds = values_SR.shape
    seeds_DSR = generator.integers(num_seeds, size=(draws, num_sizes, num_seeds))
    means_DS = np.take_along_axis(np.broadcast_to(values_SR, seeds_DSR.shape), seeds_DSR, axis=2).mean(axis=2)
    return _fit(sizes, means_DS, within)


def middle(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95% percentile interval; one may be infinite."""
    low, high = np.percentile(values, (2.5, 97.5), method="nearest")
    return float(low), float(high)
