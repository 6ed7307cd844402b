"""FLOPs of imported steps: rollouts at their mean lengths, for many steps at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.flops import ModelShape, generation_flops, scoring_flops, training_flops

__all__ = ["step_flops"]

Array = NDArray[np.float64]


def step_flops(
    shape: ModelShape, prompt: Array, completion: Array, rollouts: Array, passes: Array, *, lora: bool = False
) -> dict[str, Array]:
    """Model FLOPs of steps, all rollouts of a step at its mean lengths (attention is a little undercounted by that).

    Args:
        shape: the model.
        prompt: prompt tokens of each step [token], shape ``(n_steps,)``, like all that follow.
        completion: sampled tokens of each step [token].
        rollouts: completions of each step [1].
        passes: forward passes for old and reference log-probabilities [1].
        lora: only adapters were trained.

    Returns:
        ``generation_flops``, ``training_flops`` and ``scoring_flops`` [FLOP].
    """
    there = np.flatnonzero((rollouts > 0) & (prompt + completion > 0))
    r, p, c = rollouts[there], prompt[there] / rollouts[there], completion[there] / rollouts[there]
    times: dict[str, tuple[Callable[[float, float], float], Array]] = {
        "generation_flops": (lambda p, c: generation_flops(shape, p, c), r),
        "training_flops": (lambda p, c: training_flops(shape, p, c, lora=lora), r),
        "scoring_flops": (lambda p, c: scoring_flops(shape, p, c), r * passes[there]),
    }
    out = {name: np.zeros(len(rollouts)) for name in times}
    for name, (count, how_often) in times.items():
        if how_often.any():
            out[name][there] = how_often * _elementwise(count, p, c)
    return out


def _elementwise(count: Callable[[float, float], float], prompt: Array, completion: Array) -> Array:
    """``count(p, c)`` for many lengths. It is a quadratic in them where attention is full: fitted at six points, checked at
    the largest and the smallest row; with windows, where it is not, each row is counted on its own.
    """
    if len(prompt) > 12:
        a, b = float(prompt.max()) or 1.0, float(completion.max()) or 1.0

        def basis(p: Any, c: Any) -> Array:
            p, c = np.asarray(p) / a, np.asarray(c) / b
            return np.stack([np.ones_like(p), p, c, p * p, p * c, c * c], axis=-1)

        points = np.array([(a, b), (2 * a, b), (a, 2 * b), (2 * a, 2 * b), (3 * a, b), (a, 3 * b)])
        values = np.array([count(*point) for point in points])
        fitted = basis(prompt, completion) @ np.linalg.solve(basis(*points.T), values)
        checked = [int(f(prompt + completion)) for f in (np.argmin, np.argmax)]
        if all(math.isclose(fitted[i], count(prompt[i], completion[i]), rel_tol=1e-9) for i in checked):
            return fitted
    return np.array([count(p, c) for p, c in zip(prompt, completion)])
