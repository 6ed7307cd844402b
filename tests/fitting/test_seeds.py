"""Several seeds of one law: the short ways of their pooling lead where the long ones do."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling.fitting import api
from scaling.fitting.data import prepare
from scaling.fitting.posterior import Posterior, integrate
from scaling.fitting.prior import Prior
from scaling.fitting.seeds import _normal_between, pool_seeds
from scaling.laws import LAWS, Power


def seeds(count: int, *, base: bool = False, noise: float = 0.01) -> list[scaling.Curve]:
    compute, out = np.concatenate([[0.0] if base else [], np.geomspace(5.0, 1000.0, 40)]), []
    for i in range(count):
        rng = np.random.default_rng(i)
        law = scaling.Sigmoid(
            asymptote=0.6 + 0.01 * rng.normal(),
            efficiency_exponent=1.4 * np.exp(0.1 * rng.normal()),
            c_mid=100.0,
            r_0=0.2,
        )
        scores = law(compute) + rng.normal(0.0, noise, compute.size)
        out.append(scaling.Curve(compute=compute, performance=scores, run_id=f"s{i}"))
    return out


@pytest.mark.parametrize("name", ["sigmoid", "power"])
def test_weighed_candidates_pool_to_the_same_law_as_draws(name):
    law = LAWS[name]
    marginals = [integrate(law, s) for s in prepare(seeds(3)).positive]

    def quantiles(take: str, count: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        pooled = pool_seeds([getattr(m, take)(count, rng) for m in marginals], draws=3000, bounds=law.bounds, rng=rng)
        return np.array([np.quantile(v, [0.05, 0.25, 0.5, 0.75, 0.95]) for v in pooled.mean.values()])

    long, short = quantiles("draw", 4000), quantiles("candidates", 1200)
    spread = (long[:, 3] - long[:, 1])[:, None]
    assert (np.abs(short - long)[:, 1:4] < 0.25 * spread).all()
    width = (short[:, 4] - short[:, 0]) / (long[:, 4] - long[:, 0])
    assert ((width > 0.8) & (width < 1.25)).all()


def test_candidates_weigh_to_the_mean_of_draws():
    marginal = integrate(LAWS["sigmoid"], prepare(seeds(1)).positive[0])
    weighed, drawn = (
        marginal.candidates(20_000, np.random.default_rng(1)),
        marginal.draw(20_000, np.random.default_rng(2)),
    )
    weight = np.exp(weighed.log_weight - weighed.log_weight.max())
    for key, values in drawn.parameters.items():
        mean = np.average(weighed.parameters[key], weights=weight)
        assert abs(mean - values.mean()) < 0.05 * values.std(), key


def test_cells_of_a_like_series_do_and_of_an_unlike_one_are_found_anew():
    data = prepare(seeds(1, base=True))
    with_base, without = data.series[0], data.positive[0]
    assert with_base.x.size == without.x.size + 1
    law = LAWS["sigmoid"]
    prior = Prior(drift=0.0)  # as of several seeds
    near, alone = integrate(law, without, prior=prior), integrate(law, with_base, prior=prior)
    short = integrate(law, with_base, prior=prior, near=near)
    assert short._frame is near._frame
    assert short.log_evidence == pytest.approx(alone.log_evidence, abs=0.05)
    other = prepare(seeds(1, base=True, noise=0.001)).series[0]  # ten times as precise: in such cells it would be lost
    assert integrate(law, other, prior=prior, near=near)._frame is not near._frame


def test_a_law_out_of_the_running_counts_as_little_as_if_it_were_followed(monkeypatch):
    curves = seeds(12)
    short = scaling.fit(curves, draws=200)
    monkeypatch.setattr(api, "_FOLLOWED", 99)
    long = scaling.fit(curves, draws=200)
    assert min(short.weights.values()) == 0.0 < min(long.weights.values()) < 1e-17
    assert list(short.weights) == list(long.weights)
    for name, weight in long.weights.items():
        assert short.weights[name] == pytest.approx(weight, abs=1e-12)
    assert (short.draws == long.draws).all() or np.array_equal(short.draws["asymptote"], long.draws["asymptote"])


def test_a_law_that_is_close_is_followed_to_the_last_seed():
    curves = seeds(8, noise=0.05)
    fit = scaling.fit(curves, draws=100)
    assert fit.weights["weibull"] > 0.0


def test_confined_normals_have_the_moments_of_a_truncated_normal():
    rng = np.random.default_rng(0)
    low, high = np.array([[0.5], [-np.inf]]), np.array([[1.0], [-1.0]])
    values = _normal_between(np.zeros((2, 40_000)), np.ones((2, 40_000)), low, high, rng)
    assert (values >= low).all() and (values <= high).all()
    from scipy.stats import truncnorm

    for row, a, b in ((0, 0.5, 1.0), (1, -np.inf, -1.0)):
        assert values[row].mean() == pytest.approx(truncnorm.mean(a, b), abs=0.01)
        assert values[row].std() == pytest.approx(truncnorm.std(a, b), abs=0.01)


def test_the_mean_law_keeps_to_the_bounds_of_a_positive_parameter_too():
    curves = [c.before(120.0) for c in seeds(2, noise=0.03)]
    fit = scaling.fit(curves, law="sigmoid", draws=300, bounds={"efficiency_exponent": (1.0, 2.0)})
    assert fit.new_seed is not None
    for draws in (fit.draws, fit.new_seed):
        inside = draws["efficiency_exponent"][draws["law"] == "sigmoid"]
        assert inside.size and inside.min() >= 1.0 - 1e-9 and inside.max() <= 2.0 + 1e-9


def test_a_law_without_gain_in_every_seed_has_finite_draws():
    rng = np.random.default_rng(0)
    nothing = {"asymptote": rng.normal(0.4, 0.01, 200), "efficiency_exponent": np.ones(200), "scale": np.zeros(200)}
    zero = np.zeros(200)
    flat = [Posterior(Power, nothing, zero, np.ones(200), zero, zero, zero, 1.0) for _ in range(2)]
    pooled = pool_seeds(flat, draws=50, bounds=Power.bounds, rng=rng)
    for parameters in (pooled.mean, pooled.new_seed):
        assert all(np.isfinite(values).all() for values in parameters.values())
