"""Student-t probabilities of intervals against scipy's distribution function."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtr

from scaling.fitting.tails import interval_probability


@pytest.mark.parametrize("nu", [1, 2, 5, 43, 498])
def test_an_interval_has_scipys_probability_in_the_middle_and_in_both_tails(nu):
    rng = np.random.default_rng(nu)
    ends = np.sort(np.concatenate([rng.normal(0, 3, (4000, 2)), np.exp(rng.uniform(0, 12, (4000, 2)))]), axis=1)
    ends *= rng.choice([-1.0, 1.0], (8000, 1))
    ends.sort(axis=1)
    low, high = ends.T
    upper = low > 0  # the difference of two numbers near one has no digits left there
    want = np.where(upper, stdtr(nu, -low) - stdtr(nu, -high), stdtr(nu, high) - stdtr(nu, low))
    got = interval_probability(low, high, nu)
    sure = want > 1e-6 * np.where(upper, stdtr(nu, -low), stdtr(nu, high))
    np.testing.assert_allclose(
        got[sure & (want > 1e-280)], want[sure & (want > 1e-280)], rtol=2e-3 if nu > 400 else 2e-4
    )
    wide = sure & (high - low > 0.5) & (want > 1e-280)
    assert wide.sum() > 1000
    np.testing.assert_allclose(got[wide], want[wide], rtol=3e-9)


def test_infinite_ends_are_certain_and_an_empty_interval_is_tiny_but_positive():
    low, high = np.array([-np.inf, 0.0, -np.inf, 5e5, 3.0]), np.array([np.inf, np.inf, 0.0, np.inf, 2.0])
    got = interval_probability(low, high, 30)
    np.testing.assert_allclose(got[:3], [1.0, 0.5, 0.5], rtol=1e-9)
    assert (got[3:] > 0).all() and (got[3:] < 1e-100).all()
