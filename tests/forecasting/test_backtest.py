"""`scaling.backtest` scores what it says it scores; collapses are found by the stated rule and only by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling import Curve, ScalingError, Sigmoid
from scaling.backtest import Backtest, last_value
from scaling.collapse import collapse_table, find_collapse

LAW = Sigmoid(asymptote=0.6, efficiency_exponent=1.3, c_mid=120.0, r_0=0.2)


def curve(seed: int, *, law: Sigmoid = LAW, points: int = 60, sd: float = 0.005) -> Curve:
    c = np.linspace(1000 / points, 1000, points)
    rng = np.random.default_rng(seed)
    return Curve(compute=c, performance=law(c) + rng.normal(0, sd, points), run_id=f"run {seed}")


@pytest.fixture(scope="module")
def result() -> Backtest:
    return scaling.backtest([curve(s) for s in range(4)], draws=200)


def test_scores_are_those_of_the_definitions(result: Backtest) -> None:
    table = result.table
    assert sorted(table["method"].unique()) == [
        "ensemble", "last_value", "linear_log", "log_linear", "power", "sigmoid", "weibull",
    ]  # fmt: skip
    assert (table["status"] == "ok").all()
    for name, one in ((f"run {s}", curve(s)) for s in range(4)):
        for fraction in (0.25, 0.5):
            rows = table[(table["curve"] == name) & (table["fraction"] == fraction)].set_index("method")
            cut = fraction * one.compute[-1]
            before, rest = one.performance[one.compute <= cut], one.performance[one.compute > cut]
            stays = before[-5:].mean()
            row = rows.loc["last_value"]
            assert row["n_fit"] == before.size
            assert row["n_rest"] == rest.size
            assert row["rmse"] == pytest.approx(np.sqrt(np.mean((stays - rest) ** 2)))
            assert row["bias"] == pytest.approx(stays - rest.mean())
            assert row["final"] == pytest.approx(one.performance[-5:].mean())
            assert row["skill_last_value"] == 0
            fitted = scaling.fit([one.before(cut)], law="sigmoid", draws=200)
            ahead = fitted.forecast(one.compute[one.compute > cut]).median
            assert rows.loc["sigmoid", "rmse"] == pytest.approx(np.sqrt(np.mean((ahead - rest) ** 2)), rel=1e-6)
            skill = 1 - rows.loc["sigmoid", "rmse"] / row["rmse"]
            assert rows.loc["sigmoid", "skill_last_value"] == pytest.approx(skill)
            assert rows.loc["log_linear", "skill_log_linear"] == 0
            for _, r in rows.iterrows():
                assert r["covered"] == (r["low"] <= r["final"] <= r["high"])
                assert r["width"] == pytest.approx(r["high"] - r["low"])


def test_the_true_law_beats_the_baseline_and_its_band_holds(result: Backtest) -> None:
    quarter = result.table[(result.table["fraction"] == 0.25)]
    for method in ("ensemble", "sigmoid"):
        rows = quarter[quarter["method"] == method]
        assert (rows["skill_last_value"] > 0.5).all()
        assert rows["covered"].sum() >= 3


def test_summary_and_scores_agree(result: Backtest) -> None:
    text, scores = result.summary(), result.scores()
    assert "first 25% of compute" in text
    assert "best single law's" in text
    name, rmse = result.best_form(0.5)
    part = scores[(scores["fraction"] == 0.5) & scores["method"].isin(["sigmoid", "power", "log_linear", "linear_log"])]
    assert rmse == part["rmse"].min()
    assert part.set_index("method").loc[name, "rmse"] == rmse
    assert "Backtest(4 curves" in repr(result)


def test_any_method_can_be_scored_and_an_oracle_wins() -> None:
    def oracle(prefix: list[Curve], compute: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert all((c.compute <= 250 * (1 + 1e-9)).all() for c in prefix)  # sees nothing of the future
        y = LAW(compute)
        return y, y - 0.01, y + 0.01

    scored = scaling.backtest({"a": curve(0)}, [0.25], laws=[], methods={"oracle": oracle}).table.set_index("method")
    assert scored.loc["oracle", "rmse"] == pytest.approx(0.005, abs=0.002)
    assert scored["rmse"].idxmin() == "oracle"


def test_a_refused_fit_is_a_row_with_its_reason_and_is_counted() -> None:
    short = curve(0, points=8)
    got = scaling.backtest([short, curve(1)], [0.25], laws=["sigmoid"], draws=50)
    row = got.table[(got.table["curve"] == "run 0") & (got.table["method"] == "sigmoid")].iloc[0]
    assert row["status"] != "ok"
    assert np.isnan(row["rmse"])
    assert got.scores().set_index("method").loc["sigmoid", "refused"] == 1
    assert "1 refused" in got.summary()


def test_a_summary_without_any_scored_law_still_has_the_baselines() -> None:
    text = scaling.backtest([curve(0, points=8)], [0.25], laws=["ensemble"], draws=50).summary()
    assert "last_value" in text and "1 refused" in text and "best single law" not in text


def test_seeds_of_one_curve_are_fitted_and_scored_together() -> None:
    seeds = [curve(s) for s in range(3)]
    got = scaling.backtest({"three": seeds}, [0.25], laws=["sigmoid"], draws=100).table
    assert set(got["curve"]) == {"three"}
    assert (got["n_fit"] == 45).all()
    assert got["final"].iloc[0] == pytest.approx(np.mean([c.performance[-5:].mean() for c in seeds]))


def test_many_evaluations_are_scored_at_the_price_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from scaling.fitting.result import Fit

    long, asked, plain = curve(0, points=6000), [], Fit.forecast
    monkeypatch.setattr(Fit, "forecast", lambda fit, c, **k: asked.append(np.size(c)) or plain(fit, c, **k))
    got = scaling.backtest(long, 0.5, laws=["power"], draws=50).table.set_index("method")
    assert max(asked) <= 2000
    fitted = scaling.fit(long.before(0.5 * long.compute[-1]), law="power", draws=50)
    rest = long.after(0.5 * long.compute[-1])
    error = plain(fitted, rest.compute).median - rest.performance
    assert got.loc["power", "rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)


def test_order_of_curves_does_not_matter() -> None:
    a = scaling.backtest([curve(0), curve(1)], [0.25], laws=["power"], draws=50).table
    b = scaling.backtest([curve(1), curve(0)], [0.25], laws=["power"], draws=50).table
    key = ["curve", "method"]
    pd.testing.assert_frame_equal(a.sort_values(key, ignore_index=True), b.sort_values(key, ignore_index=True))


def test_impossible_backtests_are_refused() -> None:
    for call in (
        lambda: scaling.backtest([]),
        lambda: scaling.backtest([curve(0)], [1.5]),
        lambda: scaling.backtest([curve(0)], [0.25], level=0.0),
        lambda: scaling.backtest([curve(0)], []),
        lambda: scaling.backtest([curve(0)], laws=["sigmiod"]),
        lambda: scaling.backtest([curve(0)], draws=0),
        lambda: scaling.backtest([curve(0)], seed=-1),
        lambda: scaling.backtest(np.ones(3)),
        lambda: scaling.backtest([Curve(compute=[1.0], performance=[np.nan])]),
        lambda: last_value([], np.array([1.0]), 0.9),
    ):
        with pytest.raises(ScalingError):
            call()
    one = scaling.backtest(curve(0), 0.25, laws="power", draws=50)
    assert set(one.table["method"]) == {"last_value", "log_linear", "power"}


def test_published_curves_are_forecast_with_skill_from_the_first_quarter(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "qwen25_base_grpo" / "qwen25_base_holdout_flops.csv")
    curves = [
        Curve(compute=part["cumulative_flops_6NT"], performance=1 - part["test_loss"], axis="total_flops", run_id=str(name))
        for name, part in table.groupby("model", sort=False)
    ]  # fmt: skip
    got = scaling.backtest(curves, [0.25], laws=["ensemble"]).table
    ours = got[got["method"] == "ensemble"]
    assert (ours["status"] == "ok").all()
    assert (ours["skill_last_value"] > 0).sum() >= 6


# ---- collapse ------------------------------------------------------------------------------------------------------------


def crashed(seed: int, points: int, sd: float, *, at: float = 0.6, left: float = 0.3) -> Curve:
    c = np.linspace(1, 1000, points)
    rng = np.random.default_rng(seed)
    return Curve(compute=c, performance=np.where(c < at * 1000, LAW(c), left) + rng.normal(0, sd, points), run_id="x")


@pytest.mark.parametrize(("points", "sd"), [(12, 0.01), (40, 0.02), (100, 0.05), (1000, 0.2)])
def test_a_fall_after_the_peak_is_found_where_it_happens(points: int, sd: float) -> None:
    found = [find_collapse(crashed(seed, points, sd)) for seed in range(10)]
    assert sum(c.verdict == "collapsed" for c in found) >= 9
    onsets = [c.onset_compute for c in found if c]
    assert np.median(onsets) == pytest.approx(600, abs=110)
    assert all(0.25 <= c.lost_share <= 1 for c in found if c)


@pytest.mark.parametrize(("points", "sd"), [(12, 0.01), (40, 0.02), (100, 0.05), (1000, 0.2)])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_healthy_noisy_curves_are_left_alone(points: int, sd: float, rho: float) -> None:
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 1, points)
        for i in range(1, points):
            noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
        c = np.linspace(1, 1000, points)
        alarms += bool(find_collapse(Curve(compute=c, performance=LAW(c) + sd * noise)))
    assert alarms <= 1


def test_the_quick_search_of_the_peak_is_that_over_every_peak() -> None:
    from scipy.optimize import isotonic_regression

    from scaling.collapse import _rising_losses

    rng = np.random.default_rng(0)
    for case in range(40):
        n = int(rng.integers(1, 41))
        y, w = rng.normal(0, 1, n), rng.integers(1, 4, n).astype(float)
        y = np.round(y, 1) if case % 3 == 0 else y  # with ties
        every = [0.0] + [
            float(np.sum(w[:k] * (y[:k] - isotonic_regression(y[:k], weights=w[:k]).x) ** 2)) for k in range(1, n + 1)
        ]
        np.testing.assert_allclose(_rising_losses(y, w), every, atol=1e-9)


def test_truncation_and_entropy_are_signs_of_their_own() -> None:
    c = np.linspace(1, 100, 40)
    score = Curve(compute=c, performance=LAW(c), run_id="r")

    def level(end: float, metric: str) -> Curve:
        return Curve(compute=c, performance=np.linspace(0.02, end, 40) if metric == "t" else np.linspace(0.9, end, 40))

    assert find_collapse(score, truncation=level(0.08, "t")).verdict == "none"
    assert find_collapse(score, truncation=level(0.13, "t")).verdict == "at risk"
    high = find_collapse(score, truncation=level(0.3, "t"))
    assert high.verdict == "collapsed"
    assert "truncation 2" in str(high)
    assert find_collapse(score, entropy=level(0.2, "e")).verdict == "none"
    gone = find_collapse(score, entropy=Curve(compute=c, performance=0.9 * np.exp(-c / 10)))
    assert gone.verdict == "collapsed"
    assert "entropy gone" in str(gone)
    table = collapse_table([high, gone, find_collapse(score)])
    assert table["verdict"].tolist() == ["collapsed", "collapsed", "none"]


def test_too_short_a_curve_is_said_to_be_too_short() -> None:
    found = find_collapse(Curve(compute=[1, 2, 3, 4], performance=[0.1, 0.5, 0.5, 0.1]))
    assert found.verdict == "too short"
    assert not found


def test_the_collapsed_public_runs_are_found_and_the_healthy_ones_are_not(shared_data: Path) -> None:
    folder = shared_data / "qwen3_0.6b_grpo_csv"
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        score = Curve(
            compute=table["step"], performance=table["reward_avg"], axis="step", metric="reward", run_id=path.stem
        )
        found = find_collapse(score)
        assert found.verdict == "collapsed", path.name
        assert 100 < found.onset_compute < 300
    healthy = pd.read_csv(shared_data / "qwen25_base_grpo" / "qwen25_base_holdout_flops.csv")
    for _, part in healthy.groupby("model"):
        assert not find_collapse(Curve(compute=part["cumulative_flops_6NT"], performance=1 - part["test_loss"]))


def test_the_band_of_the_final_value_holds_the_noise_of_its_five_evaluations() -> None:
    noisy = curve(5, sd=0.03)
    row = scaling.backtest([noisy], [0.5], laws=["sigmoid"], draws=400).table.set_index("method").loc["sigmoid"]
    ahead = scaling.fit([noisy.before(row["cut"])], law="sigmoid", draws=400).forecast(noisy.compute[-5:])
    assert row["width"] > 1.1 * float(np.mean(ahead.high - ahead.low))
