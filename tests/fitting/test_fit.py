"""The front door: bad input, verdict texts, estimands, saved fits."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling import Constant, Curve, LinearLog, LogLinear, ScalingError, Sigmoid
from scaling.errors import UnknownName
from scaling.fitting.identify import MAX_WIDTH
from scaling.fitting.status import Status

from .simulate import LAW, curve


def _scores(values, **fields):
    return Curve(compute=np.arange(1.0, len(values) + 1), performance=values, **fields)


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (_scores([0.1, 0.2, 0.3]), Status.TOO_FEW),
        (_scores([]), Status.TOO_FEW),
        (_scores([np.nan] * 20), Status.TOO_FEW),
        (Curve(compute=np.ones(20), performance=np.linspace(0.1, 0.4, 20)), Status.TOO_FEW),
        (Curve(compute=np.zeros(20), performance=np.linspace(0.1, 0.4, 20)), Status.TOO_FEW),
        (_scores([0.3] * 20), Status.CONSTANT),
        (_scores(0.3 + 0.006 * np.random.default_rng(1).normal(size=40)), Status.NO_TREND),
        (_scores(np.linspace(0.6, 0.2, 30)), Status.NO_TREND),
    ],
)
def test_what_cannot_be_fitted_is_a_named_status_with_infinite_intervals_where_nothing_is_known(bad, status):
    fit = scaling.fit(bad, draws=100)
    assert fit.status == status and not fit.identified and fit.message
    assert status in repr(fit) and status in fit.summary()
    low, high = fit.interval("asymptote")
    assert isinstance(low, float) and isinstance(high, float) and low <= high
    if not fit.draws.size:
        assert (low, high) == (-np.inf, np.inf)
        band = fit.forecast([10.0])
        assert np.isnan(band.median[0]) and band.low[0] == -np.inf
        assert np.isnan(fit.gain(by=10.0)) and np.isnan(fit.compute_to_reach(0.5).never)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "at least one curve"),
        (["not a curve"], "needs Curve objects, got str"),
        ([_scores([0.1] * 6), _scores([0.1] * 6, axis="tokens")], "must share one axis, got gpu_hours, tokens"),
        ([_scores([0.1] * 6), _scores([0.1] * 6, metric="pass@8")], "must share one metric"),
        (_scores(np.linspace(30, 60, 20)), r"pass@1 must lie within \[0, 1\], got 60"),
    ],
)
def test_what_should_not_be_fitted_is_a_one_line_error(curves, message):
    with pytest.raises(ScalingError, match=message) as caught:
        scaling.fit(curves)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws"), ({"loss": "l1"}, "loss"), ({"r_0_stderr": 0.1}, "needs r_0"), ({"method": "mcmc"}, "method"),
        ({"bounds": {"slant": (0, 1)}}, "bounds can be given for"), ({"bounds": {"asymptote": (1, 0)}}, "low < high"),
        ({"fit_after": -1.0}, "fit_after"), ({"method": "bootstrap"}, "one law"),
        ({"draws": 1}, "at least 20"), ({"draws": 99.5}, "draws must be a whole number"), ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"), ({"r_0": np.nan}, "r_0 must be a finite number"), ({"r_0": 2.0}, r"r_0 of pass@1 must lie"),
        ({"r_0": 0.2, "r_0_stderr": -0.1}, "r_0_stderr"), ({"loss": "huber", "delta": 0.0}, "delta must be above 0"),
        ({"loss": "huber", "delta": np.nan}, "delta"), ({"n_items": 1.5}, "n_items"), ({"n_items": 0}, "n_items"),
        ({"bounds": {"asymptote": (0.9,)}}, "must be .low, high., got"), ({"bounds": {"shape": (0.0, 2.0)}}, "above 0"),
        ({"bounds": {"efficiency_exponent": (-1.0, 2.0)}}, "above 0"),
        ({"law": "sigmoid", "method": "bootstrap", "r_0": 0.2, "r_0_stderr": 0.01}, "takes r_0 as exact"),
    ],
)  # fmt: skip
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ScalingError, match=message):
        scaling.fit(curve(), **options)
    with pytest.raises(UnknownName):
        scaling.fit(curve(), law="gompertz")


@pytest.mark.parametrize("small", [1e-6, 1e-9, 1e-12])
def test_a_tiny_standard_error_of_r_0_is_none(small):
    exact, nearly = (
        scaling.fit(curve(), law="sigmoid", r_0=0.25, r_0_stderr=error, draws=200).interval("asymptote")
        for error in (None, small)
    )
    assert nearly == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("law", ["ensemble", "sigmoid", "power"])
def test_compute_that_hardly_grows_is_refused_not_extrapolated(law):
    start = 1.7e9  # seconds since 1970: a time stamp, not a compute
    stamps = start + 86400.0 * np.arange(40)
    fit = scaling.fit(Curve(compute=stamps, performance=np.linspace(0.3, 0.6, 40)), law=law)
    assert fit.status == Status.TOO_FEW and "grows by a factor of 1.00198 only" in fit.message
    assert "nan" not in fit.summary()
    counted = scaling.fit(Curve(compute=stamps - start, performance=np.linspace(0.3, 0.6, 40)), law=law, draws=50)
    assert counted.draws.size == 50


def test_scores_that_differ_by_rounding_are_constant():
    jitter = 5.6e-17 * np.random.default_rng(0).integers(0, 2, 40)
    for score in (0.3, -1000.0):
        fit = scaling.fit(Curve(compute=np.arange(1.0, 41.0), performance=score + 1e3 * jitter, metric="reward"))
        assert fit.status == Status.CONSTANT
    assert scaling.fit(Curve(compute=np.arange(1.0, 41.0), performance=0.3 + jitter)).status == Status.CONSTANT


@pytest.mark.parametrize("compute", [-1.0, np.nan, [100.0, -1.0], "soon"])
def test_a_forecast_where_there_is_no_compute_is_an_error(compute):
    fit = scaling.fit(curve(), law="sigmoid", draws=50)
    for ask in (fit.forecast, fit.simulate):
        with pytest.raises(ScalingError, match="compute"):
            ask(compute)
    if np.isscalar(compute):
        with pytest.raises(ScalingError, match="compute"):
            fit.gain(by=compute)


def test_questions_without_an_answer_are_errors():
    fit = scaling.fit(curve(), law="sigmoid", draws=50)
    for ask in (
        lambda: fit.compute_to_reach(np.nan),
        lambda: fit.compute_to_reach("high"),
        lambda: fit.gain(by=1e5, more_than=np.nan),
        lambda: fit.profile(at=0.0),
        lambda: fit.profile(at=np.nan),
        lambda: fit.profile(rho=1.5),
        lambda: fit.interval("asymptote", level="90%"),
    ):
        with pytest.raises(ScalingError):
            ask()
    assert fit.forecast([], noise="observation").median.size == 0
    assert Constant(level=0.3)(np.inf) == 0.3


def test_nan_duplicates_and_zero_compute_are_used_or_counted():
    c = curve(n=40)
    compute = np.concatenate([[0.0, 0.0], c.compute, c.compute[:5]])
    y = np.concatenate([[0.25, 0.252], c.performance, c.performance[:5] + 0.001])
    y[7] = np.nan
    fit = scaling.fit(Curve(compute=compute, performance=y), draws=200)
    assert fit.skipped == {"score is NaN or infinite": 1}
    assert "left out: 1 (score is NaN or infinite)" in fit.summary()
    assert fit.interval("r_0")[0] > 0.23 and fit.identified


def test_a_million_points_fit_in_groups_and_say_so():
    compute = np.arange(1.0, 1_000_001.0)
    law = Sigmoid(asymptote=0.61, efficiency_exponent=1.5, c_mid=1e5, r_0=0.25)
    y = np.clip(law(compute) + np.random.default_rng(0).normal(0, 0.05, compute.size), 0, 1)
    fit = scaling.fit(Curve(compute=compute, performance=y), law="sigmoid", draws=200)
    low, high = fit.interval("asymptote")
    assert low - 0.002 < 0.61 < high + 0.002 and high - low < 0.01
    assert "1000000 evaluations averaged in 500 groups" in fit.summary()


def test_one_evaluation_of_thousands_has_its_own_noise_and_not_that_of_a_mean():
    compute = np.geomspace(100.0, 20_000.0, 4000)
    scores = LAW(compute) + np.random.default_rng(0).normal(0, 0.02, compute.size)
    fit = scaling.fit(Curve(compute=compute, performance=scores), law="sigmoid", draws=400)
    band = fit.forecast(compute, noise="observation")
    assert 0.87 < np.mean((scores >= band.low) & (scores <= band.high)) < 0.93
    mean = fit.simulate(np.linspace(1.9e4, 2e4, 5), noise="observation").mean(1)
    assert mean.std() == pytest.approx(0.02 / np.sqrt(5), rel=0.2)


def test_a_forecast_at_many_places_is_that_at_few():
    fit = scaling.fit(curve(), draws=50, n_items=500)
    c = np.geomspace(10.0, 1e5, 12_001)
    for of in ("benchmark", "population"):
        many, few = fit.forecast(c, of=of), fit.forecast(c[::4000], of=of)
        for end in ("median", "low", "high"):
            np.testing.assert_array_equal(getattr(many, end)[::4000], getattr(few, end))


def test_rewards_need_no_unit_interval():
    c = curve(ratio=10.0)
    reward = Curve(compute=c.compute, performance=20 * c.performance - 8, metric="reward")
    fit = scaling.fit(reward, draws=300)
    low, high = fit.interval("asymptote")
    assert low < 20 * 0.61 - 8 < high and fit.identified


def test_no_window_is_hidden():
    c = curve()
    assert scaling.fit(c, draws=50).window == (c.compute[0], c.compute[-1])
    late = scaling.fit(c, draws=50, fit_after=1000.0)
    assert late.window[0] >= 1000.0
    assert late.skipped == {"before fit_after=1000": int((c.compute < 1000).sum())}


def test_an_unidentified_asymptote_is_a_lower_bound_and_never_a_point():
    fit = scaling.fit(curve(ratio=1.0, seed=2), draws=300)
    text = fit.summary()
    assert not fit.identified and "asymptote not identified: at least" in text and "to settle it to +-0.02" in text
    assert "asymptote A                      -" in text
    full = fit.summary(full=True)
    assert "window sensitivity" in full and full.count("\n") > text.count("\n") + 5
    assert "not identified, at least" in repr(fit)
    line = scaling.fit(curve(), law="linear_log", draws=50).summary(full=True)  # no asymptote in any part
    assert "inf" not in line and "nan" not in line


def test_what_would_settle_the_asymptote_is_compute_only_where_its_interval_is_what_is_wide():
    """Where a narrow interval is refused for another reason the summary says that reason, never '1 x the compute'."""
    told = {}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        compute = np.geomspace(100, 100 * rng.uniform(10, 200), 40)
        law = LogLinear(log_error=0.1, exponent=0.1) if seed % 2 else LAW
        fit = scaling.fit(Curve(compute=compute, performance=law(compute) + rng.normal(0, 0.002, 40)), draws=200)
        low, high = fit.interval("asymptote")
        line = next((x for x in fit.summary().splitlines() if "to settle it" in x), "")
        if fit.status == Status.NOT_IDENTIFIED and np.isfinite(low):
            told[high - low > MAX_WIDTH] = line
            if high - low <= MAX_WIDTH:
                assert fit.message in line and " x the compute" not in line
            else:
                assert "to +-0.02" in line and ": 1 x" not in line
    assert set(told) == {True, False}  # both kinds occurred


def test_seeds_that_differ_are_settled_by_seeds_and_a_flat_curve_by_rising():
    rng = np.random.default_rng(0)
    compute = np.geomspace(100, 8000, 40)
    runs = [
        Curve(compute=compute, performance=LAW(compute) + shift + rng.normal(0, 0.001, 40), run_id=str(shift))
        for shift in (-0.06, 0.0, 0.06)
    ]
    text = scaling.fit(runs, draws=200).summary()
    assert "more seeds rather than more compute, since it is the 3 curves that differ" in text
    flat = scaling.fit(_scores(0.3 + 0.006 * rng.normal(size=40)), law="power", draws=200)
    assert (
        flat.status == Status.NO_TREND
        and "it must rise first" in flat.summary()
        and " x the compute" not in flat.summary()
    )


def test_the_ensemble_leaves_laws_without_asymptote_out_of_the_asymptote():
    compute = np.geomspace(100, 5000, 40)
    y = LogLinear(log_error=0.1, exponent=0.1)(compute) + np.random.default_rng(0).normal(0, 0.003, 40)
    fit = scaling.fit(Curve(compute=compute, performance=y), draws=400)
    assert not fit.identified and fit.weights["log_linear"] > 0.2
    rows = np.isin(fit.draws["law"], ["sigmoid", "weibull", "power"])
    assert np.isnan(fit.draws["asymptote"][~rows]).all() and not np.isnan(fit.draws["asymptote"][rows]).any()
    line = scaling.fit(Curve(compute=compute, performance=y), law="linear_log", draws=50)
    assert line.status == Status.NO_ASYMPTOTE and line.interval("asymptote") == (-np.inf, np.inf)
    assert isinstance(line.law, LinearLog)


def test_compute_to_reach_knows_never_and_gain_is_a_probability():
    fit = scaling.fit(curve(ratio=8.0), draws=800)
    easy, hard = fit.compute_to_reach(0.5), fit.compute_to_reach(0.75)
    assert easy.low < LAW.invert(0.5) < easy.high and easy.never == 0.0
    assert hard.never > 0.95 and hard.median == np.inf
    assert fit.gain(by=16000.0) > 0.9 > fit.gain(by=16000.0, more_than=0.05)
    chances = [fit.gain(by=16000.0, more_than=x) for x in (0.0, 0.005, 0.01, 0.02)]
    assert chances == sorted(chances, reverse=True)


def test_benchmark_and_population_are_two_bands_and_observations_a_third():
    rng = np.random.default_rng(0)
    m, k = 500, 8
    a = rng.beta(0.9, 0.6, m)
    compute = np.linspace(250, 10000, 40)
    p = a * (0.4 + 0.6 * Sigmoid(asymptote=1.0, efficiency_exponent=1.5, c_mid=1000.0, r_0=0.0)(compute)[:, None])
    hits = rng.binomial(k, p)
    c = Curve(compute=compute, performance=hits.mean(1) / k, successes=hits, samples_per_item=k)
    fit = scaling.fit(c, draws=1000)
    bench, pop, seen = (
        fit.forecast([2e4]),
        fit.forecast([2e4], of="population"),
        fit.forecast([2e4], noise="observation"),
    )
    spread = [float((b.high - b.low)[0]) for b in (bench, seen, pop)]
    assert spread[0] < spread[1] and spread[0] < 0.7 * spread[2]
    assert "per-item counts, 500 items" in pop.note
    # the items' own spread, not that of coins
    want = 2 * 1.645 * np.sqrt(np.var(a) / m)
    assert abs(np.sqrt(spread[2] ** 2 - spread[0] ** 2) / want - 1) < 0.2
    blind = scaling.fit(Curve(compute=compute, performance=c.performance), draws=300)
    with pytest.raises(ScalingError, match="number of items"):
        blind.forecast([2e4], of="population")
    known = scaling.fit(Curve(compute=compute, performance=c.performance), draws=300, n_items=500).forecast(
        [2e4], of="population"
    )
    assert "p(1-p)/m" in known.note and float((known.high - known.low)[0]) > spread[2]


def test_a_saved_fit_comes_back_whole(tmp_path):
    runs = [curve(seed=s, run_id=str(s), labels={"model": "a"}) for s in range(2)]
    for curves in (runs[0], runs, _scores([0.1, 0.2])):
        fit = scaling.fit(curves, draws=120)
        path = tmp_path / "fit.npz"
        fit.save(path)
        back = scaling.load_fit(path)
        assert back.draws.dtype == fit.draws.dtype and back.summary() == fit.summary() and repr(back) == repr(fit)
        for name in fit.draws.dtype.names:
            assert np.array_equal(back.draws[name], fit.draws[name], equal_nan=name != "law")
        np.testing.assert_array_equal(
            back.forecast([1e5], noise="observation").low, fit.forecast([1e5], noise="observation").low
        )
    np.save(tmp_path / "array.npy", np.ones(3))
    for rubbish in (b"nothing", b"", path.read_bytes()[:200], (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(rubbish)
        with pytest.raises(ScalingError, match="not a fit saved"):
            scaling.load_fit(path)


def test_unknown_parameter_and_levels_are_errors():
    fit = scaling.fit(curve(), draws=50)
    with pytest.raises(UnknownName, match="asymptote"):
        fit.interval("plateau")
    with pytest.raises(ScalingError, match="level"):
        fit.interval("asymptote", level=90)
    with pytest.raises(ScalingError, match="of must be"):
        fit.forecast([1.0], of="world")


def test_a_band_of_a_share_stays_a_share():
    """Three low seeds that differ: the t-scale band would pass below 0."""
    compute = np.geomspace(10, 1000, 12)
    seeds = [
        Curve(compute=compute, performance=level + np.random.default_rng(i).normal(0, 0.002, 12), run_id=str(i))
        for i, level in enumerate((0.01, 0.02, 0.07))
    ]
    fitted = scaling.fit(seeds, draws=400)
    for noise in ("curve", "observation"):
        band = fitted.forecast([2000.0, 4000.0], level=0.99, noise=noise)
        assert (band.low >= 0).all() and (band.high <= 1).all()
    rewards = [Curve(compute=c.compute, performance=c.performance, metric="reward", run_id=c.run_id) for c in seeds]
    assert scaling.fit(rewards, draws=400).forecast([4000.0], level=0.99).low[0] < 0


def test_a_plateau_is_recovered_and_not_overshot():
    """A curve with an exponential end: the mixture finds it, a sigmoid alone promises a gain that never comes."""
    law = scaling.Weibull(asymptote=0.61, shape=1.0, c_mid=1000.0, r_0=0.25)
    compute = np.linspace(100, 7000, 100)
    y = law(compute) + np.random.default_rng(3).normal(0, 0.006, 100)
    curve = Curve(compute=compute, performance=y)
    fit = scaling.fit(curve, draws=400)
    low, high = fit.interval("asymptote")
    assert low < 0.61 < high and fit.weights["weibull"] > 0.5
    assert scaling.fit(curve, law="sigmoid", draws=400).interval("asymptote")[0] > 0.61


@pytest.mark.parametrize("law", ["ensemble", "sigmoid", "power"])
def test_no_verdict_without_a_back_test(law):
    """A window of less than a factor of two may bend as much as it likes: no law was held against evaluations it had not seen."""
    compute = np.linspace(1.0, 1.9, 40)
    score = 0.6 - 0.3 / compute**4 + np.random.default_rng(0).normal(0, 5e-4, 40)
    short = scaling.fit(Curve(compute=compute, performance=score), law=law)
    assert not short.identified and "no back-test" in short.message
    low, high = short.interval("asymptote")
    assert high - low < 0.1  # for want of nothing else
