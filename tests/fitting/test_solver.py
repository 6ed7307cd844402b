from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares

from scaling.fitting.solver import solve
from scaling.laws import LogLinear, Power, Sigmoid

from .simulate import LAW, curve

REGIMES = [(LAW, 8.0, 0.006), (Sigmoid(asymptote=0.61, efficiency_exponent=1.0, c_mid=1000.0, r_0=0.2), 2.0, 0.01),
           (Sigmoid(asymptote=0.61, efficiency_exponent=0.7, c_mid=1000.0, r_0=0.2), 20.0, 0.006)]  # fmt: skip
LOW, HIGH = [0.0, 0.0, np.log(0.05), -8.0], [1.0, 1.0, np.log(10.0), 8.0]


def _xy(law, ratio, sd, seed=0, n=60):
    c = curve(law, ratio=ratio, sd=sd, seed=seed, n=n)
    return np.log(c.compute) - np.log(c.compute).mean(), c.performance


def _weights(rng, n, count):
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)]).astype(float)


def _residual(p, x, y, w):
    s = 1 / (1 + np.exp(-np.clip(np.exp(p[2]) * x + p[3], -500, 500)))
    return np.sqrt(w) * (p[1] + (p[0] - p[1]) * s - y)


@pytest.mark.parametrize("regime", range(3))
@pytest.mark.parametrize("delta", [None, 0.004])
def test_every_resample_reaches_the_best_of_twelve_bounded_scipy_starts(regime, delta):
    law, ratio, sd = REGIMES[regime]
    x, y = _xy(law, ratio, sd)
    rng = np.random.default_rng(1)
    w = _weights(rng, x.size, 200)
    got = solve(Sigmoid, x, y, weights=w, delta=delta)
    assert got.converged.mean() > 0.99
    for i in range(6):
        best = np.inf
        for _ in range(12):
            start = [rng.uniform(0.3, 0.95), rng.uniform(0.02, 0.3), rng.uniform(-1, 1.5), rng.uniform(-3, 3)]
            if delta is None:
                found = least_squares(
                    _residual, start, args=(x, y, w[i]), bounds=(LOW, HIGH), xtol=1e-13, ftol=1e-13, gtol=1e-13
                )
                best = min(best, 2 * found.cost)
            else:  # scipy's Huber knows no weights: repeat the points
                rep = np.repeat(np.arange(x.size), w[i].astype(int))
                found = least_squares(
                    _residual, start, args=(x[rep], y[rep], np.ones(rep.size)), bounds=(LOW, HIGH), loss="huber", f_scale=delta,
                    xtol=1e-12, ftol=1e-12, gtol=1e-12,
                )  # fmt: skip
                best = min(best, 2 * found.cost)
        assert got.objective[i] <= best * (1 + 1e-9)


def test_rows_of_scores_and_rows_of_weights_are_the_same_problem():
    x, y = _xy(*REGIMES[0])
    rows = y + np.random.default_rng(0).normal(0, 0.006, (40, y.size))
    together = solve(Sigmoid, x, rows)
    alone = np.array([solve(Sigmoid, x, row).objective[0] for row in rows])
    np.testing.assert_allclose(together.objective, alone, rtol=1e-9)


def test_bounds_and_known_coefficients_hold_and_are_certified():
    law = Sigmoid(asymptote=0.95, efficiency_exponent=0.8, c_mid=3000.0, r_0=0.2)
    x, y = _xy(law, 3.0, 0.01)
    got = solve(Sigmoid, x, y, bounds={"asymptote": (0.0, 0.5)})
    assert got.coefficients[0, 0] == 0.5 and got.at_bound[0, 0]
    fixed = solve(Sigmoid, x, y, fixed={"r_0": 0.2})
    assert fixed.coefficients[0, 1] == 0.2 and not fixed.at_bound[0, 1]
    assert got.objective[0] >= solve(Sigmoid, x, y).objective[0] * (1 - 1e-9)


@pytest.mark.parametrize(
    "law", [Power(asymptote=0.6, efficiency_exponent=0.8, scale=40.0), LogLinear(log_error=0.1, exponent=0.1)]
)
def test_other_laws_are_recovered_without_noise(law):
    compute = np.geomspace(100, 10000, 30)
    ref = np.log(compute).mean()
    got = solve(type(law), np.log(compute) - ref, law(compute))
    found = law.rescale(law.decode(got.u, got.coefficients), ref)
    for name, value in law.parameters.items():
        assert found[name][0] == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_the_literal_scalerl_procedure_agrees_to_one_grid_step():
    """arXiv:2510.13786 App. A.5: 71 values of A x 100 linear values of C_mid, curve_fit for B, R_0 given; at its Table 1."""
    law = Sigmoid(asymptote=0.61, efficiency_exponent=1.92, c_mid=2542.0, r_0=0.25)
    rng = np.random.default_rng(3)
    compute = np.linspace(500, 20000, 40)
    y = law(compute) + rng.normal(0, 0.004, 40)
    grid_a, grid_m = np.arange(0.450, 0.8001, 0.005), np.linspace(100, 40000, 100)

    def procedure(a, m):
        def shape(x, b):
            return law.r_0 + (a - law.r_0) / (1 + (m / x) ** b)

        try:
            b, _ = curve_fit(shape, compute, y)
        except RuntimeError:
            return np.inf
        return float(((shape(compute, b[0]) - y) ** 2).sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sse, a, m = min((procedure(a, m), a, m) for a in grid_a for m in grid_m)
    ref = np.log(compute).mean()
    ours = solve(Sigmoid, np.log(compute) - ref, y, fixed={"r_0": law.r_0})
    found = Sigmoid.rescale(Sigmoid.decode(ours.u, ours.coefficients), ref)
    assert ours.objective[0] <= sse
    assert abs(found["asymptote"][0] - a) <= 0.005
    assert abs(found["c_mid"][0] - m) <= grid_m[1] - grid_m[0]
