"""`Fit`: a fitted law with its uncertainty and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.fitting.data import Prepared
from scaling.fitting.posterior import Posterior
from scaling.forecast import Forecast, Reach
from scaling.laws import LAWS, Constant, Law

__all__ = ["Fit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law, its draws and its verdict."""

    law: Law
    draws: NDArray[Any]
    curves: tuple[Curve, ...]
    window: tuple[float, float]
    status: str
    message: str
    identified: bool
    form: str
    weights: dict[str, float]
    axis: str
    metric: str
    seed: int
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def refused(cls, data: Prepared, form: str, message: str) -> Fit:
        """A fit that could not be made, with the reason as its status."""
        return cls(Constant(float("nan")), np.zeros(0, dtype=[("law", "U12")]), data.curves, data.window, "refused", message, False, form,
                   {}, data.curves[0].axis, data.curves[0].metric, 0, data.skipped, data.notes)  # fmt: skip

    @classmethod
    def build(cls, data: Prepared, form: str, members: dict[str, Posterior], weights: dict[str, float], draws: int, seed: int) -> Fit:
        """Pool the members' draws by weight."""
        share = np.array([weights[m] for m in members])
        counts = np.floor(share * draws).astype(int)
        counts[np.argsort(counts - share * draws)[: draws - counts.sum()]] += 1
        names = sorted({p for m in members.values() for p in m.parameters})
        table = np.full(draws, np.nan, dtype=[(k, float) for k in (*names, "rho", "sigma")] + [("law", "U12")])
        at = 0
        for (name, member), count in zip(members.items(), counts):
            rows = slice(at, at + count)
            for key, values in member.parameters.items():
                table[key][rows] = values[:count]
            table["rho"][rows], table["sigma"][rows], table["law"][rows] = member.rho[:count], member.sigma[:count], name
            at += count
        saturating = {k: w for k, w in weights.items() if LAWS[k].saturating} or weights
        best = max(saturating, key=lambda k: saturating[k])
        law = LAWS[best](**members[best].mode)
        fit = cls(law, table, data.curves, data.window, "ok", "", True, form, weights, data.curves[0].axis, data.curves[0].metric, seed,
                  data.skipped, data.notes)  # fmt: skip
        low, high = fit.interval("asymptote") if any(LAWS[k].saturating for k in members) else (0.0, 0.0)
        if high - low > 0.1:
            object.__setattr__(fit, "identified", False)
            object.__setattr__(fit, "status", "asymptote not identified")
        return fit

    def __repr__(self) -> str:
        return f"Fit({self.form}, {self.law}, identified={self.identified}, status={self.status!r})"

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Equal-tailed interval of a parameter; of the asymptote over saturating laws alone."""
        if self.draws.dtype.names is None or (name not in self.draws.dtype.names or name == "law"):
            if name in {p for law in LAWS.values() for p in law.parameter_names()}:
                return -np.inf, np.inf
            raise UnknownName(f"no parameter {name!r} in this fit")
        values = self.draws[name]
        values = values[np.isfinite(values)]
        if not values.size:
            return -np.inf, np.inf
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _curves_at(self, compute: Array) -> Array:
        out = np.full((self.draws.size, compute.size), np.nan)
        for name in np.unique(self.draws["law"]):
            rows = self.draws["law"] == name
            law = LAWS[str(name)]
            out[rows] = law.evaluate(compute[None, :], **{k: self.draws[k][rows][:, None] for k in law.parameter_names()})
        return out

    def forecast(self, compute: ArrayLike, *, level: float = 0.9, of: str = "benchmark", noise: str = "curve") -> Forecast:
        """Band of performance at ``compute``."""
        c = np.atleast_1d(np.asarray(compute, dtype=float))
        if not self.draws.size:
            nan = np.full(c.shape, np.nan)
            return Forecast(c, nan, np.full(c.shape, -np.inf), np.full(c.shape, np.inf), level, self.axis, of, noise)
        values = self._curves_at(c)
        low, median, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
        return Forecast(c, median, low, high, level, self.axis, of, noise)

    def compute_to_reach(self, score: float, *, level: float = 0.9) -> Reach:
        """Compute at which ``score`` is reached."""
        out = np.full(self.draws.size, np.inf)
        for name in np.unique(self.draws["law"]):
            rows = self.draws["law"] == name
            law = LAWS[str(name)]
            out[rows] = law.solve(np.asarray(score), **{k: self.draws[k][rows] for k in law.parameter_names()})
        low, median, high = np.quantile(out, [(1 - level) / 2, 0.5, (1 + level) / 2], method="inverted_cdf")
        return Reach(score, float(median), float(low), float(high), level, float(np.isinf(out).mean()), self.axis)

    def gain(self, *, by: float, more_than: float = 0.0, since: float | None = None) -> float:
        """Probability that the score gains more than ``more_than`` between ``since`` (default: the last evaluation) and ``by``."""
        start = self.window[1] if since is None else since
        values = self._curves_at(np.array([start, by], dtype=float))
        return float(np.mean(values[:, 1] - values[:, 0] > more_than))

    def summary(self, full: bool = False) -> str:
        """The fit in words."""
        return repr(self)

    def save(self, path: str) -> None:
        """Write the fit, draws included."""
        raise ScalingError("not written yet")
