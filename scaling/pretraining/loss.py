"""Pretraining loss against model size and data: ``L(N, D) = E + A / N^alpha + B / D^beta``, with intervals.

`fit_loss` minimises the log-Huber objective of Hoffmann et al. (arXiv:2203.15556, eq. 3) and refits every bootstrap
resample to its own global optimum, so that neither the estimate nor an interval depends on a start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling._checks import check_draws, check_seed
from scaling.errors import ScalingError, UnknownName
from scaling.pretraining._loss_solver import Design, polish
from scaling.pretraining._loss_starts import GlobalSolution, solve

__all__ = ["LossFit", "LossLaw", "LossOptimum", "fit_loss"]

Array = NDArray[np.float64]
NAMES = ("E", "A", "B", "alpha", "beta")

_DELTA = 1e-3  # Huber threshold of the literature [ln loss]; smaller ones are reached from it in steps
_STEP = 10**0.5  # factor between those steps
_FEWEST_POINTS = 8
_FEWEST_DRAWS = 10  # below, their quantiles are no interval
_FEWEST_DISTINCT = (
    6  # a resample with fewer distinct points than this would interpolate five parameters; it is drawn again
)
_MOST_VALUES = 60_000_000  # draws x points held in memory (480 MB)


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
        _check_level(level)
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
        _check_level(level)
        n, d = np.broadcast_arrays(np.asarray(n_params, dtype=float), np.asarray(n_tokens, dtype=float))
        if not (np.all(n > 0) and np.all(d > 0)):
            raise ScalingError("n_params and n_tokens must be > 0")
        e, a, b, alpha, beta = (column.reshape(-1, *[1] * n.ndim) for column in self.draws.T)
        low, high = _band(e + a * n**-alpha + b * d**-beta, level)
        return self.law(n, d), low, high

    def optimal(self, flops: ArrayLike, *, level: float = 0.9, flops_per_param_token: float = 6.0) -> LossOptimum:
        """Compute-optimal parameters and tokens for ``flops`` [FLOP], with intervals (arXiv:2203.15556, eq. 4).

        Example:
            >>> import numpy as np
            >>> rng = np.random.default_rng(0)
            >>> n, d = 10 ** rng.uniform(7.5, 10, 60), 10 ** rng.uniform(9, 11.5, 60)
            >>> loss = LossLaw(E=1.8, A=480, B=2100, alpha=0.35, beta=0.37)(n, d) * np.exp(rng.normal(0, 0.003, 60))
            >>> best = fit_loss(n, d, loss, draws=200).optimal(1e22)
            >>> bool(best.n_params_low < best.n_params < best.n_params_high)
            True
        """
        _check_level(level)
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
            e, a, b, alpha, beta = (column.reshape(-1, *[1] * budget.ndim) for column in rows.T)
            n_band, d_band, loss_band = (_band(x, level) for x in (n, d, e + a * n**-alpha + b * d**-beta))
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
            told = f"{level:.0%} interval {low:.5g} to {high:.5g}" if np.isfinite([low, high]).all() else "no interval"
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


def fit_loss(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    *,
    delta: float = _DELTA,
    draws: int = 4000,
    seed: int = 0,
) -> LossFit:
    """Fit ``L(N, D) = E + A / N^alpha + B / D^beta`` to finished pretraining runs.

    Minimises ``sum_i Huber_delta(ln L_hat(N_i, D_i) - ln L_i)`` (arXiv:2203.15556, eq. 3). As ``delta`` goes to zero
    the objective divided by ``delta`` becomes the sum of absolute deviations: ``delta=1e-9`` is least absolute
    deviations, reached from 1e-3 in steps.

    Args:
        n_params: model sizes [parameters], shape ``(n_runs,)``.
        n_tokens: training tokens [tokens], shape ``(n_runs,)``.
        loss: final losses [nats per token, or any unit], shape ``(n_runs,)``.
        delta: Huber threshold [ln loss].
        draws: bootstrap resamples of runs (pairs), each refitted from its own global start.
        seed: of the resampling. The order of the points does not matter.

    Raises:
        ScalingError: unequal lengths, values that are not finite and positive, fewer than 8 points, or too many.

    Example:
        >>> import numpy as np
        >>> n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
        >>> fit = fit_loss(n, d, 1.8 + 480 / n**0.35 + 2100 / d**0.37, draws=50)
        >>> round(fit.law.alpha, 3), round(fit.law.beta, 3), fit.identified
        (0.35, 0.37, True)
    """
    n, d, y = (
        _positive(values, name) for values, name in ((n_params, "n_params"), (n_tokens, "n_tokens"), (loss, "loss"))
    )
    if not n.size == d.size == y.size:
        raise ScalingError(f"n_params, n_tokens and loss must have equal lengths, got {n.size}, {d.size} and {y.size}")
    if n.size < _FEWEST_POINTS:
        raise ScalingError(f"fit_loss needs at least {_FEWEST_POINTS} runs for its five parameters, got {n.size}")
    if not (np.isfinite(delta) and delta > 0):
        raise ScalingError(f"delta must be finite and > 0, got {delta}")
    check_draws(draws, least=1)
    check_seed(seed)
    if n.size * draws > _MOST_VALUES:
        raise ScalingError(
            f"draws x points must be at most {_MOST_VALUES:,}, got {draws:,} x {n.size:,}: "
            "give one point a run (its final loss), or fewer draws"
        )
    order = np.lexsort((y, d, n))
    distinct = len(np.unique(np.stack([n, d]), axis=1).T)
    design = Design(n[order], d[order], y[order])
    counts = _resample(n.size, draws, np.random.default_rng(seed))
    # the full data ride along as the last row, so that it too is offered every other row's optimum
    weights = np.concatenate([counts, np.ones((1, n.size))])
    solution = _solve(design, weights, delta)
    table = design.to_published(solution.theta)
    at_zero = table[:, 0] < 1e-3 * y.min()
    back = np.empty_like(order)
    back[order] = np.arange(n.size)
    return LossFit(
        law=LossLaw(*(float(x) for x in table[-1])),
        draws=table[:-1],
        status=_status(n, d, y, distinct, at_zero, table, solution),
        objective=float(solution.objective[-1]),
        objectives=solution.objective[:-1],
        counts=counts[:, back].astype(np.int16),
        delta=delta,
        certificates={
            "decrement": np.abs(solution.decrement[:-1]), "basins": solution.basins[:-1], "at_zero": at_zero[:-1],
        },
        retried=solution.retried,
    )  # fmt: skip


def _solve(design: Design, weights: Array, delta: float) -> GlobalSolution:
    """Global optima at ``delta``; a threshold below the usual one is approached in steps, from smooth to sharp."""
    solution = solve(design, weights, delta=max(delta, _DELTA))
    if delta >= _DELTA:
        return solution
    steps = int(np.ceil(np.log(_DELTA / delta) / np.log(_STEP)))
    rows = np.arange(len(weights))
    theta = solution.theta
    last = None
    for threshold in np.geomspace(_DELTA, delta, steps + 1)[1:]:
        last = polish(design, theta, weights, rows, delta=float(threshold))
        theta = last.theta
    assert last is not None
    return GlobalSolution(last.theta, last.objective, last.decrement, solution.basins, solution.retried)


def _resample(points: int, draws: int, rng: np.random.Generator) -> Array:
    """Pairs bootstrap: counts of each point, shape ``(draws, points)``; degenerate resamples are drawn again."""
    counts = np.zeros((draws, points))
    todo = np.arange(draws)
    while todo.size:
        picks = rng.integers(0, points, size=(todo.size, points)) + points * np.arange(todo.size)[:, None]
        counts[todo] = np.bincount(picks.ravel(), minlength=todo.size * points).reshape(todo.size, points)
        todo = todo[np.count_nonzero(counts[todo], axis=1) < _FEWEST_DISTINCT]
    return counts


def _status(
    n: Array, d: Array, y: Array, distinct: int, at_zero: NDArray[np.bool_], table: Array, solution: GlobalSolution
) -> str:
    log_n, log_d = np.log(n), np.log(d)
    if np.ptp(y) <= 1e-9 * y.max():
        return f"every loss is {y[0]:g}: nothing to fit"
    if np.ptp(log_n) < 1e-6 or len(np.unique(n)) < 3:
        return f"alpha and A not identified: {len(np.unique(n))} distinct model sizes, at least 3 are needed"
    if np.ptp(log_d) < 1e-6 or len(np.unique(d)) < 3:
        return f"beta and B not identified: {len(np.unique(d))} distinct token counts, at least 3 are needed"
    if abs(np.corrcoef(log_n, log_d)[0, 1]) > 0.9999:
        return "size and data not separable: ln N and ln D lie on one line; vary tokens per parameter"
    if distinct < _FEWEST_DISTINCT:
        return f"five parameters not identified: only {distinct} distinct (N, D)"
    if at_zero.mean() > 0.05:
        return f"E not identified: {at_zero.mean():.0%} of resamples put the irreducible loss at zero"
    for exponent, name in ((table[:, 3], "model size"), (table[:, 4], "tokens")):
        if np.mean(exponent <= 0) > 0.05:
            return f"loss does not fall with {name} in {np.mean(exponent <= 0):.0%} of resamples: is it a loss, and in the order of N and D?"
    if np.mean(np.abs(solution.decrement) > 1e-6) > 0.01:
        return f"not converged: {np.mean(np.abs(solution.decrement) > 1e-6):.1%} of resamples"
    return "ok"


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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ScalingError(f"level must be between 0 and 1, got {level}")


def _positive(values: ArrayLike, name: str) -> Array:
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ScalingError(f"{name} must be numbers: {error}") from error
    if out.ndim != 1:
        raise ScalingError(f"{name} must be one-dimensional, got shape {out.shape}")
    bad = np.flatnonzero(~(np.isfinite(out) & (out > 0)))
    if bad.size:
        raise ScalingError(
            f"{name} must be finite and > 0, got {out[bad[0]]} at index {bad[0]} ({bad.size} in all): drop those runs"
        )
    return out
