"""`Fit`: a fitted law with its uncertainty and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_level
from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.fitting.bootstrap import ar_noise
from scaling.fitting.data import Prepared, in_unit_interval, prepare, within_groups
from scaling.fitting.draws import at_compute, drift_at, drifting, quantile, reach
from scaling.fitting.identify import Verdict, judge
from scaling.fitting.items import item_error
from scaling.fitting.profile import profile_interval
from scaling.fitting.solver import Solution
from scaling.fitting.status import Status
from scaling.forecast import Forecast, Reach
from scaling.laws import LAWS, Constant, Law

__all__ = ["Fit"]

Array = NDArray[np.float64]
_AT_ONCE = 5000  # places forecast together
_PARAMETERS = frozenset(name for law in LAWS.values() for name in law.parameter_names())


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law, its draws and its verdict; made by `scaling.fit`.

    Attributes:
        law: the law at its (weighted) least squares optimum; for the ensemble, its leading saturating member.
        draws: structured array, one row a draw: ``law``, the parameters (NaN where the law has none), ``rho``, ``sigma``,
            ``drift`` (`scaling.fitting.drift`; 0 where the draw follows its law).
        curves: what was fitted.
        window: (low, high) compute that was fitted.
        form: ``"ensemble"`` or the name of the law asked for.
        weights: law -> weight in the mixture.
        axis: the compute axis.
        metric: what the score is.
        seed: of the draws.
        skipped: reason -> evaluations left out.
        notes: what was done to the data, one line each.
        certificate: of the optimum: gradient norm, bounds hit, number of basins; None for a refused fit.
        new_seed: draws of the law of one further seed, where several were fitted.
        n_items: items of the benchmark where given.
        fit_after: compute before which evaluations were left out, or None.
        options: what `scaling.fit` was called with, for refits.
        given_verdict: the verdict of a refused or a loaded fit, which is not found anew.
        prepared: the curves as the solver takes them, kept for the verdict; made anew where it is None.

    Example:
        >>> import scaling
        >>> compute = np.linspace(20.0, 1000.0, 50)
        >>> law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=100.0, r_0=0.2)
        >>> noise = np.random.default_rng(1).normal(0.0, 0.005, 50)
        >>> fit = scaling.fit(Curve(compute=compute, performance=law(compute) + noise), draws=300)
        >>> str(fit.status)
        'identified'
        >>> band = fit.forecast([4000.0])
        >>> bool(band.low[0] < law(4000.0) < band.high[0])
        True
        >>> fit.compute_to_reach(0.9).never
        1.0
        >>> fit.gain(by=2000.0, more_than=0.1)
        0.0
    """

    law: Law
    draws: NDArray[Any]
    curves: tuple[Curve, ...]
    window: tuple[float, float]
    form: str
    weights: dict[str, float]
    axis: str
    metric: str
    seed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    certificate: Solution | None = None
    new_seed: NDArray[Any] | None = None
    n_items: int | None = None
    fit_after: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    given_verdict: Verdict | None = None
    prepared: Prepared | None = None

    @classmethod
    def refused(cls, data: Prepared, verdict: Verdict, **known: Any) -> Fit:
        """A fit that could not be made, with the reason as its status."""
        first = data.curves[0]
        empty = np.zeros(0, dtype=[("law", "U12"), ("rho", float), ("sigma", float)])
        return cls(law=Constant(float("nan")), draws=empty, curves=data.curves, window=data.window, weights={}, axis=first.axis,
                   metric=first.metric, skipped=data.skipped, notes=data.notes, given_verdict=verdict, **known)  # fmt: skip

    @cached_property
    def verdict(self) -> Verdict:
        """Status and reasons; found on first use, from the draws and a back-test."""
        if self.given_verdict is not None:
            return self.given_verdict
        start, end = self.simulate([max(self.window[0], 1e-9 * self.window[1]), self.window[1]]).T
        return judge(
            self.draws, self.weights, self.data, self.options.get("limits", {}), gain=float(np.median(end - start))
        )

    @cached_property
    def data(self) -> Prepared:
        """The curves as the solver takes them."""
        return self.prepared or prepare(self.curves, fit_after=self.fit_after)

    @cached_property
    def _within_groups(self) -> float:
        return within_groups(self.curves, self.fit_after)

    @property
    def status(self) -> Status:
        """The verdict's name."""
        return self.verdict.status

    @property
    def message(self) -> str:
        """The verdict's reasons."""
        return self.verdict.message

    @property
    def identified(self) -> bool:
        """Whether the data determine the asymptote."""
        return self.status == Status.IDENTIFIED

    def __repr__(self) -> str:
        if not self.draws.size:
            return f"Fit({self.form}: {self.status}; {self.message})"
        low, high = self.interval("asymptote")
        if self.identified:
            return f"Fit({self.form}: asymptote in [{low:.3f}, {high:.3f}] (90 %), identified)"
        if self.status == Status.NOT_IDENTIFIED and np.isfinite(low):
            return f"Fit({self.form}: asymptote not identified, at least {low:.3f} (95 %))"
        return f"Fit({self.form}: {self.status})"

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Equal-tailed interval of a parameter over the draws of the laws that have it.

        Of the asymptote, saturating laws alone, in draws that follow them: a drift has no end.
        ``(-inf, inf)`` where no draw has the parameter.

        Raises:
            UnknownName: no law has such a parameter.
        """
        check_level(level)
        if name not in _PARAMETERS and name not in ("rho", "sigma", "drift"):
            raise UnknownName(
                f"parameter must be one of {', '.join(sorted(_PARAMETERS | {'rho', 'sigma', 'drift'}))}, got {name!r}"
            )
        if name not in (self.draws.dtype.names or ()):
            return -np.inf, np.inf
        values = self.draws[name][~drifting(self.draws)] if name == "asymptote" else self.draws[name]
        values = values[~np.isnan(values)]
        if not values.size:
            return -np.inf, np.inf
        low, high = quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return low, high

    def forecast(
        self, compute: ArrayLike, *, level: float = 0.9, of: str = "benchmark", noise: str = "curve"
    ) -> Forecast:
        """Band of performance at ``compute`` [unit of the axis].

        Args:
            compute: where, any shape; flattened.
            level: nominal coverage, pointwise.
            of: ``"benchmark"``: the score on these very items; ``"population"``: on all items they are a sample of.
            noise: ``"curve"``: the law and the curve's drift about it; ``"observation"``: one evaluation of one run.

        Raises:
            ScalingError: an option is not one of the above, or the number of items is not known.
        """
        check_level(level)
        if of not in ("benchmark", "population"):
            raise ScalingError(f"of must be 'benchmark' or 'population', got {of!r}")
        if noise not in ("curve", "observation"):
            raise ScalingError(f"noise must be 'curve' or 'observation', got {noise!r}")
        c = _compute(compute)
        if not self.draws.size:
            nothing = np.full(c.shape, np.nan)
            ends = np.full(c.shape, -np.inf), np.full(c.shape, np.inf)
            return Forecast(c, nothing, *ends, level, self.axis, of, noise, self.message)
        note = ""
        if of == "population":
            error = item_error(self.curves, self.n_items)
            note = f"item error from {error.source}, {error.n_items} items"
        levels = [(1 - level) / 2, 0.5, (1 + level) / 2]
        if noise == "curve" and c.size > _AT_ONCE:  # draws x compute would not fit into memory
            parts = np.array_split(c, -(-c.size // _AT_ONCE))
            low, median, high = np.concatenate(
                [np.quantile(self.simulate(x, of=of), levels, axis=0) for x in parts], axis=1
            )
        else:
            low, median, high = np.quantile(self.simulate(c, of=of, noise=noise), levels, axis=0)
        return Forecast(c, median, low, high, level, self.axis, of, noise, note)

    def simulate(self, compute: ArrayLike, *, of: str = "benchmark", noise: str = "curve") -> Array:
        """What every draw predicts at ``compute``, shape ``(draws, n)``: for bands of anything made of several scores.

        With ``noise="observation"`` each row is a run's successive evaluations, autocorrelated as the fitted ones, so that e.g.
        the mean of the last five evaluations is the mean along the row.

        Args:
            compute: where, shape ``(n,)``, ascending [unit of the axis].
            of: as in `forecast`.
            noise: as in `forecast`.
        """
        c = _compute(compute)
        rng = np.random.default_rng([self.seed, 1])
        draws = self.new_seed if noise == "observation" and self.new_seed is not None else self.draws
        values = at_compute(draws, c)
        if drifting(draws).any():
            values = values + drift_at(draws, self.data, c, np.random.default_rng([self.seed, 2]))
        if of == "population":
            values = values + item_error(self.curves, self.n_items).sd(values) * rng.standard_normal((draws.size, 1))
        if noise == "observation" and c.size:
            values = values + ar_noise(draws["rho"], draws["sigma"], c.size, rng)
            if self._within_groups:  # sigma is of means of neighbours
                values = values + self._within_groups * rng.standard_normal(values.shape)
        return np.clip(values, 0.0, 1.0) if in_unit_interval(self.curves[0].metric) else values

    def compute_to_reach(self, score: float, *, level: float = 0.9) -> Reach:
        """Compute at which the law reaches ``score``, with the probability that it never does; the drift about it left out."""
        check_level(level)
        if not isinstance(score, (int, float, np.number)) or np.isnan(score):
            raise ScalingError(f"the score to reach must be a number, got {score!r}")
        if not self.draws.size:
            return Reach(float(score), np.nan, 0.0, np.inf, level, np.nan, self.axis)
        values = reach(self.draws, score)
        low, median, high = quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
        return Reach(float(score), median, low, high, level, float(np.isinf(values).mean()), self.axis)

    def gain(self, *, by: float, more_than: float = 0.0, since: float | None = None) -> float:
        """Probability that the curve gains more than ``more_than`` from ``since`` (the last evaluation) to ``by``; NaN if refused.

        The stop-or-continue question.
        """
        if not self.draws.size:
            return float("nan")
        if not np.isfinite(more_than):
            raise ScalingError(f"more_than must be a gain in score, got {more_than!r}")
        values = self.simulate([self.window[1] if since is None else since, by])
        return float(np.mean(values[:, 1] - values[:, 0] > more_than))

    def profile(self, *, at: float = np.inf, level: float = 0.9, rho: float | None = None) -> tuple[float, float]:
        """Profile-likelihood interval of the score at compute ``at`` (``inf``: the asymptote), beside that of the draws.

        Args:
            at: compute [unit of the axis].
            level: nominal coverage.
            rho: lag-1 autocorrelation of the noise; the median over the draws by default, and then taken as known, so that
                this interval is too narrow where the noise is strongly autocorrelated.

        Raises:
            ScalingError: the fit was refused, is of several curves, or its law has no asymptote.
        """
        check_level(level)
        if not self.draws.size or len(self.curves) > 1:
            raise ScalingError(f"a profile needs a fit of one curve, this is of {len(self.curves)} ({self.status})")
        if not at > 0 or not (rho is None or -1 < rho < 1):
            raise ScalingError(f"a profile needs at > 0 and rho between -1 and 1, got at={at}, rho={rho}")
        if np.isinf(at) and not self.law.saturating:
            raise ScalingError(f"{type(self.law).__name__} has no asymptote to profile; give at=...")
        data = self.data
        series = (data.series if self.law.starts_at_zero else data.positive)[0]
        rho = float(np.median(self.draws["rho"])) if rho is None else rho
        return profile_interval(type(self.law), series, at=at, rho=rho, level=level, bounds=self.options.get("limits"))

    def summary(self, full: bool = False) -> str:
        """The fit in words; ``full`` adds how it moves with the fitted window."""
        from scaling.fitting.summary import summarise

        return summarise(self, full=full)

    def save(self, path: str | Path) -> None:
        """Write the fit, draws included, to one ``.npz`` file (arrays and JSON, no pickle)."""
        from scaling.fitting.storage import save_fit

        save_fit(self, path)


def _compute(values: ArrayLike) -> Array:
    """Places to forecast, shape ``(n,)``: NaN and negative ones would come back as NaN."""
    try:
        c = np.ravel(np.asarray(values, dtype=float))
    except (TypeError, ValueError) as error:
        raise ScalingError(f"compute must be numbers, got {values!r}") from error
    if not np.all(c >= 0):
        raise ScalingError(f"compute to forecast must be >= 0, got {c[~(c >= 0)][0]:g}")
    return c
