"""Accuracy metrics from per-item success counts, each with its standard error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_level
from scaling.errors import ScalingError

__all__ = ["avg_at_k", "blind_guess_pass_at_k", "mean_interval", "pass_at_k", "standard_error"]


def pass_at_k(successes: ArrayLike, n: int, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k of each item from ``n`` samples.

    pass@k = 1 - C(n - c, k) / C(n, k), Chen et al., arXiv:2107.03374 eq. 1.

    Args:
        successes: correct samples c per item, shape ``(n_items,)``.
        n: samples per item [1].
        k: samples a problem may use, 1 <= k <= n [1].

    Returns:
        pass@k per item, shape ``(n_items,)``.

    Raises:
        ScalingError: k > n (no unbiased estimate exists), or counts outside 0..n.

    Example:
        >>> pass_at_k([0, 1, 4], n=4, k=2).tolist()
        [0.0, 0.5, 1.0]
    """
    c = np.asarray(successes, dtype=float)
    if not 1 <= k <= n:
        raise ScalingError(
            f"pass@k needs 1 <= k <= samples per item, got k={k} with {n} samples: sample more or lower k"
        )
    if c.size and (np.nanmin(c) < 0 or np.nanmax(c) > n):
        raise ScalingError(f"success counts must lie in 0..{n}, got {np.nanmin(c):g}..{np.nanmax(c):g}")
    out = np.ones_like(c)
    for i in range(k):  # product form: exact, no overflow
        out *= np.clip((n - c - i) / (n - i), 0.0, None)
    return 1.0 - out


def avg_at_k(successes: ArrayLike, n: int) -> NDArray[np.float64]:
    """Mean accuracy of each item over its ``n`` samples, shape ``(n_items,)``; the mean over items is pass@1.

    Example:
        >>> avg_at_k([0, 1, 4], n=4).tolist()
        [0.0, 0.25, 1.0]
    """
    return np.asarray(successes, dtype=float) / n


def standard_error(per_item: ArrayLike) -> float:
    """Standard error of the mean over items: sd / sqrt(n_items), items and samples both counted as random.

    This is the error for the *population* the items were drawn from. NaN below two items.

    Example:
        >>> round(standard_error([0.0, 0.25, 1.0, 0.75]), 4)
        0.2282
    """
    x = np.asarray(per_item, dtype=float)
    return float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan")


def sampling_error(successes: ArrayLike, n: int) -> float:
    """Standard error of pass@1 on *these* items from sampling completions only (the benchmark estimand).

    sqrt(sum_i p_i (1 - p_i) / (n - 1)) / n_items, the unbiased within-item variance; for n = 1 it is not identified
    from one sample and the binomial upper bound sqrt(p (1 - p) / n_items) is returned.
    """
    c = np.asarray(successes, dtype=float)
    p = c / n
    if n == 1:
        mean = p.mean() if p.size else float("nan")
        return float(np.sqrt(mean * (1 - mean) / max(p.size, 1)))
    return float(np.sqrt((p * (1 - p) / (n - 1)).sum()) / max(p.size, 1))


def mean_interval(values: ArrayLike, *, level: float = 0.9) -> tuple[float, float]:
    """Student's t interval of a mean: mean +- t_(n-1) s / sqrt(n).

    Args:
        values: independent values, shape ``(n,)``, n >= 2.
        level: nominal coverage, in (0, 1).

    Raises:
        ScalingError: fewer than two values, or a level outside (0, 1).

    Example:
        >>> low, high = mean_interval([0.1, 0.2, 0.3])
        >>> round(low, 3), round(high, 3)
        (0.031, 0.369)
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or x.size < 2:
        raise ScalingError(f"an interval of a mean needs at least 2 values, got {x.size}")
    check_level(level)
    half = float(stdtrit(x.size - 1, 0.5 + level / 2) * x.std(ddof=1) / np.sqrt(x.size))
    return float(x.mean()) - half, float(x.mean()) + half


def blind_guess_pass_at_k(guess_rate: float, k: int) -> float:
    """pass@k of blind guessing with success rate ``guess_rate`` a try: 1 - (1 - g)^k.

    Example:
        >>> blind_guess_pass_at_k(0.25, k=2)
        0.4375
    """
    if not 0 <= guess_rate <= 1:
        raise ScalingError(f"guess rate must lie in [0, 1], got {guess_rate}")
    return 1.0 - (1.0 - guess_rate) ** k
