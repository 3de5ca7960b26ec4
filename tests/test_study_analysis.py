"""The numbers of studies: literals worked by hand, and enumeration."""

import itertools
import math

import numpy as np
import pytest

from ifir_lightning.studies import analysis


def test_the_interval_of_three_seeds_is_students() -> None:
    """Mean 2, standard deviation 1, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3)."""
    found = analysis.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - found.low == pytest.approx(found.high - 2)


def test_an_interval_ends_where_the_scale_does() -> None:
    """Mean 90, standard deviation 10: 90 +- 24.8; and a mean that rounding has taken over the end keeps its place."""
    assert analysis.interval([80.0, 90.0, 100.0]).high == pytest.approx(90 + 10 * 4.302653 / math.sqrt(3), rel=1e-6)
    found = analysis.interval([80.0, 90.0, 100.0], (0.0, 100.0))
    assert (found.mean, found.low, found.high) == (90.0, pytest.approx(65.15862), 100.0)
    over = math.nextafter(100.0, 101.0)
    assert analysis.interval([over, over], (0.0, 100.0)) == analysis.Interval(over, over, over, 2)


def test_one_seed_has_no_interval() -> None:
    assert analysis.interval([5.0]) == analysis.Interval(5.0, None, None, 1)


def test_best_of_k_is_the_mean_over_all_draws() -> None:
    values = [3.0, -1.0, 7.0, 2.0, 2.0]
    for k, expected in enumerate(analysis.best_of(values), start=1):
        draws = [max(draw) for draw in itertools.combinations(values, k)]
        assert expected == pytest.approx(sum(draws) / len(draws))


def test_the_band_of_best_of_k_holds_the_curve_and_collapses_for_equal_values() -> None:
    values = np.random.default_rng(0).normal(size=12).tolist()
    low, high = analysis.best_of_band(values, draws=200)
    assert (low <= analysis.best_of(values)).all()
    assert (high >= analysis.best_of(values)).all()
    low, high = analysis.best_of_band([4.0, 4.0, 4.0], draws=20)
    assert low.tolist() == high.tolist() == [4.0, 4.0, 4.0]


def test_the_band_is_the_95_percent_of_samples_drawn_from_the_configurations() -> None:
    """A slow loop over samples of our own; of two configurations a quarter are 0 and 0, a quarter 1 and 1."""
    values = [0.0, 1.0, 4.0, 9.0, 16.0]
    generator = np.random.default_rng(1)
    means = sorted(sum(generator.choice(values, 5)) / 5 for _ in range(4000))
    low, high = analysis.best_of_band(values, draws=4000)
    assert (low[0], high[0]) == pytest.approx((means[100], means[3899]), abs=0.4)
    low, high = analysis.best_of_band([0.0, 1.0], draws=200)
    assert (low.tolist(), high.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_the_middle_leaves_a_fortieth_out_at_each_end() -> None:
    assert analysis.middle(range(1001)) == (25.0, 975.0)


def test_share_near_the_best() -> None:
    assert analysis.share_near_best([10.0, 9.5, 9.0, 8.9]) == 0.75


def test_importance_of_a_rise_a_group_and_nothing() -> None:
    assert analysis.importance([1, 2, 3, 4], [0.0, 1.0, 5.0, 6.0]) == pytest.approx(1.0)
    assert analysis.importance(["a", "a", "b", "b"], [1.0, 3.0, 5.0, 7.0]) == pytest.approx(16 / 20)
    assert analysis.importance([False, False, True, True], [1.0, 3.0, 5.0, 20.0]) == pytest.approx(
        analysis.importance(["off", "off", "on", "on"], [1.0, 3.0, 5.0, 20.0])
    )
    assert analysis.importance([1, 1, 1], [0.0, 1.0, 2.0]) == 0.0
    assert analysis.importance([1, 2, 3], [4.0, 4.0, 4.0]) == 0.0


def test_a_power_law_is_found_again_and_inverted() -> None:
    law = analysis.PowerLaw(50.0, 400.0, float(analysis.RATES[100]))
    sizes = [100, 300, 1000, 3000, 10000]
    found = analysis.fit_power_law(sizes, np.asarray(law(np.array(sizes))).tolist())
    assert found.rate == pytest.approx(law.rate)
    assert found.limit == pytest.approx(50.0)
    assert found.gap == pytest.approx(400.0)
    assert found.size_for(float(law(700.0))) == pytest.approx(700.0)
    assert found.size_for(50.0) == math.inf
    assert analysis.PowerLaw(50.0, 100.0, 0.02).size_for(50.0 - 1e-8) == math.inf  # 1e500


@pytest.mark.parametrize("sizes", [(100, 400, 1600), (1600, 3200, 6400), (0.1, 0.3, 1.0)])
def test_a_flat_curve_reaches_its_height_nowhere(sizes: tuple[float, ...]) -> None:
    """Rounding makes its gap a little more or less than 0."""
    for value in (12.7, 33.3, 40.0, 50.0, 99.9):
        assert analysis.fit_power_law(sizes, [value] * 3, (0.0, 100.0)).size_for(value) == math.inf


def test_a_curve_that_has_not_bent_is_not_taken_to_rise_beyond_what_its_metric_can_be() -> None:
    """Three points on a straight line over log n: least squares wants ever smaller rates and ever higher limits."""
    sizes, values = [0.1, 0.3, 0.9], [10.0, 30.0, 50.0]
    assert analysis.fit_power_law(sizes, values).limit > 500
    held = analysis.fit_power_law(sizes, values, (-100.0, 100.0))
    assert held.limit == 100.0
    error = np.abs(np.asarray(held(np.array(sizes))) - values).max()
    assert error < 5.0
    for rate in analysis.RATES:  # a slow loop: no other rate and gap of that limit is closer
        for gap in np.linspace(0.9 * held.gap, 1.1 * held.gap, 21):
            other = np.asarray(analysis.PowerLaw(100.0, gap, rate)(np.array(sizes)))
            assert ((other - values) ** 2).sum() >= ((np.asarray(held(np.array(sizes))) - values) ** 2).sum() - 1e-9
    assert held.size_for(40.0) == pytest.approx((held.gap / 60.0) ** (1 / held.rate))


def test_the_interval_of_a_size_holds_the_true_one() -> None:
    law, sizes = analysis.PowerLaw(60.0, 300.0, 0.5), [100, 300, 1000, 3000]
    noise = np.random.default_rng(1).normal(scale=0.3, size=(4, 3))
    values = np.asarray(law(np.array(sizes)))[:, None] + noise
    laws = analysis.power_laws_over_seeds(sizes, values, draws=100)
    low, high = analysis.middle([each.size_for(45.0) for each in laws])
    assert low <= law.size_for(45.0) <= high
    assert high < 2 * low


def test_laws_over_seeds_are_fits_of_means_of_drawn_seeds() -> None:
    """With equal seeds every draw is the same table."""
    sizes, means = [1.0, 3.0, 10.0, 30.0], [-5.0, 8.0, 20.0, 24.0]
    laws = analysis.power_laws_over_seeds(sizes, np.array([means, means]).T, draws=5)
    expected = analysis.fit_power_law(sizes, means)
    assert [law.limit for law in laws] == pytest.approx([expected.limit] * 5)
    assert {law.rate for law in laws} == {expected.rate}
    assert analysis.middle([1.0, math.inf, 2.0]) == (1.0, math.inf)
