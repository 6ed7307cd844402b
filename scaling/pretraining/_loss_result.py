"""A fitted L(N, D): the law, what it says of losses and of the best size and data, and its intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_level
from scaling.errors import ScalingError, UnknownName
from scaling.words import percent

__all__ = ["NAMES", "LossFit", "LossLaw", "LossOptimum", "losses"]

Array = NDArray[np.float64]
NAMES = ("E", "A", "B", "alpha", "beta")
_FEWEST_DRAWS = 10  # below, their quantiles are no interval


@dataclass(frozen=True)
class LossLaw:
    """``L(N, D) = E + A / N^alpha + B / D^beta`` (arXiv:2203.15556, eq. 2).

    Attributes:
        E: irreducible loss [nats per token, or the unit of the data].
        A: size coefficient [unit of the loss x parameters^alpha].
        B: data coefficient [unit of the loss x tokens^beta].
        alpha: size exponent [1].
        beta: data exponent [1].

    Example:
        >>> law = LossLaw(E=1.8172, A=477.8, B=2143.4, alpha=0.3473, beta=0.3672)
        >>> round(float(law(70e9, 1.4e12)), 2)
        1.97
        >>> size, tokens = law.optimal(5.76e23)
        >>> bool(15 < tokens / size < 25)
        True
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, n_params: ArrayLike, n_tokens: ArrayLike) -> Array:
        """Loss at ``n_params`` [parameters] and ``n_tokens`` [tokens], broadcast together."""
        n, d = np.asarray(n_params, dtype=float), np.asarray(n_tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimal(self, flops: ArrayLike, *, flops_per_param_token: float = 6.0) -> tuple[Array, Array]:
        """Parameters and tokens of least loss for ``flops`` [FLOP] (eq. 4, with C = 6 N D unless told otherwise)."""
        return _optimal(
            np.array([[self.E, self.A, self.B, self.alpha, self.beta]]), flops, flops_per_param_token, row=0
        )


@dataclass(frozen=True)
class LossOptimum:
    """Compute-optimal size and data for one or more budgets; all arrays have the shape of ``flops``.

    Attributes:
        flops: budget [FLOP].
        n_params: best size [parameters]; ``_low`` and ``_high`` are its interval.
        n_tokens: best data [tokens], likewise.
        loss: loss there, likewise.
        level: of the intervals.
        undefined_share: share of draws whose exponents are not both positive, so that no optimum exists; where it
            exceeds what the level leaves out, the interval is (0, inf).

    Example:
        >>> import numpy as np
        >>> from scaling.pretraining import fit_loss
        >>> n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
        >>> best = fit_loss(n, d, 1.8 + 480 / n**0.35 + 2100 / d**0.37, draws=50).optimal(1e21)
        >>> bool(best.n_params_low <= best.n_params <= best.n_params_high)
        True
    """

    flops: Array
    n_params: Array
    n_params_low: Array
    n_params_high: Array
    n_tokens: Array
    n_tokens_low: Array
    n_tokens_high: Array
    loss: Array
    loss_low: Array
    loss_high: Array
    level: float
    undefined_share: float


@dataclass(frozen=True, repr=False)
class LossFit:
    """A fitted loss law with its bootstrap draws and the certificates of its solver.

    Attributes:
        law: the estimate, the global optimum on all points.
        draws: bootstrap optima, shape ``(draws, 5)``, columns E, A, B, alpha, beta.
        status: ``"ok"``, or what the data do not determine, in words.
        objective: log-Huber objective of ``law``, summed over points.
        objectives: the same of every draw on its own resample, shape ``(draws,)``.
        counts: how often each point is in each resample, shape ``(draws, n_points)``, points in the order given.
        delta: Huber threshold [ln loss].
        certificates: of the draws: ``decrement`` (predicted relative decrease left), ``basins`` (local optima met),
            ``at_zero`` (E at zero), each ``(draws,)``.
        retried: whether every draw was retried from other draws' optima.

    Example:
        >>> import numpy as np
        >>> from scaling.pretraining import fit_loss
        >>> n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
        >>> fit = fit_loss(n, d, 1.8 + 480 / n**0.35 + 2100 / d**0.37, draws=50)
        >>> fit.identified
        True
    """

    law: LossLaw
    draws: Array
    status: str
    objective: float
    objectives: Array
    counts: NDArray[np.int16]
    delta: float
    certificates: dict[str, NDArray] = field(default_factory=dict)
    retried: bool = False

    @property
    def identified(self) -> bool:
        """Whether the data determine all five parameters."""
        return self.status == "ok"

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Percentile interval of E, A, B, alpha, beta, or of a = beta/(alpha+beta), b = alpha/(alpha+beta).

        With fewer than 10 draws there is none: (-inf, inf).

        Raises:
            UnknownName: no such parameter.
            ScalingError: ``level`` not in (0, 1).
        """
        check_level(level)
        columns = dict(zip(NAMES, self.draws.T))
        total = columns["alpha"] + columns["beta"]
        columns |= {"a": columns["beta"] / total, "b": columns["alpha"] / total}  # N* ~ C^a, D* ~ C^b
        if name not in columns:
            raise UnknownName(f"parameter must be one of {', '.join(columns)}, got {name!r}")
        if len(self.draws) < _FEWEST_DRAWS:
            return -np.inf, np.inf
        low, high = _band(columns[name], level)
        return float(low), float(high)

    def predict(self, n_params: ArrayLike, n_tokens: ArrayLike, *, level: float = 0.9) -> tuple[Array, Array, Array]:
        """Expected loss and its interval: (estimate, low, high), in the broadcast shape of the inputs."""
        check_level(level)
        n, d = np.broadcast_arrays(np.asarray(n_params, dtype=float), np.asarray(n_tokens, dtype=float))
        if not (np.all(n > 0) and np.all(d > 0)):
            raise ScalingError("n_params and n_tokens must be > 0")
        low, high = _band(losses(self.draws, n, d), level)
        return self.law(n, d), low, high

    def optimal(self, flops: ArrayLike, *, level: float = 0.9, flops_per_param_token: float = 6.0) -> LossOptimum:
        """Compute-optimal parameters and tokens for ``flops`` [FLOP], with intervals (arXiv:2203.15556, eq. 4).

        Example:
            >>> import numpy as np
            >>> from scaling.pretraining import fit_loss
            >>> rng = np.random.default_rng(0)
            >>> n, d = 10 ** rng.uniform(7.5, 10, 60), 10 ** rng.uniform(9, 11.5, 60)
            >>> loss = LossLaw(E=1.8, A=480, B=2100, alpha=0.35, beta=0.37)(n, d) * np.exp(rng.normal(0, 0.003, 60))
            >>> best = fit_loss(n, d, loss, draws=200).optimal(1e22)
            >>> bool(best.n_params_low < best.n_params < best.n_params_high)
            True
        """
        check_level(level)
        budget = np.asarray(flops, dtype=float)
        if not np.all(np.isfinite(budget) & (budget > 0)):
            raise ScalingError("flops must be finite and > 0")
        size, tokens = self.law.optimal(budget, flops_per_param_token=flops_per_param_token)
        valid = (self.draws[:, 3] > 0) & (self.draws[:, 4] > 0) & (self.draws[:, 1] > 0) & (self.draws[:, 2] > 0)
        undefined = 1.0 - float(valid.mean())
        if undefined > 1.0 - level:
            n_band = d_band = loss_band = (np.zeros_like(budget), np.full_like(budget, np.inf))
        else:
            rows = self.draws[valid]
            n, d = _optimal(rows, budget, flops_per_param_token)
            n_band, d_band, loss_band = (_band(x, level) for x in (n, d, losses(rows, n, d)))
        return LossOptimum(
            budget,
            size,
            *n_band,
            tokens,
            *d_band,
            self.law(size, tokens),
            *loss_band,
            level=level,
            undefined_share=undefined,
        )

    def summary(self, *, level: float = 0.9) -> str:
        """The parameters with intervals, the verdict and the solver's certificates, as text."""
        lines = [f"L(N, D) = E + A/N^alpha + B/D^beta   {self.counts.shape[1]} points, Huber delta {self.delta:g}"]
        for name in (*NAMES, "a", "b"):
            value = self._value(name)
            low, high = self.interval(name, level)
            note = {"a": "   N* grows as C^a", "b": "   D* grows as C^b"}.get(name, "")
            told = (
                f"{percent(level)} interval {low:.5g} to {high:.5g}"
                if np.isfinite([low, high]).all()
                else "no interval"
            )
            lines.append(f"  {name:<6}{value:>12.5g}   {told}{note}")
        lines.append(f"  verdict: {'identified' if self.identified else self.status}")
        decrement, basins = self.certificates["decrement"], self.certificates["basins"]
        lines.append(
            f"  {len(self.draws)} resamples, each at its own global optimum: largest predicted decrease left"
            f" {decrement.max():.0e} relative; {np.mean(basins > 1):.1%} of them met more than one basin"
        )
        return "\n".join(lines)

    def _value(self, name: str) -> float:
        total = self.law.alpha + self.law.beta
        return {"a": self.law.beta / total, "b": self.law.alpha / total}.get(name, getattr(self.law, name, np.nan))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self.law, name):.4g}" for name in NAMES)
        return f"LossFit({values}; {'identified' if self.identified else self.status})"


def losses(table: Array, n_params: Array, n_tokens: Array) -> Array:
    """L(N, D) of every row of ``table`` (columns E, A, B, alpha, beta), shape ``(rows, *shape)``.

    In logs: where a coefficient is 0 its exponent is anything, and 0 x infinity would be no number.
    """
    e, a, b, alpha, beta = (column.reshape(-1, *[1] * np.ndim(n_params)) for column in table.T)
    with np.errstate(divide="ignore", over="ignore"):
        return e + np.exp(np.log(a) - alpha * np.log(n_params)) + np.exp(np.log(b) - beta * np.log(n_tokens))


def _optimal(
    table: Array, flops: ArrayLike, flops_per_param_token: float, row: int | None = None
) -> tuple[Array, Array]:
    """Best N and D per row of ``table`` (leading axis, or just one row) and budget."""
    c = np.asarray(flops, dtype=float) / flops_per_param_token
    _, a, b, alpha, beta = (column.reshape(-1, *[1] * c.ndim) for column in table.T)
    with np.errstate(all="ignore"):
        log_n = (np.log(alpha * a) - np.log(beta * b) + beta * np.log(c)) / (alpha + beta)
        n = np.exp(log_n)
        d = c / n
    return (n, d) if row is None else (n[row], d[row])


def _band(values: Array, level: float) -> tuple[Array, Array]:
    tail = (1.0 - level) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return low, high
