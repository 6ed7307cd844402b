"""Whatever the numbers: a named status with float intervals, or a one-line error; never a crash or a warning of ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scaling
from scaling import Curve, ScalingError
from scaling.fitting.status import Status

scores = st.one_of(st.floats(0.0, 1.0), st.just(float("nan")), st.sampled_from([0.0, 1.0, 0.5]))
points = st.lists(
    st.tuples(st.one_of(st.floats(0.0, 1e22), st.sampled_from([0.0, 1.0, 2.0, 3.0])), scores), max_size=14
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(points, st.sampled_from(["ensemble", "sigmoid", "power", "log_linear", "linear_log", "constant"]), st.booleans())
def test_any_points(values, law, reward):
    compute = np.array([v[0] for v in values])
    curve = Curve(compute=compute, performance=[v[1] for v in values], metric="reward" if reward else "pass@1")
    try:
        fit = scaling.fit(curve, law=law, draws=40)
    except ScalingError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(fit.status, Status) and isinstance(fit.summary(), str)
    for name in ("asymptote", "efficiency_exponent", "c_mid", "r_0", "sigma"):
        low, high = fit.interval(name)
        assert isinstance(low, float) and isinstance(high, float) and low <= high
    band = fit.forecast([1.0, 1e23])
    if fit.draws.size:
        assert np.all(band.low <= band.high)
    reach = fit.compute_to_reach(0.7)
    assert np.isnan(reach.median) or 0 <= reach.never <= 1


class _NeedsGradient:
    """What a tensor that requires grad does when it is read."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach first")


BAD = {
    "text": [1.0, "x"],
    "nothing": None,
    "dates": np.arange(2).astype("datetime64[D]"),
    "durations": np.arange(2).astype("timedelta64[h]"),
    "complex": np.array([1.0, 2.0j]),
    "too large": [1, 10**400],
    "tensor": _NeedsGradient(),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("field", ["compute", "performance", "stderr"])
def test_a_curve_of_no_numbers_is_a_one_line_error(name, field):
    if name == "nothing" and field == "stderr":
        return
    with pytest.raises(ScalingError, match=field) as caught:
        Curve(**{"compute": [1.0, 2.0], "performance": [0.1, 0.2], field: BAD[name]})
    assert "\n" not in str(caught.value)


def test_masked_scores_are_missing():
    hidden = np.ma.masked_array([0.1, 99.0, 0.3], mask=[False, True, False])
    assert np.isnan(Curve(compute=[1.0, 2.0, 3.0], performance=hidden).performance[1])


@pytest.mark.parametrize(
    ("counts", "k"), [([[5.0, 1.0]], 4), ([[-1.0, 1.0]], 4), ([[1.0, 1.0]], -4), ([["x", "y"]], 4)]
)
def test_impossible_counts_are_errors(counts, k):
    with pytest.raises(ScalingError, match="successes"):
        Curve(compute=[1.0], performance=[0.5], successes=counts, samples_per_item=k)


def test_the_order_of_points_does_not_matter_at_one_compute_either():
    rng = np.random.default_rng(5)
    x = np.repeat(np.geomspace(10, 2000, 20), 2)
    y = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=120, r_0=0.2)(x) + rng.normal(0, 0.01, x.size)
    fits = [scaling.fit(scaling.Curve(compute=x[p], performance=y[p]), draws=100)
            for p in (np.arange(40), rng.permutation(40), np.argsort(y))]  # fmt: skip
    for other in fits[1:]:
        assert other.draws.tobytes() == fits[0].draws.tobytes()  # NaN is no number, and equal here
