"""Joint laws over sizes: the published numbers, recovery from known laws, coverage, and what is refused."""

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.bundled import bundled_runs
from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.pretraining import fit_joint, study_runs

K_MAX, N_0 = 0.15, 15e9


def loss_curves(rng, *, sizes=6, evals=40, noise=0.01, memory=0.0, spread=0.0, seeds=1):
    """Curves of the log-linear law; ``memory`` is the noise's autocorrelation, ``spread`` that of whole sizes in k."""
    out = {}
    for params in np.geomspace(5e8, 7e10, sizes):
        k = K_MAX / (1 + N_0 / params) + spread * rng.normal()
        compute = np.geomspace(1e17, 3e19, evals)
        curves = []
        for _ in range(seeds):
            white = rng.normal(size=evals) * noise
            error = white.copy()
            for i in range(1, evals):
                error[i] = memory * error[i - 1] + np.sqrt(1 - memory**2) * white[i]
            loss = 0.95 * (params / 5e8) ** -0.1 * (compute / 1e17) ** -k
            curves.append(Curve(compute=compute, performance=1 - loss + error, axis="total_flops"))
        out[float(params)] = curves
    return out


def expit(z):
    return 1 / (1 + np.exp(-z))


def sigmoid_curves(rng, *, sizes=5, evals=24, noise=0.008, slope=0.35, reach=20.0):
    """Curves of the joint sigmoid from 0 compute to ``reach`` times C_mid, and the true asymptote of each size."""
    out, truth = {}, {}
    grid = np.geomspace(1e7, 1e9, sizes)
    for params in grid:
        n = np.log(params / np.exp(np.mean(np.log(grid))))
        a, mid, r_0 = expit(0.3 + slope * n), 1e16 * np.exp(0.4 * n), expit(-1.5 + 0.2 * n)
        compute = np.concatenate([[0.0], np.geomspace(0.1 * mid, reach * mid, evals)])
        with np.errstate(divide="ignore"):
            score = r_0 + (a - r_0) / (1 + (mid / compute) ** 1.3)
        out[float(params)] = [Curve(compute=compute, performance=score + noise * rng.normal(size=evals + 1))]
        truth[float(params)] = a
    return out, truth


@pytest.fixture(scope="module")
def qwen(shared_data):
    table = pd.read_csv(shared_data / "qwen25_base_grpo" / "qwen25_base_holdout_flops.csv")

    def curves(*, below=np.inf):
        return {
            float(params): [
                Curve(compute=part["cumulative_flops_6NT"], performance=1 - part["test_loss"], axis="total_flops")
            ]
            for params, part in table.groupby("params")
            if params < below
        }

    return curves


def test_published_values_of_tan_et_al_up_to_32b(qwen):
    """arXiv:2509.25300, Qwen2.5 base, L(N, C), inter: K_max .152, N_0 17.4e9, R2 .994."""
    fit = scaling.fit_joint(qwen(below=33e9), draws=100)
    assert fit.law.k_max == pytest.approx(0.152, abs=0.002)
    assert fit.law.n_0 == pytest.approx(17.4e9, abs=0.6e9)
    assert fit.r_squared == pytest.approx(0.994, abs=0.0006)
    for name, value in (("k_max", 0.152), ("n_0", 17.4e9)):
        low, high = fit.interval(name)
        assert low < value < high
    assert len(fit.held_out) == 6
    text = fit.summary()
    assert "leaving one size out" in text and text.count("extrapolated") == 2
    assert "which makes it no prediction" in text


def test_the_72b_model_is_predicted_without_its_intercept(qwen):
    """The error of the extrapolation stands beside that of the refitted level, which knows the size's first evaluation."""
    fit = fit_joint(qwen(), draws=80)
    last = fit.held_out[-1]
    assert last.params == 7.2e10 and last.extrapolates
    assert last.rmse > 1.5 * last.anchored_rmse
    assert 0.01 < last.anchored_rmse < 0.05


def test_recovers_a_known_law_exactly_without_noise():
    fit = fit_joint(loss_curves(np.random.default_rng(0), noise=0.0), draws=20)
    assert fit.law.k_max == pytest.approx(K_MAX, rel=1e-4)
    assert fit.law.n_0 == pytest.approx(N_0, rel=1e-3)
    params = fit.data.params[2]
    compute = np.array([1e17, 1e19])
    truth = 1 - 0.95 * (params / 5e8) ** -0.1 * (compute / 1e17) ** -(K_MAX / (1 + N_0 / params))
    np.testing.assert_allclose(fit.law(params, compute), truth, atol=1e-6)
    np.testing.assert_allclose(fit.forecast(params, compute).median, truth, atol=1e-4)
    new = fit.forecast(1.2e10, compute)  # a size that was not fitted: its level comes from a line in ln N
    truth = 1 - 0.95 * (1.2e10 / 5e8) ** -0.1 * (compute / 1e17) ** -(K_MAX / (1 + N_0 / 1.2e10))
    np.testing.assert_allclose(new.median, truth, atol=0.02)
    assert np.all((new.low < truth) & (truth < new.high))


def test_sizes_that_differ_in_more_than_size_are_noticed():
    """Bases of unlike pretraining pooled in one size: the parameters look identified and do not predict a size left out."""
    by_size: dict[float, list[Curve]] = {}
    for run in study_runs(bundled_runs("elicitation")):
        by_size.setdefault(run.params, []).append(run.curve)
    fit = fit_joint(by_size, draws=60)
    assert fit.identified and "its intervals are too narrow" in fit.summary()
    good = fit_joint(loss_curves(np.random.default_rng(0)), draws=60)
    assert "too narrow" not in good.summary()


@pytest.mark.parametrize("kind", [{}, {"memory": 0.4}, {"spread": 0.006}], ids=["white", "memory", "unlike sizes"])
def test_intervals_cover(kind):
    rng, hits, runs = np.random.default_rng(3), 0, 40
    for run in range(runs):
        fit = fit_joint(loss_curves(rng, **kind), draws=80, seed=run, held_out=False)
        for name, truth in (("k_max", K_MAX), ("n_0", N_0)):
            low, high = fit.interval(name)
            hits += low <= truth <= high
    assert hits / (2 * runs) >= 0.78  # nominal .90, standard error .047 (the two go together)


def test_joint_sigmoid_recovers_and_covers():
    rng, hits, total = np.random.default_rng(5), 0, 0
    for run in range(12):
        curves, truth = sigmoid_curves(rng)
        fit = fit_joint(curves, law="sigmoid", draws=60, seed=run, held_out=False)
        assert fit.identified
        for params, a in truth.items():
            value, low, high = fit.asymptote(params)
            assert value == pytest.approx(a, abs=0.03)
            hits, total = hits + (low <= a <= high), total + 1
    assert hits / total >= 0.8
    assert fit.law.logit_asymptote[1] == pytest.approx(0.35, abs=0.06)
    assert fit.law.log_c_mid[1] == pytest.approx(0.4, abs=0.1)


def test_an_asymptote_far_beyond_the_data_is_not_identified():
    curves, _ = sigmoid_curves(np.random.default_rng(2), reach=0.5)
    fit = fit_joint(curves, law="sigmoid", draws=60, held_out=False)
    assert not fit.identified
    assert "asymptote not identified" in fit.status and fit.status in fit.summary()


def test_n_0_far_beyond_the_sizes_is_not_identified():
    """All sizes far below N_0: k is proportional to N and only K_max / N_0 is known."""
    rng, curves = np.random.default_rng(0), {}
    compute = np.geomspace(1e17, 1e20, 40)
    for params in (1e8, 2e8, 4e8, 8e8, 1.6e9):
        loss = 0.9 * (compute / 1e17) ** -(0.1 * params / 1.6e9)
        curves[params] = [Curve(compute=compute, performance=1 - loss + 0.005 * rng.normal(size=40))]
    fit = fit_joint(curves, draws=100, held_out=False)
    assert not fit.identified and "n_0 not identified" in fit.status
    low, high = fit.interval("n_0")
    assert high / low > 50
    assert fit.law.exponent(1.6e9) == pytest.approx(0.1, abs=0.005)  # what the data do determine


def test_leave_one_out_says_when_sizes_do_not_follow_the_law():
    """A size off the law by far shows in its own leave-one-out error, and in the intervals."""
    rng = np.random.default_rng(1)
    good, bad = loss_curves(rng), loss_curves(rng)
    outlier = sorted(bad)[3]
    curve = bad[outlier][0]
    bad[outlier] = [Curve(compute=curve.compute, performance=curve.performance - 0.15, axis="total_flops")]
    clean, dirty = fit_joint(good, draws=60), fit_joint(bad, draws=60)
    assert dirty.held_out[3].rmse > 4 * clean.held_out[3].rmse
    assert dirty.held_out[3].rmse > 0.08


def test_few_sizes_are_exploratory_and_caveats_are_named():
    rng = np.random.default_rng(0)
    curves = loss_curves(rng, sizes=4, seeds=2)
    first = sorted(curves)[0]
    curves[first] = [
        Curve(
            compute=c.compute, performance=c.performance, axis="total_flops", labels={"pretraining_comparable": False}
        )
        for c in curves[first]
    ]
    fit = fit_joint(curves, draws=20)
    assert fit.exploratory and len(fit.held_out) == 4
    text = fit.summary()
    assert "exploratory: 4 sizes" in text and "distilled or pruned" in text


def test_losses_are_taken_as_losses():
    curves = loss_curves(np.random.default_rng(0))
    as_loss = {
        n: [Curve(compute=c.compute, performance=1 - c.performance, axis="total_flops", metric="test_loss") for c in cs]
        for n, cs in curves.items()
    }
    one, other = (fit_joint(c, draws=20, held_out=False).law for c in (curves, as_loss))
    assert (one.k_max, one.n_0) == pytest.approx((other.k_max, other.n_0), rel=1e-5)


def test_evaluations_left_out_are_counted():
    curves = loss_curves(np.random.default_rng(0))
    first = sorted(curves)[0]
    c = curves[first][0]
    compute, score = np.append(c.compute, 0.0), np.append(c.performance, 0.1)
    score[3] = np.nan
    curves[first] = [Curve(compute=compute, performance=score, axis="total_flops")]
    fit = fit_joint(curves, draws=20, held_out=False)
    assert "1 evaluations left out: not finite" in fit.notes and "1 evaluations left out: at compute 0" in fit.notes


ONE = Curve(compute=[1, 2, 3, 4, 5], performance=[0.1, 0.2, 0.3, 0.35, 0.4], axis="total_flops")


def _like_one(scores):
    return Curve(compute=ONE.compute, performance=scores, axis="total_flops")


@pytest.mark.parametrize(
    ("curves", "says"),
    [
        ({1e9: [ONE]}, "at least 3 sizes, got 1.*use scaling.fit"),
        ({}, "got 0"),
        ([ONE], "must map parameters to curves"),
        ({"7B": [ONE], 1e9: [ONE], 2e9: [ONE]}, "sizes must be numbers"),
        ({0.0: [ONE], 1e9: [ONE], 2e9: [ONE]}, "sizes must be numbers of parameters > 0"),
        ({1e8: [], 1e9: [ONE], 2e9: [ONE]}, "must have a list of Curves"),
        ({1e8: [ONE.before(2)], 1e9: [ONE], 2e9: [ONE]}, "at least 4 evaluations"),
        ({1e8: [Curve(compute=[1, 2], performance=[0, 1])], 1e9: [ONE], 2e9: [ONE]}, "share axis and metric"),
        ({n: [_like_one(np.full(5, 0.5))] for n in (1e8, 1e9, 2e9)}, "every pass@1 of every size is 0.5"),
        ({n: [_like_one(np.ones(5))] for n in (1e8, 1e9, 2e9)}, "every pass@1 of every size is 1:"),
        (
            {n: [_like_one(100 * ONE.performance)] for n in (1e8, 1e9, 2e9)},
            r"within \[0, 1\], got pass@1 from 10 to 40",
        ),
    ],
)
def test_bad_input_is_one_line(curves, says):
    with pytest.raises(ScalingError, match=says) as caught:
        fit_joint(curves)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused():
    curves = loss_curves(np.random.default_rng(0))
    with pytest.raises(UnknownName, match="log_linear, sigmoid"):
        fit_joint(curves, law="power")
    fit = fit_joint(curves, draws=20, held_out=False)
    with pytest.raises(UnknownName, match="k_max, n_0"):
        fit.interval("asymptote")
    with pytest.raises(ScalingError, match="has no asymptote"):
        fit.asymptote(1e9)
    with pytest.raises(ScalingError, match="finite and > 0"):
        fit.forecast(1e9, 0.0)
    for size in (-1.0, np.nan):
        with pytest.raises(ScalingError, match="params must be finite"):
            fit.forecast(size, 1e18)
    for bad in ({"seed": -1}, {"draws": 20.5}, {"draws": 5}):
        with pytest.raises(ScalingError, match=f"{next(iter(bad))} must be a whole number"):
            fit_joint(curves, **bad)
    with pytest.raises(ScalingError, match="E\\(N\\) is fitted for"):
        fit.law(3.3e9, 1e18)
