"""The result of a joint fit over sizes: the law, its draws, its verdict, and the error of leaving each size out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_level
from scaling.errors import ScalingError, UnknownName
from scaling.forecast import Forecast
from scaling.pretraining._joint_data import JointData
from scaling.words import percent

__all__ = ["HeldOutSize", "JointFit"]

Array = NDArray[np.float64]
FEW_SIZES = 5  # below it, everything across sizes is exploratory

_FORMULA = {
    "log_linear": "ln L(N, C) = -k(N) ln C + E(N), k(N) = K_max / (1 + N_0/N), L = 1 - score",
    "sigmoid": "R(N, C) = R_0(N) + (A(N) - R_0(N)) / (1 + (C_mid(N)/C)^B), logit A and ln C_mid linear in ln N",
}


@dataclass(frozen=True)
class HeldOutSize:
    """How well a size is predicted by a fit to the other sizes.

    Attributes:
        params: the size left out [parameters].
        points: its evaluations.
        rmse: error of the prediction that saw nothing of this size.
        bias: its mean (predicted - measured).
        inside: share of the evaluations within the 90 % band of the expected score.
        anchored_rmse: error once its first evaluation fixes its level. This uses the size's own data: not a prediction.
        baseline_rmse: error of the nearest other size's scores at equal compute: no model.
        extrapolates: the size lies outside the others.

    Example:
        >>> import numpy as np, scaling
        >>> compute = np.geomspace(1e17, 1e20, 20)
        >>> curves = {}
        >>> for n in (5e8, 2e9, 7e9, 2e10, 7e10):
        ...     loss = 0.9 * (compute / 1e17) ** (-0.15 / (1 + 15e9 / n))
        ...     curves[n] = [scaling.Curve(compute=compute, performance=1 - loss, axis="total_flops")]
        >>> len(scaling.fit_joint(curves, draws=20).held_out) > 0
        True
    """

    params: float
    points: int
    rmse: float
    bias: float
    inside: float
    anchored_rmse: float
    baseline_rmse: float
    extrapolates: bool


@dataclass(frozen=True, repr=False, eq=False)
class JointFit:
    """A law over sizes with its draws, its verdict and its leave-one-size-out errors.

    Attributes:
        law: `JointLogLinear` (``.k_max``, ``.n_0``) or `JointSigmoid`.
        draws: parameter -> bootstrap values, each ``(draws,)``.
        data: the evaluations fitted.
        status: ``"ok"``, or what is not identified, in words.
        rmse: root mean square residual of the score.
        r_squared: pooled over sizes; mostly differences between sizes, no evidence of a good fit within them.
        size_spread: standard deviation of whole sizes around the law, in each of its local parameters.
        held_out: leave-one-size-out errors.
        notes: what must be said beside the numbers.

    Example:
        >>> import numpy as np, scaling
        >>> compute = np.geomspace(1e17, 1e20, 20)
        >>> curves = {}
        >>> for n in (5e8, 2e9, 7e9, 2e10, 7e10):
        ...     loss = 0.9 * (compute / 1e17) ** (-0.15 / (1 + 15e9 / n))
        ...     curves[n] = [scaling.Curve(compute=compute, performance=1 - loss, axis="total_flops")]
        >>> round(scaling.fit_joint(curves, draws=20, held_out=False).law.k_max, 2)
        0.15
    """

    law: Any
    draws: Mapping[str, Array]
    data: JointData
    status: str
    rmse: float
    r_squared: float
    size_spread: tuple[float, ...]
    held_out: tuple[HeldOutSize, ...]
    notes: tuple[str, ...]
    _theta: Array = field(default_factory=lambda: np.zeros((0, 0)))
    _levels: Array = field(default_factory=lambda: np.zeros((0, 0)))
    _seed: int = 0

    @property
    def identified(self) -> bool:
        """Whether the data determine the law's parameters."""
        return self.status == "ok"

    @property
    def exploratory(self) -> bool:
        """Whether there are too few sizes for more than a look."""
        return len(self.data.params) < FEW_SIZES

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Percentile interval of a parameter; infinite where the search ran into its bound.

        Raises:
            UnknownName: no such parameter.
            ScalingError: ``level`` not in (0, 1).
        """
        if name not in self.draws:
            raise UnknownName(f"parameter must be one of {', '.join(self.draws)}, got {name!r}")
        low, high = band(self.draws[name], level)
        if name in ("k_max", "n_0"):
            bound_low, bound_high = np.exp(type(self.law).limits(self.data)[("k_max", "n_0").index(name)])
            runaway = self.status.startswith("k_max and n_0 not identified")
            low = 0.0 if low <= 1.01 * bound_low else low
            high = np.inf if high >= 0.99 * bound_high or runaway else high
        return float(low), float(high)

    def asymptote(self, params: float, *, level: float = 0.9) -> tuple[float, float, float]:
        """(estimate, low, high) of A(N) for the joint sigmoid.

        Raises:
            ScalingError: the law has no asymptote.
        """
        if not hasattr(self.law, "asymptote"):
            raise ScalingError(f"the {self.law.name} law has no asymptote: fit_joint(..., law='sigmoid')")
        draws = 1 / (1 + np.exp(-self._local(float(params))[:, 0]))
        low, high = band(draws, level)
        return self.law.asymptote(params), float(low), float(high)

    def forecast(self, params: float, compute: ArrayLike, *, level: float = 0.9) -> Forecast:
        """Expected score of a size at ``compute``, with its band.

        A fitted size keeps its own level (E(N) or R_0(N)). For any other size the level follows the straight line of
        the fitted levels in ln N, with their scatter about it, and the size deviates from the law as the fitted ones
        do.

        Args:
            params: model size [parameters].
            compute: RL compute [unit of the axis], > 0.
            level: of the band.
        """
        c = np.atleast_1d(np.asarray(compute, dtype=float))
        if not (np.all(np.isfinite(c)) and np.all(c >= 0) and (np.all(c > 0) or not type(self.law).needs_positive)):
            raise ScalingError("compute must be finite and > 0 (a law in ln C has no value at 0)")
        if not 0 < params < np.inf:
            raise ScalingError(f"params must be finite and > 0 parameters, got {params!r}")
        values = self.values(float(params), c)
        low, high = band(values, level)
        return Forecast(c, np.median(values, axis=0), low, high, level, self.data.axis)

    def _local(self, params: float) -> Array:
        local = type(self.law).local_at(self._theta, self.data, params)
        if self._row(params) is not None:
            return local
        rng = self._rng(params, 1)
        spread = rng.standard_t(max(len(self.data.params) - 2, 2), size=local.shape) * np.array(self.size_spread)
        return local + spread

    def _rng(self, params: float, purpose: int) -> np.random.Generator:
        """Randomness of one new size: the same whenever it is asked for, independent of every other size's."""
        return np.random.default_rng([self._seed, purpose, round(params)])

    def _row(self, params: float) -> int | None:
        hit = np.flatnonzero(np.isclose(self.data.params, params, rtol=1e-6))
        return int(hit[0]) if hit.size else None

    def values(self, params: float, compute: Array, level: Array | None = None) -> Array:
        """Draws of the expected score of a size, shape ``(draws, n)``.

        Args:
            params: model size [parameters].
            compute: RL compute, shape ``(n,)`` [unit of the axis].
            level: the size's level in each draw, shape ``(draws,)``; default: its own, or the trend's where it has none.
        """
        law, local = type(self.law), self._local(params)
        if level is None:
            level = self._level(params)
        return law.predict(local, self._theta, level, self.data, compute)

    def _level(self, params: float) -> Array:
        """Level of a size in each draw: its own, or the trend's with the scatter about it."""
        row = self._row(params)
        if row is not None:
            return self._levels[:, row]
        law = type(self.law)
        n = np.log(self.data.params)
        design = np.stack([np.ones_like(n), n - n.mean()], axis=1)
        values = law.link(self._levels)
        coefficients = values @ np.linalg.pinv(design).T
        rest = values - coefficients @ design.T
        freedom = max(n.size - 2, 1)
        at = np.array([1.0, np.log(params) - n.mean()])
        leverage = float(at @ np.linalg.inv(design.T @ design) @ at)
        sd = np.sqrt(np.sum(rest**2, axis=1) / freedom)
        noise = self._rng(params, 2).standard_t(freedom, size=len(values))
        return law.unlink(coefficients @ at + sd * noise * np.sqrt(1 + leverage))

    def summary(self, *, level: float = 0.9) -> str:
        """The law with intervals, the verdict and the leave-one-size-out errors, as text."""
        sizes = ", ".join(f"{n:.3g}" for n in self.data.params)
        lines = [_FORMULA[self.law.name]]
        lines.append(f"  {len(self.data.params)} sizes ({sizes} parameters), axis {self.data.axis}")
        for name in type(self.law).parameters:
            low, high = self.interval(name, level)
            lines.append(f"  {name:<20}{self._value(name):>11.4g}   {percent(level)} interval {low:.4g} to {high:.4g}")
        if hasattr(self.law, "asymptote"):
            for n in self.data.params:
                value, low, high = self.asymptote(n, level=level)
                lines.append(f"  A at {n:<15.3g}{value:>11.3f}   {percent(level)} interval {low:.3f} to {high:.3f}")
        verdict = "identified" if self.identified else self.status
        if self.identified and self.exploratory:
            verdict = f"identified if the law holds, which {len(self.data.params)} sizes cannot test"
        lines.append(f"  verdict: {verdict}")
        lines.append(f"  residual {self.rmse:.4f} (pooled R2 {self.r_squared:.4f}: mostly differences between sizes)")
        if self.held_out:
            lines.append(
                "  leaving one size out:        error    bias   in 90 % band   no-model error   refitted level*"
            )
        for out in self.held_out:
            where = "extrapolated" if out.extrapolates else "interpolated"
            lines.append(
                f"    {out.params:<12.3g}{where}{out.rmse:>10.4f}{out.bias:>+8.3f}{out.inside:>12.0%}"
                f"{out.baseline_rmse:>17.4f}{out.anchored_rmse:>18.4f}"
            )
        if self.held_out:
            lines.append("    * given the first evaluation of the size left out, which makes it no prediction")
        lines.extend(f"  note: {note}" for note in self.notes)
        return "\n".join(lines)

    def _value(self, name: str) -> float:
        line = {"asymptote_slope": "logit_asymptote", "c_mid_slope": "log_c_mid"}.get(name)
        return float(getattr(self.law, line)[1] if line else getattr(self.law, name))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self._value(name):.4g}" for name in type(self.law).parameters)
        return f"JointFit({self.law.name}: {values}; {'identified' if self.identified else self.status})"


def band(values: Array, level: float) -> tuple[Array, Array]:
    """Equal-tailed quantiles of draws along the first axis."""
    check_level(level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
