from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import ScalingError, UnknownName
from scaling.laws import LAWS, Constant, LinearLog, LogLinear, Power, Sigmoid, law_named

unit = st.floats(0.05, 0.95)
laws = st.one_of(
    st.builds(
        lambda r, gain, b, m: Sigmoid(asymptote=r + gain * (1 - r), efficiency_exponent=b, c_mid=m, r_0=r),
        unit, st.floats(0.05, 1.0), st.floats(0.2, 4.0), st.floats(1e-3, 1e6),
    ),
    st.builds(lambda a, b, d: Power(asymptote=a, efficiency_exponent=b, scale=d), unit, st.floats(0.1, 2.0), st.floats(0.1, 50.0)),
    st.builds(lambda e, k: LogLinear(log_error=e, exponent=k), st.floats(-1.0, 3.0), st.floats(0.02, 0.5)),
    st.builds(lambda a, s: LinearLog(intercept=a, slope=s), st.floats(-1.0, 0.5), st.floats(0.01, 0.3)),
)  # fmt: skip


@given(laws, st.floats(0.1, 1e4))
def test_invert_returns_the_compute_that_gives_the_score(law, compute):
    score = float(law(compute))
    back = law.invert(score)
    if np.isfinite(back) and back > 0:
        assert float(law(back)) == pytest.approx(score, abs=1e-9)


@given(laws)
def test_laws_grow_with_compute_and_stay_under_their_asymptote(law):
    values = law(np.geomspace(0.1, 1e6, 50))
    assert np.all(np.diff(values) >= -1e-12)
    if law.saturating:
        assert np.all(values <= law.asymptote + 1e-12)
        assert law.invert(law.asymptote + 1e-3) == np.inf


@given(laws, st.floats(1e-3, 1e3))
def test_rescale_moves_the_axis_and_nothing_else(law, factor):
    moved = type(law)(**{k: float(v) for k, v in law.rescale(law.parameters, np.log(factor)).items()})
    compute = np.geomspace(0.5, 500.0, 7)
    np.testing.assert_allclose(moved(compute * factor), law(compute), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(LAWS))
def test_basis_tangent_and_decode_describe_the_same_function(name):
    law = LAWS[name]
    x = np.linspace(-1.5, 1.5, 9)
    u = np.array([[0.2, -0.4]])[:, : len(law.nonlinear)]
    coefficients = np.array([[0.7, 0.2]])[:, : len(law.linear)]

    def value(u):
        return (law.basis(x, u) * coefficients[:, :, None]).sum(1)[0] + law.offset(x, u)

    parameters = {k: float(np.ravel(v)[0]) for k, v in law.decode(u, coefficients).items()}
    np.testing.assert_allclose(law(**parameters)(np.exp(x)), value(u), rtol=1e-12)
    for i in range(u.shape[1]):  # the derivative by central differences
        step = np.zeros_like(u)
        step[0, i] = 1e-6
        slope = (value(u + step) - value(u - step)) / 2e-6
        np.testing.assert_allclose(law.tangent(x, u)[0, i] * law.amplitude(coefficients)[0], slope, atol=1e-8)


def test_compute_zero_and_the_edges():
    law = Sigmoid(asymptote=0.6, efficiency_exponent=1.0, c_mid=10.0, r_0=0.2)
    assert float(law(0.0)) == pytest.approx(0.2)
    assert law.invert(0.1) == 0.0
    assert Constant(level=0.3).invert(0.4) == np.inf
    with pytest.raises(ScalingError, match="compute must be >= 0"):
        law(-1.0)


def test_an_unknown_law_is_an_error():
    assert law_named("Sigmoid") is Sigmoid
    with pytest.raises(UnknownName, match="log_linear"):
        law_named("gompertz")
