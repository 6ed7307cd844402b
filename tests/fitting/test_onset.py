"""Windows that end before C_mid: nothing is known of A there, and no band may say otherwise."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling import Curve, Sigmoid
from scaling.fitting import ensemble
from scaling.fitting.ensemble import ONSET, member
from scaling.fitting.marginal import Series
from scaling.fitting.posterior import integrate

from .simulate import ar1, curve

LAW = Sigmoid(asymptote=0.61, efficiency_exponent=2.0, c_mid=1000.0, r_0=0.25)


def early(seed: int, *, n: int = 16, noise: float = 0.015) -> Curve:
    """A window that ends at half of C_mid."""
    compute = np.linspace(500.0 / n, 500.0, n)
    return Curve(compute=compute, performance=LAW(compute) + ar1(np.random.default_rng([seed, 5]), n, 0.0, noise))


@pytest.mark.parametrize("law", ["ensemble", "sigmoid"])
def test_a_window_that_ends_before_the_middle_gives_a_wide_band_and_not_a_low_one(law, monkeypatch):
    def hits() -> tuple[int, int]:
        asymptote = forecast = 0
        for seed in range(25):
            fit = scaling.fit(early(seed), law=law, draws=200, seed=seed)
            assert not fit.identified
            low, high = fit.interval("asymptote")
            asymptote += low <= 0.61 <= high
            band = fit.forecast([2000.0])
            forecast += bool(band.low[0] <= LAW(2000.0) <= band.high[0])
        return asymptote, forecast

    asymptote, forecast = hits()
    assert asymptote >= 22 and forecast >= 19
    for odds in (ensemble.ODDS, ensemble.LIMIT_ODDS):
        monkeypatch.setitem(odds, ONSET, 1e-12)
    asymptote, forecast = hits()
    assert asymptote <= 12 and forecast <= 12  # without it


def test_the_onset_counts_as_the_sigmoid_and_vanishes_once_the_middle_is_seen():
    fit = scaling.fit(early(1), draws=300)
    assert ONSET not in fit.weights and sum(fit.weights.values()) == pytest.approx(1.0)
    assert set(np.unique(fit.draws["law"])) <= set(fit.weights)
    late = curve(ratio=8.0, seed=3)
    middle = scaling.fit(late, draws=300)
    drawn = middle.draws[middle.draws["law"] == "sigmoid"]
    assert drawn.size and drawn["c_mid"].max() < late.compute[-1]


def test_draws_of_the_onset_lie_beyond_the_window_with_a_flat_asymptote():
    c = early(2, n=40, noise=0.004)
    x = np.log(c.compute)
    series = Series(x - x.mean(), c.performance, np.ones(40), float(x.mean()))
    law, prior = member(ONSET)
    got = law.rescale(integrate(law, series, prior=prior).draw(2000, np.random.default_rng(0)).parameters, series.x_ref)
    assert got["c_mid"].min() >= c.compute[-1] * (1 - 1e-9)
    a = np.sort(got["asymptote"])
    reach = float(c.performance[-5:].mean() - LAW.r_0)
    assert a[0] > LAW.r_0 + reach and a[-1] > 0.98  # more than half of the gain is still to come
    # flat where the data do not mind: a fifth of the range holds about a fifth of the draws
    inside = np.mean((a > 0.6) & (a < 0.68)) / np.mean((a > 0.6) & (a <= 1.0))
    assert 0.12 < inside < 0.3


def test_a_reward_without_bounds_has_an_onset_too():
    c = early(3, n=40, noise=0.004)
    wide = Curve(compute=c.compute, performance=10 * c.performance - 2, metric="reward")
    low, high = scaling.fit(wide, draws=300).interval("asymptote")
    span = float(np.ptp(wide.performance))
    assert high > wide.performance.max() + 2 * span  # up to where an asymptote is not told from none: three ranges
