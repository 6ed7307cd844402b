from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling import Curve, Sigmoid
from scaling.fitting.data import prepare
from scaling.fitting.posterior import integrate
from scaling.fitting.prior import Prior
from scaling.fitting.profile import profile_interval

from .simulate import LAW, ar1, curve


def test_posterior_bootstrap_and_profile_agree_where_all_are_valid():
    c = curve(ratio=10.0, n=60, seed=1)
    fit = scaling.fit(c, law="sigmoid", draws=2000)
    boot = scaling.fit(c, law="sigmoid", draws=1000, method="bootstrap")
    assert boot.certificate.converged.all()
    ends = np.array([fit.interval("asymptote"), boot.interval("asymptote"), fit.profile()])
    width = np.diff(ends, axis=1).mean()
    assert np.abs(ends - ends.mean(0)).max() < 0.2 * width
    at = 4 * c.compute[-1]
    band = fit.forecast([at])
    np.testing.assert_allclose([band.low[0], band.high[0]], fit.profile(at=at), atol=0.2 * width)


def test_draws_have_the_law_of_the_brute_force_posterior():
    """Flat prior, rho known: the posterior on a dense grid of all four parameters, summed by hand."""
    c = curve(ratio=6.0, n=30, sd=0.01, seed=2)
    series = prepare(c).series[0]
    got = (
        integrate(Sigmoid, series, prior=Prior(volume=0.0, rhos=(0.0,))).draw(6000, np.random.default_rng(0)).parameters
    )
    b = np.linspace(np.log(0.3), np.log(8), 60)
    z = np.linspace(-3, 6, 90)
    a = np.linspace(0.5, 0.8, 140)
    s = 1 / (1 + np.exp(-(np.exp(b)[:, None, None] * series.x + z[None, :, None])))
    # r_0 and sigma by closed form at each (b, z, a), bounds of r_0 being far
    left = 1 - s
    q = (left**2).sum(-1)[..., None]
    t = series.y - a[:, None] * s[:, :, None, :]
    h = (left[:, :, None, :] * t).sum(-1)
    rss = (t**2).sum(-1) - h * h / q
    log_p = -0.5 * np.log(q) - 0.5 * (c.compute.size - 1) * np.log(rss)
    p = np.exp(log_p - log_p.max())
    density = p.sum((0, 1))
    cumulative = (np.cumsum(density) - density / 2) / density.sum()
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        exact = np.interp(level, cumulative, a)
        assert abs(np.mean(got["asymptote"] <= exact) - level) < 0.025


@pytest.mark.parametrize("law", ["sigmoid", "ensemble"])
def test_scaling_all_compute_scales_c_mid_and_nothing_else(law):
    c = curve(seed=3)
    one, far = scaling.fit(c, law=law, draws=300), scaling.fit(c.scaled(3.7e20), law=law, draws=300)
    for name in ("asymptote", "efficiency_exponent", "r_0"):
        np.testing.assert_allclose(far.interval(name), one.interval(name), rtol=1e-6)
    np.testing.assert_allclose(np.array(far.interval("c_mid")) / 3.7e20, one.interval("c_mid"), rtol=1e-6)
    assert far.status == one.status
    assert far.law.c_mid / 3.7e20 == pytest.approx(one.law.c_mid, rel=1e-6)


def test_the_order_of_points_and_of_runs_does_not_matter():
    runs = [curve(seed=s, run_id=str(s)) for s in range(3)]
    shuffle = np.random.default_rng(0).permutation(len(runs[0]))
    mixed = [Curve(compute=r.compute[shuffle], performance=r.performance[shuffle], run_id=r.run_id) for r in runs]
    one = scaling.fit(runs, law="sigmoid", draws=200)
    two = scaling.fit(mixed[::-1], law="sigmoid", draws=200)
    assert np.array_equal(one.draws["asymptote"], two.draws["asymptote"], equal_nan=True)


def test_a_seed_makes_the_draws_and_another_seed_others():
    c = curve()
    a, b, other = (scaling.fit(c, draws=100, seed=s).draws for s in (5, 5, 6))
    assert np.array_equal(a["asymptote"], b["asymptote"], equal_nan=True)
    assert not np.array_equal(a["asymptote"], other["asymptote"], equal_nan=True)


def test_autocorrelation_is_found_and_widens_the_interval():
    width = {}
    for rho in (0.0, 0.8):
        fits = [scaling.fit(curve(ratio=10.0, n=100, rho=rho, seed=s), law="sigmoid", draws=300) for s in range(6)]
        assert abs(np.mean([np.median(f.draws["rho"]) for f in fits]) - rho) < 0.15
        width[rho] = np.median([np.diff(f.interval("asymptote"))[0] for f in fits])
    assert width[0.8] > 1.8 * width[0.0]


def test_standard_errors_weigh_the_points():
    rng = np.random.default_rng(0)
    compute = np.linspace(200, 8000, 40)
    se = np.where(np.arange(40) % 2, 0.03, 0.002)
    c = Curve(compute=compute, performance=LAW(compute) + rng.normal(0, se), stderr=se)
    known = scaling.fit(c, law="sigmoid", draws=400)
    blind = scaling.fit(Curve(compute=c.compute, performance=c.performance), law="sigmoid", draws=400)
    assert np.diff(known.interval("asymptote")) < 0.5 * np.diff(blind.interval("asymptote"))
    low, high = known.interval("asymptote")
    assert low < LAW.asymptote < high


def test_r_0_can_be_known_exactly_or_with_an_error():
    c = curve(ratio=8.0, n=40, seed=1).after(700.0)
    free = scaling.fit(c, law="sigmoid", draws=400)
    soft = scaling.fit(c, law="sigmoid", draws=400, r_0=0.25, r_0_stderr=0.01)
    exact = scaling.fit(c, law="sigmoid", draws=400, r_0=0.25)
    widths = [np.diff(f.interval("efficiency_exponent"))[0] for f in (exact, soft, free)]
    assert widths[0] < widths[1] < widths[2]
    assert exact.interval("r_0") == (0.25, 0.25)
    low, high = soft.interval("r_0")
    assert 0.2 < low < high < 0.3


def test_huber_ignores_outliers():
    c = curve(seed=4)
    y = c.performance.copy()
    y[[10, 25, 33]] -= 0.12
    bad = Curve(compute=c.compute, performance=y)
    clean, robust, plain = (
        scaling.fit(a, law="sigmoid", draws=300, loss=k) for a, k in ((c, "squared"), (bad, "huber"), (bad, "squared"))
    )
    assert abs(np.nanmedian(robust.draws["asymptote"]) - np.nanmedian(clean.draws["asymptote"])) < 0.005
    assert np.diff(robust.interval("asymptote")) < 0.3 * np.diff(plain.interval("asymptote"))


def test_profile_interval_covers_with_known_autocorrelation():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        compute = np.linspace(200, 8000, 40)
        c = Curve(compute=compute, performance=LAW(compute) + ar1(rng, 40, 0.6, 0.006))
        low, high = profile_interval(Sigmoid, prepare(c).series[0], rho=0.6)
        hits += low <= LAW.asymptote <= high
    assert hits >= 31  # .90 of 40, four standard errors
