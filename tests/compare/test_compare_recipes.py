"""`scaling.compare`: known differences are found and covered, pooling is refused, settings and epochs are named."""

from __future__ import annotations

import numpy as np
import pytest

import scaling
from scaling import Curve, ScalingError, Sigmoid
from scaling._contrasts import pool
from scaling.compare import Comparison
from scaling.errors import UnknownName

C = np.geomspace(5, 2000, 48)
SLOW = Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=120.0, r_0=0.2)
FAST = Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=60.0, r_0=0.2)
HIGH = Sigmoid(asymptote=0.68, efficiency_exponent=1.2, c_mid=120.0, r_0=0.2)


def curve(law: Sigmoid, rng: np.random.Generator, *, sd: float = 0.004, offset: float = 0.0, **labels: object) -> Curve:
    y = law(C) + offset + rng.normal(0, sd, C.size)
    return Curve(
        compute=C, performance=y, axis="gpu_hours", run_id=f"run {labels.get('seed', '')}", labels=dict(labels)
    )


def run(seed: int, **options: object) -> Comparison:
    rng = np.random.default_rng(seed)
    return scaling.compare({"slow": curve(SLOW, rng), "fast": curve(FAST, rng)}, draws=200, seed=seed, **options)


def test_speed_up_and_difference_cover_the_truth_at_their_level() -> None:
    hits = {"speed_up": 0, "difference": 0, "asymptote": 0, "efficiency_exponent": 0}
    truth = {
        "speed_up": 2.0,
        "difference": float(FAST(300.0) - SLOW(300.0)),
        "asymptote": 0.0,
        "efficiency_exponent": 0.0,
    }
    studies = 20
    for seed in range(studies):
        pair = run(seed, at=[300.0]).pairs[0]
        for c in pair.contrasts():
            assert c.status == "ok"
            hits[c.quantity] += c.low <= truth[c.quantity] <= c.high
    assert all(0.75 <= n / studies for n in hits.values()), hits


def test_intervals_shrink_with_the_noise_and_probabilities_tell_the_better() -> None:
    pair = run(0, at=[300.0]).pairs[0]
    assert pair.difference[0].better > 0.99
    assert pair.speed_up[0].better > 0.99
    assert pair.speed_up[0].high - pair.speed_up[0].low < 0.5
    turned = run(0, at=[300.0], baseline="fast").pairs[0]
    assert turned.difference[0].median == pytest.approx(-pair.difference[0].median, abs=0.002)
    assert turned.speed_up[0].median == pytest.approx(0.5, abs=0.06)


def test_a_higher_asymptote_is_found_and_exponents_are_then_not_compared() -> None:
    rng = np.random.default_rng(3)
    pair = scaling.compare({"a": curve(SLOW, rng), "b": curve(HIGH, rng)}, draws=300).pairs[0]
    assert pair.asymptote.median == pytest.approx(0.08, abs=0.012)
    assert pair.asymptote.low > 0.02
    assert "asymptotes differ" in pair.exponent.status
    assert np.isnan(pair.exponent.median)
    assert np.isnan(pair.common_asymptote)


def test_exponents_are_compared_at_a_common_asymptote() -> None:
    steep = Sigmoid(asymptote=0.6, efficiency_exponent=2.2, c_mid=120.0, r_0=0.2)
    rng = np.random.default_rng(4)
    pair = scaling.compare({"a": curve(SLOW, rng), "b": curve(steep, rng)}, draws=300).pairs[0]
    assert pair.common_asymptote == pytest.approx(0.6, abs=0.01)
    assert pair.exponent.status == "ok"
    assert pair.exponent.low <= 0.7 <= pair.exponent.high
    assert pair.exponent.low > 0.3


def test_what_is_not_identified_is_said_instead_of_a_number() -> None:
    rng = np.random.default_rng(5)
    short = [curve(law, rng).before(60.0) for law in (SLOW, FAST)]
    result = scaling.compare({"a": short[0], "b": short[1]}, draws=300)
    pair = result.pairs[0]
    assert "not identified" in pair.asymptote.status
    assert pair.exponent.status != "ok"
    assert "not identified" in result.summary()


def test_seeds_are_paired_where_shared() -> None:
    rng = np.random.default_rng(6)
    offsets = rng.normal(0, 0.02, 3)
    a = [curve(SLOW, rng, offset=o, seed=i) for i, o in enumerate(offsets)]
    b = [curve(FAST, rng, offset=o, seed=i) for i, o in enumerate(offsets)]
    paired = scaling.compare({"a": a, "b": b}, at=[300.0], draws=300).pairs[0]
    assert paired.paired == "3 shared seeds"
    for c in b:
        c.labels["seed"] = int(c.labels["seed"]) + 10
    apart = scaling.compare({"a": a, "b": b}, at=[300.0], draws=300).pairs[0]
    assert apart.paired == "nothing"
    truth = float(FAST(300.0) - SLOW(300.0))
    for pair in (paired, apart):
        assert pair.difference[0].low <= truth <= pair.difference[0].high
    assert paired.difference[0].high - paired.difference[0].low < apart.difference[0].high - apart.difference[0].low
    assert paired.asymptote.status == "ok"
    assert paired.exponent.low <= 0 <= paired.exponent.high


def test_items_are_paired_in_the_population() -> None:
    rng = np.random.default_rng(7)
    ease = rng.beta(0.6, 0.6, 400)  # hard and easy items, the same for both
    made = {}
    for name, law in (("a", SLOW), ("b", FAST)):
        share = np.clip(law(C)[:, None] + 0.9 * (ease - ease.mean())[None, :], 0.01, 0.99)
        counts = rng.binomial(8, share)
        made[name] = Curve(compute=C, performance=counts.mean(1) / 8, successes=counts, samples_per_item=8)
    both = {of: scaling.compare(made, at=[200.0], of=of, draws=300).pairs[0] for of in ("benchmark", "population")}
    assert both["population"].paired == "400 shared items"
    width = {of: p.difference[0].high - p.difference[0].low for of, p in both.items()}
    assert width["benchmark"] < width["population"]
    bare = {
        name: Curve(compute=C, performance=c.performance, stderr=np.sqrt(c.performance * (1 - c.performance) / 400))
        for name, c in made.items()
    }
    unpaired = scaling.compare(bare, at=[200.0], of="population", draws=300).pairs[0].difference[0]
    assert width["population"] < 0.7 * (unpaired.high - unpaired.low)


def test_curves_of_one_recipe_that_differ_in_a_setting_are_not_pooled() -> None:
    rng = np.random.default_rng(8)
    mixed = [curve(SLOW, rng, seed=0, temperature=1.0), curve(SLOW, rng, seed=1, temperature=0.6)]
    with pytest.raises(ScalingError, match=r"'a' differ in temperature \(1.0, 0.6\).*factors=\['temperature'\]"):
        scaling.compare({"a": mixed, "b": curve(FAST, rng, seed=0, temperature=1.0)}, draws=100)
    named = scaling.compare({"a": mixed, "b": curve(FAST, rng, temperature=1.0)}, factors=["temperature"], draws=100)
    assert named.factors["temperature"] == {"a": "1.0 / 0.6", "b": "1.0"}


def test_training_settings_are_listed_and_measurement_settings_refused() -> None:
    rng = np.random.default_rng(9)
    recipes = {
        "a": curve(SLOW, rng, staleness=0, max_completion_length=2048, model="7B"),
        "b": curve(FAST, rng, staleness=8, max_completion_length=2048, model="7B"),
    }
    result = scaling.compare(recipes, draws=100)
    assert result.factors == {"staleness": {"a": "0", "b": "8"}}
    assert "factor staleness: a 0, b 8" in result.summary()
    recipes["b"].labels["reward_range"] = "[-1, 1]"
    recipes["a"].labels["reward_range"] = "[0, 1]"
    with pytest.raises(ScalingError, match="measured with different reward_range"):
        scaling.compare(recipes, draws=100)


def test_evaluations_beyond_the_fourth_epoch_and_collapses_are_flagged() -> None:
    rng = np.random.default_rng(10)
    late = curve(FAST, rng, epoch=8.0)
    late.performance[-12:] = 0.1 + rng.normal(0, 0.004, 12)
    result = scaling.compare({"a": curve(SLOW, rng, epoch=2.0), "b": late}, draws=100)
    text = "\n".join(result.flags)
    assert "beyond the fourth epoch" in text
    assert text.count("beyond the fourth epoch") == 1
    assert "collapsed" in text


def test_dense_training_reward_is_marked_and_checked_against_held_out() -> None:
    rng = np.random.default_rng(11)
    held = {"a": curve(SLOW, rng), "b": curve(FAST, rng)}

    def reward(law: Sigmoid) -> Curve:
        x = np.geomspace(5, 2000, 300)
        epochs = x / 1000
        return Curve(
            compute=x, performance=law(x) + rng.normal(0, 0.03, 300), metric="reward", labels={"epoch": epochs}
        )

    result = scaling.compare(held, dense={"a": reward(SLOW), "b": reward(FAST)}, draws=100)
    assert result.dense is not None
    assert result.dense.metric == "reward"
    assert max(c.compute[-1] for f in result.dense.fits.values() for c in f.curves) <= 1000  # first epoch only
    assert any("agree within their intervals" in flag for flag in result.flags)
    swapped = scaling.compare(held, dense={"a": reward(FAST), "b": reward(SLOW)}, draws=100)
    assert any("believe the held-out scores" in flag for flag in swapped.flags)


def test_impossible_comparisons_are_one_line_errors() -> None:
    rng = np.random.default_rng(12)
    a, b = curve(SLOW, rng), curve(FAST, rng)
    other_axis = Curve(compute=C, performance=FAST(C), axis="tokens")
    for call in (
        lambda: scaling.compare({"a": a}),
        lambda: scaling.compare({"a": a, "b": []}),
        lambda: scaling.compare({"a": a, "b": other_axis}),
        lambda: scaling.compare({"a": a, "b": b}, of="everything"),
        lambda: scaling.compare({"a": a, "b": b}, level=2.0),
        lambda: scaling.compare({"a": a, "b": b}, dense={"a": a}, draws=50),
        lambda: scaling.compare([a, b]),
        lambda: scaling.compare({"a": a, "b": 3}),
        lambda: scaling.compare({"a": a, "b": [3]}),
        lambda: scaling.compare({"a": a, "b": b}, margin=-1.0),
        lambda: scaling.compare({"a": a, "b": b}, at=[0.0]),
        lambda: scaling.compare({"a": a, "b": b}, at=[np.nan]),
        lambda: scaling.compare({"a": a, "b": b}, at=[np.inf]),
    ):
        with pytest.raises(ScalingError) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="baseline"):
        scaling.compare({"a": a, "b": b}, baseline="c")


def test_a_recipe_with_too_few_evaluations_is_a_named_result() -> None:
    rng = np.random.default_rng(13)
    result = scaling.compare({"a": curve(SLOW, rng), "b": curve(FAST, rng).before(6.0)}, draws=50)
    assert "b could not be fitted" in result.pairs[0].difference[0].status
    assert any("b was not fitted" in flag for flag in result.flags)
    assert np.isnan(result.table["median"]).all()
    told = result.summary()
    assert "not compared, b could not be fitted" in told
    assert "nan" not in told
    assert "no speed-up" not in told
    seeds = [curve(FAST, rng, seed=s) for s in range(2)] + [curve(FAST, rng, seed=2).before(6.0)]
    several = scaling.compare({"a": curve(SLOW, rng), "b": seeds}, draws=50)
    assert any("1 of 3 have fewer (runs 'run 2')" in flag for flag in several.flags)


def test_where_a_window_does_not_reach_is_extrapolated_on_either_side() -> None:
    rng = np.random.default_rng(15)
    late = curve(FAST, rng)
    late = late.after(100.0)
    statuses = [
        c.status
        for c in scaling.compare({"a": curve(SLOW, rng), "b": late}, at=[20.0, 200.0], draws=50).pairs[0].difference
    ]
    assert statuses == ["extrapolated", "ok"]
    assert len(scaling.compare({"a": curve(SLOW, rng), "b": late}, at=200.0, draws=50).pairs[0].difference) == 1


def test_the_seed_of_a_paired_comparison_is_that_of_every_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import scaling.fitting

    rng, used, plain = np.random.default_rng(16), [], scaling.fitting.fit
    monkeypatch.setattr(scaling.fitting, "fit", lambda *a, **k: used.append(k["seed"]) or plain(*a, **k))
    seeds = {name: [curve(law, rng, seed=s) for s in range(3)] for name, law in (("slow", SLOW), ("fast", FAST))}
    scaling.compare(seeds, at=[200.0], draws=50, seed=40)
    assert len(used) >= 2 + 6
    assert min(used) == 40


def test_the_unit_of_compute_does_not_matter() -> None:
    rng = np.random.default_rng(14)
    a, b = curve(SLOW, rng), curve(FAST, rng)
    small = scaling.compare({"a": a, "b": b}, draws=200).pairs[0]
    large = scaling.compare({"a": a.scaled(1e18), "b": b.scaled(1e18)}, draws=200).pairs[0]
    for x, y in zip(small.contrasts(), large.contrasts()):
        assert y.compute == pytest.approx(1e18 * x.compute, nan_ok=True)
        np.testing.assert_allclose([y.median, y.low, y.high], [x.median, x.low, x.high], rtol=0.02, atol=2e-3)
        assert y.status == x.status


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_pooling_three_seeds_covers_at_its_level(between: float) -> None:
    rng, hits, studies = np.random.default_rng(15), 0, 400
    for _ in range(studies):
        estimates = rng.normal(0, between, 3) + rng.normal(0, 1, 3)
        draws = pool([e + rng.standard_normal(300) for e in estimates], rng)
        low, high = np.quantile(draws, [0.05, 0.95])
        hits += low <= 0 <= high
    assert 0.85 <= hits / studies <= 0.995


def test_an_asymptote_that_is_not_identified_is_said_once() -> None:
    rng = np.random.default_rng(5)
    short = {name: _first(curve(law, rng, sd=0.02), 12) for name, law in (("slow", SLOW), ("fast", FAST))}
    text = scaling.compare(short, draws=100).summary()
    assert text.count("not identified") == 1 and "asymptote: not identified (" in text
    assert "exponent:  not compared without a common asymptote" in text


def _first(whole: Curve, count: int) -> Curve:
    return Curve(
        compute=whole.compute[:count], performance=whole.performance[:count], axis=whole.axis, run_id=whole.run_id
    )
