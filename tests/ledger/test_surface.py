"""The surface over bases, its headline quantities, the best split and the worth of RL, against a known truth."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import scaling
from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.pretraining import (
    OffsetExponential,
    StudyRun,
    best_split,
    condition_number,
    fit_surface,
    headline,
    study_runs,
    worth,
)

_spec = importlib.util.spec_from_file_location("simulated", Path(__file__).with_name("simulated.py"))
assert _spec and _spec.loader
sim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sim)


@pytest.fixture(scope="module")
def surface():
    return fit_surface(sim.study(np.random.default_rng(0)), c_ref=sim.C_REF, draws=200)


def test_published_level_function():
    """arXiv:2607.16097 at C_ref = 1e20: .0314 + 129.85 exp(-12.85 L)."""
    f = OffsetExponential(offset=0.0314, amplitude=129.85, rate=12.85)
    assert float(f(0.5)) == pytest.approx(0.0314 + 129.85 * np.exp(-6.425))
    assert float(f(5.0)) == pytest.approx(0.0314)


def test_recovers_the_surface_without_noise():
    runs = sim.study(np.random.default_rng(0), noise=0, base_noise=0)
    law = fit_surface(runs, c_ref=sim.C_REF, draws=20).law
    assert law.f.offset == pytest.approx(0.03, abs=0.002)
    assert law.f.amplitude == pytest.approx(60, rel=0.02)
    assert law.f.rate == pytest.approx(9, rel=0.01)
    assert (law.a, law.b, law.c) == pytest.approx((sim.A, sim.B, sim.C), abs=1e-6)


def test_summary_prints_leave_one_out_errors_and_the_no_model_error(surface):
    text = surface.summary()
    for words in ("leaving one base out: error", "no model", "leaving one size out", "predicted by L(N, D)", "C_ref"):
        assert words in text
    assert surface.leave_one_base_out < 0.03 < surface.baseline
    assert set(surface.leave_one_size_out) == {run.params for run in surface.runs}
    assert 0 < surface.with_predicted_loss < 0.05
    assert surface.status == "ok" and not surface.exploratory


def test_intervals_cover_the_surface_the_split_and_the_worth():
    rng, runs = np.random.default_rng(7), 14
    hits: dict[str, list[bool]] = {}
    for run in range(runs):
        found = sim.study(rng)
        fit = fit_surface(found, c_ref=sim.C_REF, draws=120, seed=run, held_out=False)
        truth = {"offset": 0.03, "amplitude": 60, "rate": 9, "a": sim.A, "b": sim.B, "c": sim.C}
        for name, value in truth.items():
            low, high = fit.interval(name)
            hits.setdefault("surface", []).append(low <= value <= high)
        split = best_split(fit, 1e16)
        share, score = best_of_truth(found, 1e16)
        low, high = split.rl_share_interval
        hits.setdefault("share", []).append(low - 0.01 <= share <= high + 0.01)
        hits.setdefault("band", []).append(split.near_optimal[0] <= share <= split.near_optimal[1])
        hits.setdefault("score", []).append(split.score[1] <= score <= split.score[2])
        answer = worth(fit, params=5e7, tokens=1e9, rl_flops=1e15)
        for against, factor in ((answer.best_decoding, sim.BEST), (answer.sampled, sim.SAMPLED)):
            true = true_worth(factor, 5e7, 1e9, 1e15)
            hits.setdefault("worth", []).append(against.low <= true <= against.high)
    rates = {name: float(np.mean(values)) for name, values in hits.items()}
    assert rates["surface"] >= 0.8, rates
    assert rates["worth"] >= 0.75 and rates["score"] >= 0.7, rates
    assert rates["share"] >= 0.8 and rates["band"] == 1, rates


def best_of_truth(runs, total, amortised_over=1):
    tokens = [run.tokens for run in runs]
    compute = np.concatenate([run.curve.compute for run in runs])
    params, share = np.meshgrid(np.geomspace(5e6, 5e8, 101), 1 / (1 + np.exp(-np.linspace(-7, 5, 401))), indexing="ij")
    data, rl = amortised_over * total * (1 - share) / 6 / params, total * share
    inside = (data >= min(tokens)) & (data <= max(tokens)) & (rl >= compute.min()) & (rl <= compute.max())
    score = np.where(inside, sim.expected(params, data, rl), -np.inf)
    best = np.unravel_index(np.argmax(score), score.shape)
    return share[best], score[best]


def true_worth(factor, params, tokens, rl_flops):
    score = sim.expected(params, tokens, rl_flops)
    more = np.geomspace(0.05, 100, 50_000)
    enough = factor * sim.LEVEL(sim.LOSS(params, tokens * more)) >= score
    return more[np.argmax(enough)] if enough.any() else np.inf


def test_best_split_keeps_the_budget_and_an_amortised_base_is_larger(surface):
    alone, shared = best_split(surface, 1e16), best_split(surface, 1e16, amortised_over=10)
    for split, runs in ((alone, 1), (shared, 10)):
        assert split.pretraining_flops / runs + split.rl_flops == pytest.approx(1e16, rel=1e-9)
        assert 6 * split.params * split.tokens == pytest.approx(split.pretraining_flops, rel=1e-9)
        assert split.near_optimal[0] <= split.rl_share <= split.near_optimal[1]
        assert split.near_optimal[1] - split.near_optimal[0] > 0.05  # the optimum is flat
    assert shared.pretraining_flops > 3 * alone.pretraining_flops
    assert shared.score[0] > alone.score[0]
    assert "paid by this run" in alone.summary() and "shared by 10 runs" in shared.summary()


def test_a_budget_outside_the_fitted_range_is_refused_and_an_edge_is_named(surface):
    with pytest.raises(ScalingError, match="no split of 1e\\+25 FLOPs lies in the fitted range"):
        best_split(surface, 1e25)
    edge = best_split(surface, 3e18, amortised_over=30)
    assert any("edge of the fitted range" in note for note in edge.notes)
    for bad in (0, -1, float("nan")):
        with pytest.raises(ScalingError, match="total_flops must be finite and > 0"):
            best_split(surface, bad)
    with pytest.raises(ScalingError, match="amortised_over"):
        best_split(surface, 1e16, amortised_over=0.5)
    with pytest.raises(ScalingError, match="tolerance"):
        best_split(surface, 3e18, tolerance=-1.0)
    with pytest.raises(ScalingError, match="level"):
        best_split(surface, 3e18, level=2.0)
    run = surface.runs[0]
    for bad in ({"level": 2.0}, {"seed": -1}):
        with pytest.raises(ScalingError, match=next(iter(bad))):
            worth(surface, params=run.params, tokens=run.tokens, rl_flops=run.curve.compute[-1], **bad)


def test_worth_that_differs_by_decoding_is_the_headline(surface):
    """RL that beats plain sampling by far and the best decoding by nothing has undone bad decoding."""
    low = worth(surface, params=5e7, tokens=1e9, rl_flops=2e14)
    assert low.disagree
    assert low.headline().startswith("what RL is worth depends on how the base is decoded")
    assert low.best_decoding.high < 1 < low.sampled.low


def test_cannot_be_reached_by_pretraining_alone_is_an_answer(surface):
    answer = worth(surface, params=5e7, tokens=1e9, rl_flops=1e17)
    assert not np.isfinite(answer.sampled.factor) and answer.sampled.high == np.inf
    assert "cannot be reached by pretraining alone in the fitted range" in str(answer.sampled)
    assert "cannot be reached by pretraining alone" in answer.summary()


def test_worth_needs_the_bases_scores_and_the_fitted_range(surface):
    with pytest.raises(ScalingError, match="params must lie in the fitted range"):
        worth(surface, params=7e10, tokens=1e9, rl_flops=1e16)
    bare = [replace(run, base_best=None, base_sampled=None) for run in surface.runs]
    with pytest.raises(ScalingError, match="needs the bases' own scores"):
        worth(fit_surface(bare, draws=20, held_out=False), params=5e7, tokens=1e9, rl_flops=1e16)
    sampled = [replace(run, base_best=None) for run in surface.runs]
    answer = worth(fit_surface(sampled, draws=20, held_out=False), params=5e7, tokens=1e9, rl_flops=1e15)
    assert answer.best_decoding is None and not answer.disagree
    assert any("best decoding was not measured" in note for note in answer.notes)


def test_equal_tokens_refuse_separate_effects():
    """All sizes of one family saw the same tokens: N and D cannot be told apart."""
    runs = sim.study(np.random.default_rng(1), sizes=6, tokens=1e10)
    assert condition_number([r.params for r in runs], [r.tokens for r in runs]) == np.inf
    fit = fit_surface(runs, c_ref=sim.C_REF, draws=50)
    assert "not separable (condition number inf" in fit.status
    assert fit.interval("b") == (-np.inf, np.inf) and np.isnan(fit.law.b)
    values = fit.values(5e7, 1e10, 1e17, loss=float(sim.LOSS(5e7, 1e10)))  # along the line it does predict
    assert np.median(values) == pytest.approx(float(sim.expected(5e7, 1e10, 1e17)), abs=0.03)
    quantities = headline(runs)
    for effects in (quantities.score, quantities.gain_per_decade, quantities.exchange_rate):
        refused = {effect.against: effect for effect in effects if effect.status != "ok"}
        assert set(refused) == {"params", "tokens"}
        assert all("condition number inf" in effect.status for effect in refused.values())
    nearly = [replace(run, tokens=20 * run.params) for run in runs]  # constant tokens per parameter
    assert condition_number([r.params for r in nearly], [r.tokens for r in nearly]) > 1e6


def test_headline_recovers_score_gain_and_exchange_rate():
    runs = sim.study(np.random.default_rng(3), seeds=4)
    at = 6e14
    found = headline(runs, compute=at)
    used = [r for r in runs if r.curve.compute.min() <= at <= r.curve.compute.max()]
    assert found.runs == (len(used), len(runs))
    n, d = np.array([r.params for r in used]), np.array([r.tokens for r in used])
    truth = np.array([float(sim.expected(r.params, r.tokens, at)) for r in used])
    gain = sim.slope(n, d)
    assert by(found.score, "mean").value == pytest.approx(truth.mean(), abs=0.02)
    assert by(found.gain_per_decade, "mean").value == pytest.approx(gain.mean(), abs=0.01)
    design = np.stack([np.ones_like(n), np.log10(n), np.log10(d)], axis=1)
    effect = np.linalg.lstsq(design, truth, rcond=None)[0]
    for against, column in (("params", 1), ("tokens", 2)):
        item = by(found.score, against)
        assert item.low <= effect[column] <= item.high
        rate = by(found.exchange_rate, against)
        assert rate.low <= gain.mean() / effect[column] <= rate.high
    assert by(found.score, "loss").high < 0  # a lower loss scores higher
    assert [name for name in ("score", "gain", "exchange") if name in found.summary()] == ["score", "gain", "exchange"]
    order = [found.summary().index(text) for text in ("  score", "gain per decade", "exchange rate")]
    assert order == sorted(order)


def by(effects, against):
    return next(effect for effect in effects if effect.against == against)


def test_an_exchange_rate_without_an_effect_of_pretraining_is_not_identified():
    rng = np.random.default_rng(4)
    flat = []
    for run in sim.study(rng):
        score = 0.4 + 0.05 * np.log10(run.curve.compute / 1e15) + 0.02 * rng.normal(size=16)
        flat.append(replace(run, curve=Curve(compute=run.curve.compute, performance=score, axis="total_flops")))
    rates = headline(flat, compute=6e14).exchange_rate
    assert any("not identified" in rate.status for rate in rates)
    assert all(rate.low == -np.inf for rate in rates if rate.status != "ok")


def test_the_asymptote_comes_last_and_only_where_it_is_identified():
    runs = sim.study(np.random.default_rng(0))
    assert headline(runs).asymptote == ()
    few = headline(runs, asymptotes={5e6: (0.3, 0.01)}).asymptote[0]
    assert "at least 3 are needed" in few.status
    line = {n: (0.2 + 0.1 * np.log10(n / 5e6), 0.01) for n in (5e6, 5e7, 5e8)}
    effect = headline(runs, asymptotes=line).asymptote[0]
    assert effect.value == pytest.approx(0.1) and effect.low < 0.1 < effect.high


def test_caveats_stand_beside_every_number():
    runs = sim.study(np.random.default_rng(0), sizes=3, caveats=("its base is distilled or pruned",))
    fit = fit_surface(runs, draws=20)
    assert fit.exploratory
    for text in (fit.summary(), headline(runs, compute=1e15).summary(), best_split(fit, 1e16).summary()):
        assert "distilled" in text and "exploratory" in text


def test_distilled_bases_are_left_out_unless_forced():
    runs = sim.study(np.random.default_rng(0))
    distilled = [replace(run, comparable=run.params < 1e8) for run in runs]
    kept = fit_surface(distilled, draws=20, held_out=False)
    assert len(kept.runs) == sum(run.comparable for run in distilled) < len(runs)
    assert any("left out, their bases are distilled" in note for note in kept.notes)
    assert len(fit_surface(distilled, draws=20, held_out=False, force=True).runs) == len(runs)
    assert any("left out" in note for note in headline(distilled, compute=1e15).notes)
    with pytest.raises(ScalingError, match="got 0; 45 runs left out"):
        fit_surface([replace(run, comparable=False) for run in runs])


CURVE = Curve(compute=[1e15, 2e15, 4e15], performance=[0.1, 0.2, 0.3], axis="total_flops", run_id="abc")
GOOD = {"params": 1e8, "tokens": 2e9, "pretraining_flops": 1.2e18, "curve": CURVE}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": None}, "abc: tokens must be known and > 0"),
        ({"pretraining_flops": 0}, "abc: pretraining_flops must be known and > 0 FLOP, got 0"),
        ({"pretraining_flops": float("nan")}, "record it with the pretraining stage"),
        ({"params": -1}, "abc: params must be known"),
        ({"loss": -0.5}, "pretraining loss must be finite and > 0"),
        ({"curve": Curve(compute=[1, 2, 3], performance=[1, 2, 3], axis="gpu_hours")}, "in FLOPs, got a curve in"),
        ({"curve": Curve(compute=[0, 2], performance=[0.1, 0.2], axis="total_flops")}, "at least 3 finite evaluations"),
    ],
)
def test_a_run_without_its_pretraining_is_refused(change, says):
    with pytest.raises(ScalingError, match=says) as caught:
        StudyRun(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_too_few_bases_are_refused():
    one = [StudyRun(**GOOD, loss=2.0)] * 8
    for work in (fit_surface, headline):
        with pytest.raises(ScalingError, match="at least 3 sizes or budgets, got 1"):
            work(one)
        with pytest.raises(ScalingError, match="needs at least"):
            work(one[:2])
    runs = sim.study(np.random.default_rng(0), seeds=1)
    with pytest.raises(ScalingError, match="needs every base's pretraining loss, 1 lack it, first run0"):
        fit_surface([replace(runs[0], loss=None), *runs[1:]])
    with pytest.raises(ScalingError, match="c_ref must be > 0"):
        fit_surface(runs, c_ref=0)
    for bad in ({"draws": 0}, {"draws": 20.5}, {"seed": -1}):
        for work in (fit_surface, headline):
            with pytest.raises(ScalingError, match=f"{next(iter(bad))} must be a whole number"):
                work(runs, **bad)
    with pytest.raises(ScalingError, match="c_ref must be > 0"):
        fit_surface(runs, c_ref=np.inf)
    with pytest.raises(ScalingError, match="must be reached by at least 4 runs"):
        headline(runs, compute=1e30)
    fit = fit_surface(runs, draws=20, held_out=False)
    with pytest.raises(UnknownName, match="offset, amplitude"):
        fit.interval("k_max")
    with pytest.raises(ScalingError, match="RL compute must be > 0"):
        fit.values(1e7, 1e9, 0.0)
    with pytest.raises(ScalingError, match="sizes and tokens must be > 0"):
        fit.values(0.0, 1e9, 1e9)


def test_runs_of_a_table_become_study_runs(tmp_path):
    import json

    for size, (params, loss) in enumerate(((1e6, 3.0), (2e6, 2.5))):
        folder = tmp_path / f"run{size}"
        folder.mkdir()
        stage = {"stage": "pretrain", "flops": 6 * params * 1e8, "tokens": 1e8, "loss": loss}
        record = {
            "run_id": f"run{size}",
            "schema_version": 1,
            "base_hash": f"base{size}",
            "model": {"name": "scratch", "params": params},
            "stages": [stage],
        }
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "steps.jsonl").write_text(
            "".join(
                json.dumps({"segment": 0, "step": s, "cost": {"training_flops": 1e12}, "metrics": {"reward": 0.1}})
                + "\n"
                for s in range(1, 5)
            )
        )
        lines = [
            {
                "segment": 0,
                "step": step,
                "benchmark": "held-out",
                "k": 2,
                "successes": [2] * good + [0] * (10 - good),
                "sampling": {"decoding": decoding, "temperature": 1.0},
                "cost": {"training_flops": step * 1e12} if step else {},
            }
            for step, decoding, good in (
                (0, "sampled", 2), (0, "greedy", 3), (0, "maj@16", 4), (1, "sampled", 4), (2, "sampled", 5),
                (4, "sampled", 6),
            )
        ]  # fmt: skip
        (folder / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = study_runs(scaling.load_runs(tmp_path))
    assert [run.params for run in runs] == [1e6, 2e6]
    assert (runs[0].base_sampled, runs[0].base_best, runs[0].loss) == (0.2, 0.4, 3.0)
    assert runs[0].base == "base0" and runs[0].pretraining_flops == 6e14
    assert runs[0].curve.compute.tolist() == [0, 1e12, 2e12, 4e12]


def test_resamples_without_bounds_are_counted_and_do_not_reach_a_split(surface):
    """Few values of D let an exponent run away: its coefficient overflows, and no NaN may come of it."""
    from dataclasses import replace

    assert surface.loss_fit is not None
    wild = surface.loss_fit.draws.copy()
    wild[::10, 2] = np.inf
    wild[1::10, 1], wild[1::10, 3] = 0.0, -400.0  # A = 0: alpha is anything, and N^400 overflows
    fit = replace(surface, loss_fit=replace(surface.loss_fit, draws=wild))
    split = best_split(fit, 1e16)
    assert np.isfinite([split.params, split.tokens, *split.score]).all()
    wild[:, 2] = np.inf
    with pytest.raises(ScalingError, match="resamples have coefficients without bounds"):
        best_split(replace(surface, loss_fit=replace(surface.loss_fit, draws=wild)), 1e16)
