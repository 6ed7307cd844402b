"""`scaling.fit_loss`: published optima, global optima, intervals that cover, symmetries, and refusals."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

import scaling
from scaling.errors import ScalingError, UnknownName
from scaling.pretraining import LossFit, LossLaw

TRUE = LossLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


@pytest.fixture(scope="module")
def chinchilla(shared_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 240 points of the replication: 245 read off the figure less the five largest losses."""
    rows = []
    with (shared_data / "chinchilla" / "svg_extracted_data.csv").open() as file:
        for row in csv.DictReader(file):
            n, c, loss = (row[k] for k in ("Model Size", "Training FLOP", "loss"))
            if n and c and loss:
                rows.append((float(n), float(c) / (6 * float(n)), float(loss)))
    rows = sorted(rows, key=lambda r: r[2])[:-5]
    n, d, loss = np.array(rows).T
    assert n.size == 240
    return n, d, loss


@pytest.fixture(scope="module")
def chinchilla_fit(chinchilla: tuple[np.ndarray, np.ndarray, np.ndarray]) -> LossFit:
    return scaling.fit_loss(*chinchilla)


def simulate(points: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7.5, 10, points), 10 ** rng.uniform(9, 11.3, points)
    return n, d, TRUE(n, d) * np.exp(rng.normal(0, noise, points))


def huber(theta: np.ndarray, n: np.ndarray, d: np.ndarray, loss: np.ndarray, delta: float = 1e-3) -> float:
    """The published objective, written out plainly; theta = E, A, B, alpha, beta."""
    e, a, b, alpha, beta = theta
    r = np.abs(np.log(e + a * n**-alpha + b * d**-beta) - np.log(loss))
    return float(np.where(r <= delta, 0.5 * r**2, delta * (r - 0.5 * delta)).sum())


def test_the_huber_optimum_of_the_replication_is_reproduced_to_the_printed_digits(chinchilla_fit: LossFit) -> None:
    law = chinchilla_fit.law
    assert law.A == pytest.approx(477.826, abs=5e-4)
    assert law.B == pytest.approx(2143.417, abs=5e-4)
    assert law.E == pytest.approx(1.817218, abs=5e-7)
    assert law.alpha == pytest.approx(0.347311, abs=6e-7)  # 0.3473105
    assert law.beta == pytest.approx(0.367172, abs=6e-7)
    assert chinchilla_fit.objective == pytest.approx(1.0182740178e-3, rel=1e-10)
    assert chinchilla_fit.identified


def test_least_absolute_deviations_reproduces_the_published_estimate(
    chinchilla: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    # the replication's joint fit ended at a Huber threshold of 4.7e-9, where its printed digits are exact
    printed = scaling.fit_loss(*chinchilla, delta=4.7e-9, draws=20).law
    assert printed.A == pytest.approx(482.006, abs=5e-4)
    assert printed.B == pytest.approx(2085.434, abs=5e-4)
    assert printed.E == pytest.approx(1.81686, abs=5e-6)
    assert printed.alpha == pytest.approx(0.347813, abs=5e-7)
    assert printed.beta == pytest.approx(0.365854, abs=5e-7)
    fit = scaling.fit_loss(*chinchilla, delta=1e-9, draws=20)
    absolute = np.abs(np.log(fit.law(*chinchilla[:2])) - np.log(chinchilla[2])).sum()
    assert absolute <= 1.1294946585 * (1 + 1e-9)  # the replication's own sum


def test_bootstrap_intervals_are_those_of_the_replication(chinchilla_fit: LossFit) -> None:
    published = {
        "A": (285, 744),
        "B": (1042, 5810),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, (low, high) in published.items():
        got = chinchilla_fit.interval(name, 0.95)
        assert got[0] == pytest.approx(low, rel=0.08)
        assert got[1] == pytest.approx(high, rel=0.06)


def test_every_resample_ends_at_a_stationary_point_no_worse_than_scipy(
    chinchilla: tuple[np.ndarray, np.ndarray, np.ndarray], chinchilla_fit: LossFit
) -> None:
    n, d, loss = chinchilla
    fit = chinchilla_fit
    assert fit.draws.shape == (4000, 5)
    assert fit.counts.shape == (4000, 240)
    assert (fit.counts.sum(axis=1) == 240).all()
    assert fit.certificates["decrement"].max() < 1e-11
    log_n, log_d = np.log(n), np.log(d)
    start = np.array([np.log(fit.law.A), np.log(fit.law.B), np.log(fit.law.E), fit.law.alpha, fit.law.beta])
    for k in range(0, 4000, 200):
        row = np.repeat(np.arange(n.size), fit.counts[k])
        ln, ld, target = log_n[row], log_d[row], np.log(loss[row])

        def residual(t: np.ndarray, ln=ln, ld=ld, target=target) -> np.ndarray:
            return np.log(np.exp(t[0] - t[3] * ln) + np.exp(t[1] - t[4] * ld) + np.exp(t[2])) - target

        peer = least_squares(
            residual, start, loss="huber", f_scale=1e-3, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12
        )
        assert fit.objectives[k] <= peer.cost * (1 + 1e-9)
        assert huber(fit.draws[k], n[row], d[row], loss[row]) == pytest.approx(fit.objectives[k], rel=1e-9)


@pytest.mark.parametrize(("points", "noise"), [(16, 0.02), (30, 0.03)])
def test_small_noisy_designs_end_at_the_best_of_forty_starts(points: int, noise: float) -> None:
    above = total = 0
    for seed in range(2):
        n, d, loss = simulate(points, noise, seed)
        fit = scaling.fit_loss(n, d, loss, draws=150, seed=seed)
        assert fit.retried
        rng = np.random.default_rng(seed + 100)
        from scaling.pretraining._loss_solver import Design, polish

        design, y = Design(n, d, loss), np.log(loss)
        best = fit.objectives.copy()
        for _ in range(40):
            start = [*(y.mean() + rng.uniform(-4, 0, 2)), y.min() + rng.uniform(-1.5, 0), *rng.uniform(0.05, 1.2, 2)]
            other = polish(
                design,
                np.tile(start, (150, 1)),
                fit.counts.astype(float),
                np.arange(150),
                delta=1e-3,
                reweighted_steps=4,
            )
            best = np.minimum(best, other.objective)
        above += int(np.sum(fit.objectives > best * (1 + 1e-6)))
        total += 150
    assert above / total <= 0.015


def test_intervals_cover_the_truth_at_about_their_level() -> None:
    studies, hits = 80, {name: 0 for name in ("E", "alpha", "beta", "a")}
    truth = {"E": TRUE.E, "alpha": TRUE.alpha, "beta": TRUE.beta, "a": TRUE.beta / (TRUE.alpha + TRUE.beta)}
    for seed in range(studies):
        fit = scaling.fit_loss(*simulate(120, 0.005, seed), draws=100, seed=seed)
        for name in hits:
            low, high = fit.interval(name, 0.9)
            hits[name] += low <= truth[name] <= high
    shares = {name: count / studies for name, count in hits.items()}
    assert all(0.79 <= share <= 0.98 for share in shares.values()), shares


def test_compute_optimum_minimises_the_law_and_its_interval_covers(chinchilla_fit: LossFit) -> None:
    best = chinchilla_fit.optimal([1e21, 5.76e23])
    for c, n, d, loss in zip(best.flops, best.n_params, best.n_tokens, best.loss):
        assert 6 * n * d == pytest.approx(c)
        for factor in (0.9, 1.1):
            assert chinchilla_fit.law(n * factor, d / factor) > loss
    assert (best.n_params_low < best.n_params).all()
    assert (best.n_params < best.n_params_high).all()
    assert (best.loss_low < best.loss).all()
    assert (best.loss < best.loss_high).all()
    assert 15 < best.n_tokens[1] / best.n_params[1] < 25  # "20 tokens per parameter" at Chinchilla's budget
    forty = chinchilla_fit.law.optimal(1e21, flops_per_param_token=8.0)
    assert 8 * forty[0] * forty[1] == pytest.approx(1e21)


def test_order_of_points_does_not_matter_and_units_scale() -> None:
    n, d, loss = simulate(40, 0.01, 3)
    fit = scaling.fit_loss(n, d, loss, draws=60, seed=1)
    order = np.random.default_rng(0).permutation(40)
    shuffled = scaling.fit_loss(n[order], d[order], loss[order], draws=60, seed=1)
    np.testing.assert_allclose(shuffled.draws, fit.draws, rtol=1e-9)
    np.testing.assert_array_equal(shuffled.counts, fit.counts[:, order])
    scaled = scaling.fit_loss(n * 1e-6, d * 1e-6, loss * 2.0, draws=60, seed=1)
    assert scaled.law.alpha == pytest.approx(fit.law.alpha, rel=1e-6)
    assert scaled.law.E == pytest.approx(2 * fit.law.E, rel=1e-6)
    np.testing.assert_allclose(scaled.objectives, fit.objectives, rtol=1e-7)
    again = scaling.fit_loss(n, d, loss, draws=60, seed=1)
    np.testing.assert_array_equal(again.draws, fit.draws)


@settings(max_examples=15, deadline=None)
@given(
    e=st.floats(0.5, 3),
    a=st.floats(0.1, 0.8),
    b=st.floats(0.1, 0.8),
    alpha=st.floats(0.15, 0.8),
    beta=st.floats(0.15, 0.8),
)
def test_a_known_law_without_noise_is_recovered(e: float, a: float, b: float, alpha: float, beta: float) -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    law = LossLaw(E=e, A=a * 1e8**alpha, B=b * 1e10**beta, alpha=alpha, beta=beta)
    got = scaling.fit_loss(n, d, law(n, d), draws=1).law
    np.testing.assert_allclose(got(n, d), law(n, d), rtol=1e-6)
    assert got.alpha == pytest.approx(alpha, rel=1e-2)


def test_what_the_data_cannot_tell_is_a_named_status() -> None:
    n, d, loss = simulate(30, 0.01, 0)
    assert "3 are needed" in scaling.fit_loss(np.full(30, 1e9), d, loss, draws=20).status
    assert "beta and B" in scaling.fit_loss(n, np.full(30, 1e10), loss, draws=20).status
    assert "one line" in scaling.fit_loss(n, 20 * n, loss, draws=20).status
    flat = scaling.fit_loss(n, d, np.full(30, 2.0), draws=20)
    assert isinstance(repr(flat), str)
    weak = scaling.fit_loss(*simulate(16, 0.03, 2), draws=200)
    assert weak.interval("E")[0] >= 0
    assert weak.identified == (weak.status == "ok")
    assert not scaling.fit_loss(n, d, 30 * n**-0.1 + 20 * d**-0.1, draws=100).identified


BAD = {
    "nan": ("loss", np.nan),
    "zero size": ("n", 0.0),
    "negative tokens": ("d", -1.0),
    "infinite loss": ("loss", np.inf),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_one_line_errors(case: str) -> None:
    data = dict(zip(("n", "d", "loss"), simulate(20, 0.01, 0)))
    column, value = BAD[case]
    data[column] = data[column].copy()
    data[column][3] = value
    with pytest.raises(ScalingError, match="index 3") as caught:
        scaling.fit_loss(data["n"], data["d"], data["loss"], draws=10)
    assert "\n" not in str(caught.value)


def test_impossible_calls_are_refused() -> None:
    n, d, loss = simulate(20, 0.01, 0)
    for call in (
        lambda: scaling.fit_loss(n[:5], d[:5], loss[:5]),
        lambda: scaling.fit_loss(n[:9], d, loss),
        lambda: scaling.fit_loss(n, d, loss, delta=0.0),
        lambda: scaling.fit_loss(n, d, loss, draws=0),
        lambda: scaling.fit_loss(n, d, loss, draws=10.5),  # type: ignore[arg-type]
        lambda: scaling.fit_loss(n, d, loss, seed=-1),
        lambda: scaling.fit_loss(n, d, loss, draws=10).predict(-1.0, 1e9),
        lambda: scaling.fit_loss(np.tile(n, 50_000), np.tile(d, 50_000), np.tile(loss, 50_000)),
        lambda: scaling.fit_loss(["a"] * 20, d, loss),  # type: ignore[list-item]
        lambda: scaling.fit_loss(n, d, loss, draws=10).interval("E", 1.5),
        lambda: scaling.fit_loss(n, d, loss, draws=10).optimal(-1.0),
    ):
        with pytest.raises(ScalingError):
            call()
    with pytest.raises(UnknownName, match="alpha"):
        scaling.fit_loss(n, d, loss, draws=10).interval("gamma")


def test_what_is_no_loss_is_named_and_one_draw_is_no_interval() -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
    loss = 1.8 + 480 / n**0.35 + 2100 / d**0.37
    same = scaling.fit_loss(n, d, np.full(25, 2.0), draws=20)
    assert not same.identified
    assert same.status == "every loss is 2: nothing to fit"
    turned = scaling.fit_loss(n, d, loss[::-1] * np.exp(np.random.default_rng(0).normal(0, 0.003, 25)), draws=20)
    assert "loss does not fall with model size" in turned.status
    one = scaling.fit_loss(n, d, loss, draws=1)
    assert one.interval("alpha") == (-np.inf, np.inf)
    assert "no interval" in one.summary()
    assert "no interval" not in scaling.fit_loss(n, d, loss, draws=20).summary()


def test_ties_and_duplicates_do_not_break_the_solver() -> None:
    n, d, loss = simulate(12, 0.02, 1)
    fit = scaling.fit_loss(*(np.tile(x, 3) for x in (n, d, loss)), draws=50)
    assert np.isfinite(fit.draws).all()
    for names in itertools.combinations(("E", "A", "B", "alpha", "beta"), 1):
        low, high = fit.interval(names[0])
        assert low <= high
