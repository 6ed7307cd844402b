"""The drift about a law: its algebra against dense matrices, and what it does to a fit."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling import Curve, LinearLog
from scaling.fitting.data import prepare
from scaling.fitting.drift import DriftBasis, sample_drift
from scaling.fitting.marginal import Problem, cells, moments
from scaling.fitting.prior import Noises, Prior

from .simulate import LAW, curve


def kernel(a, b):
    """Covariance of integrated Brownian motion at e-folds a and b from its start."""
    low, high = np.minimum(a[:, None], b[None]), np.maximum(a[:, None], b[None])
    return low**2 * (3 * high - low) / 6


def bending_again(seed: int, *, last: float = 4000.0, n: int = 80) -> tuple[Curve, float]:
    """A curve that no law here describes: two rises, the second when the first is over; and its end at 4 x."""

    def truth(c):
        return LAW(c) + 0.2 / (1 + (2500.0 / c) ** 4)

    compute = np.linspace(last / n, last, n)
    noise = np.random.default_rng(seed).normal(0, 0.004, n)
    return Curve(compute=compute, performance=truth(compute) + noise), float(truth(4 * last))


def test_moments_and_determinant_are_those_of_the_dense_covariance():
    c = curve(n=60, seed=3)
    stderr = np.linspace(0.004, 0.008, 60)
    series = prepare(Curve(compute=c.compute, performance=c.performance, stderr=stderr)).positive[0]
    problem = Problem(LinearLog, series, Prior(), dict(LinearLog.bounds))
    drift = np.array([0.0, 0.3, 20.0])
    noises = Noises(np.zeros(3), drift, np.zeros(3))
    u = np.zeros((1, 0))
    gram, post = moments(problem, u, noises)[0][:, :, 0], cells(problem, u, noises).log_post[0]
    columns = np.stack([series.y, *LinearLog.basis(series.x, u)[0]])
    t = series.x - series.x.min()
    dense = []
    for k in drift:
        sigma = np.diag(series.s**2) + k * kernel(t, t)
        dense.append((columns @ np.linalg.solve(sigma, columns.T), np.linalg.slogdet(sigma)[1]))
    for j in (1, 2):  # 16 terms of the expansion for all of them
        np.testing.assert_allclose(gram[..., j], dense[j][0], rtol=2e-3)
    for j in (1, 2):  # relative to no drift: determinant, coefficients and the noise's size integrated out
        n, rows = series.x.size, [g[1:, 1:] for g, _ in dense]
        rss = [g[0, 0] - g[0, 1:] @ np.linalg.solve(g[1:, 1:], g[1:, 0]) for g, _ in dense]
        change = -0.5 * (dense[j][1] - dense[0][1])
        change -= 0.5 * (np.linalg.slogdet(rows[j])[1] - np.linalg.slogdet(rows[0])[1])
        change -= 0.5 * (n - 2) * np.log(rss[j] / rss[0])
        assert post[j] - post[0] == pytest.approx(change, abs=0.1)


@pytest.mark.parametrize("ratio", [0.3, 30.0])
def test_the_sampled_drift_is_the_gaussian_process_given_the_residuals(ratio):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2.0, 2.0, 50))
    weight = rng.uniform(0.5, 2.0, 50)
    residual = 0.1 * np.sin(2 * x) + rng.normal(0, 0.05, 50) / weight
    at = np.array([-3.0, x[10], 0.5, x[-1], x[-1] + 0.1, x[-1] + 1.4, np.inf])
    sigma, size = 0.05, 20_000
    got = sample_drift(
        DriftBasis.of(x, weight), np.tile(residual * weight, (size, 1)), np.full(size, sigma),
        np.full(size, np.sqrt(ratio) * sigma), at, rng,
    )  # fmt: skip
    assert np.all(got[:, 0] == 0)  # it has not begun
    t, u = x - x[0], at[1:-1] - x[0]
    gain = ratio * kernel(u, t) @ np.linalg.inv(np.diag(weight**-2.0) + ratio * kernel(t, t))
    sd = np.sqrt(np.diag(sigma**2 * (ratio * kernel(u, u) - gain @ (ratio * kernel(t, u)))))
    np.testing.assert_allclose(got[:, 1:-1].mean(0), gain @ residual, atol=0.04 * sd.max() + 0.002)
    np.testing.assert_allclose(got[:, 1:-1].std(0), sd, rtol=0.06, atol=1e-4)
    assert np.all(got[:, -1] == got[:, 3])  # at infinite compute the law is left where the window ended


def test_a_curve_that_bends_and_rises_again_is_forecast_better_and_not_identified():
    covered, shares = {0.0: 0, Prior.drift: 0}, []
    for seed in range(12):
        c, end = bending_again(seed)
        for drift in covered:
            fit = scaling.fit(c, draws=300, prior=Prior(drift=drift))
            band = fit.forecast([4 * c.compute[-1]])
            covered[drift] += bool(band.low[0] <= end <= band.high[0])
            assert not fit.identified
        shares.append(np.mean(fit.draws["drift"] > 0))
    assert np.median(shares) > 0.5 and covered[Prior.drift] >= covered[0.0] + 4
    assert "leaves its law" in fit.summary()


def test_a_curve_that_follows_a_law_is_left_alone():
    fits = [scaling.fit(curve(ratio=6.0, n=60, seed=seed), draws=300) for seed in range(8)]
    assert np.mean([np.mean(f.draws["drift"] > 0) for f in fits]) < 0.1
    assert all(f.identified for f in fits)
    assert all("leaves its law" not in f.summary() for f in fits[:2])


def test_seeds_bootstraps_and_robust_fits_have_no_drift():
    c, other = bending_again(0)[0], bending_again(1)[0]
    for fit in (
        scaling.fit([c, other], draws=100),
        scaling.fit(c, law="sigmoid", method="bootstrap", draws=50),
        scaling.fit(c, loss="huber", draws=100),
    ):
        assert not fit.draws["drift"].any()


def test_a_comparison_is_of_the_curves_and_not_of_their_laws():
    """Two runs of one truth that no law describes: what they share cancels, within what a drift leaves open at the last evaluation."""
    a, b = bending_again(0)[0], bending_again(1)[0]
    (difference,) = scaling.compare({"a": a, "b": b}, at=[3900.0]).pairs[0].difference
    assert difference.low < 0 < difference.high and difference.high - difference.low < 0.03


def test_a_fit_saved_without_drift_is_read(tmp_path):
    import zipfile

    fit = scaling.fit(curve(seed=1), draws=60, prior=Prior(drift=0.0))
    fit.save(tmp_path / "fit.npz")
    with zipfile.ZipFile(tmp_path / "fit.npz") as new, zipfile.ZipFile(tmp_path / "old.npz", "w") as old:
        for name in new.namelist():
            if name != "draws/drift.npy":
                old.writestr(name, new.read(name))
    again = scaling.load_fit(tmp_path / "old.npz")
    assert again.forecast([1e5]).low == fit.forecast([1e5]).low


def test_the_probability_of_a_drift_is_an_option(tmp_path):
    from click.testing import CliRunner

    from scaling.cli import cli
    from scaling.errors import ScalingError

    c, _ = bending_again(0)
    none = scaling.fit(c, draws=100, drift=0)
    assert not none.draws["drift"].any()
    assert scaling.fit(c, draws=100, drift=0.5).draws["drift"].any()
    np.testing.assert_array_equal(scaling.fit(c, draws=100, prior=Prior(drift=0.0)).draws["rho"], none.draws["rho"])
    for wrong in (-0.1, 1.0, np.nan, "much"):
        with pytest.raises(ScalingError, match="drift must be a"):
            scaling.fit(c, drift=wrong)
    file = tmp_path / "c.csv"
    file.write_text("compute,score\n" + "".join(f"{x},{y}\n" for x, y in zip(c.compute, c.performance)))
    for command in (["fit", "--no-figure"], ["forecast", "--until", "4x"]):
        arguments = [*command, str(file), "--compute", "compute", "--score", "score", "--draws", "100"]
        outputs = [CliRunner().invoke(cli, [*arguments, "--drift", share]) for share in ("0", "0.5")]
        assert all(o.exit_code == 0 for o in outputs), outputs[0].output
        assert outputs[0].output != outputs[1].output
