from __future__ import annotations

import numpy as np

from scaling import Curve
from scaling.fitting.noise import noise_scale, sampling_errors

from .simulate import LAW


def test_binomial_errors_come_from_counts_with_the_items_fixed():
    rng = np.random.default_rng(0)
    p = rng.beta(0.8, 0.8, 400)
    hits = rng.binomial(8, p, (300, 400))
    c = Curve(compute=np.arange(300.0), performance=hits.mean(1) / 8, successes=hits, samples_per_item=8)
    want = np.sqrt((p * (1 - p)).mean() / 8 / 400)
    assert abs(np.mean(sampling_errors(c)) / want - 1) < 0.03
    assert abs(np.std(c.performance) / want - 1) < 0.15  # and that is what the scores do
    assert sampling_errors(Curve(compute=[1.0], performance=[0.5])) is None


def test_training_noise_levels_the_errors_and_its_absence_leaves_them():
    rng = np.random.default_rng(1)
    compute = np.linspace(200, 10000, 60)
    x = np.log(compute) - np.log(compute).mean()
    se = np.where(np.arange(60) % 2, 0.02, 0.002)
    quiet = noise_scale(x, LAW(compute) + rng.normal(0, se), se)
    noisy = noise_scale(x, LAW(compute) + rng.normal(0, np.hypot(se, 0.02)), se)
    assert quiet.max() / quiet.min() > 5
    assert noisy.max() / noisy.min() < 2.5
