"""`fit`: the front door of the fitting core."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scaling._checks import check_draws, check_seed
from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.fitting.bootstrap import bootstrap
from scaling.fitting.data import MIN_DISTINCT, MIN_EVALS, Prepared, prepare
from scaling.fitting.draws import draw_table
from scaling.fitting.ensemble import LIMIT_ODDS, ODDS, ONSET, evidence_weights, member
from scaling.fitting.identify import Verdict
from scaling.fitting.marginal import Series
from scaling.fitting.posterior import Marginal, integrate
from scaling.fitting.prior import Prior
from scaling.fitting.result import Fit
from scaling.fitting.seeds import pool_seeds
from scaling.fitting.solver import Solution, solve
from scaling.fitting.status import Status
from scaling.laws import LAWS, Law, law_named

__all__ = ["ENSEMBLE", "fit"]

ENSEMBLE = ("sigmoid", "weibull", "power", "log_linear", "linear_log")
# of each seed at least: pooled quantiles are then as near those of 10,000 as they come with 400 draws
_CANDIDATES = 1200
_FOLLOWED = 5  # seeds that every law is compared on
MIN_FACTOR = 1.01  # last compute over first: laws are of log compute, of which less is none (dates, time stamps)
_ROUNDING = 1e-12  # of a score: what the order of a sum changes
_EXACT = 1e-4  # of the noise: a smaller standard error of R_0 is as good as none
_SEARCHED = frozenset(name for law in LAWS.values() for name in law.nonlinear) - {"c_mid"}  # in their logarithm
_LIMITS = ("sigmoid", "power", "log_linear")  # the sigmoid and what it tends to when C_mid is far below the window


def fit(
    curves: Curve | Iterable[Curve],
    *,
    law: str | type[Law] = "ensemble",
    fit_after: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    r_0: float | None = None,
    r_0_stderr: float | None = None,
    loss: str = "squared",
    delta: float | None = None,
    bounds: dict[str, tuple[float, float]] | None = None,
    n_items: int | None = None,
    method: str = "posterior",
    drift: float | None = None,
    prior: Prior | None = None,
) -> Fit:
    """Fit a law, or the ensemble of laws, to one curve or to several seeds of one.

    The draws come from the posterior of each law, integrated over the unknown autocorrelation and size of the noise
    (`scaling.fitting.posterior`); an ensemble mixes the laws by evidence (`scaling.fitting.ensemble`). Several curves are
    seeds of one law: the draws are of the mean law over seeds (`scaling.fitting.seeds`).

    Args:
        curves: a curve, or the curves of several seeds of one recipe.
        law: ``"ensemble"`` or the name of one law. ``"sigmoid"`` includes the sigmoid's own limits, a power law (C_mid far
            below the window) and a log-linear one (with A = 1), by evidence.
        fit_after: leave out evaluations before this compute [unit of the axis]; none are left out unless asked.
        draws: draws behind the intervals, at least 20.
        seed: of the draws.
        r_0: the sigmoid's R_0 where it is known; fitted by default.
        r_0_stderr: standard error of ``r_0``; without it ``r_0`` is exact.
        loss: ``"squared"``, or ``"huber"``: evaluations further than ``delta`` off the robust curve are drawn in to it.
        delta: Huber's threshold [score]; 1.345 robust standard deviations of the residuals by default.
        bounds: parameter -> (low, high), over the law's own.
        n_items: items of the benchmark, for ``forecast(of="population")`` where per-item counts are not known.
        method: ``"posterior"``, or ``"bootstrap"`` (one law, one curve): noise simulated on the fitted law, every resample
            refitted to its global optimum, with a certificate for each.
        drift: prior probability that the curve drifts about its law (`scaling.fitting.drift`); .01 by default. With .2 bands
            hold nine in ten ends of dense real curves, are a third wider where a curve does follow a law, and the verdict is
            rarely yes (docs/which-law.md). Of several curves, by bootstrap and with ``loss="huber"`` there is none.
        prior: all that is assumed before the data; see `scaling.fitting.prior.Prior`.

    Raises:
        ScalingError: the curves cannot be fitted together, a share is outside [0, 1], or an option is impossible.
        UnknownName: no such law.

    Example:
        >>> import numpy as np, scaling
        >>> law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=100.0, r_0=0.2)
        >>> compute = np.linspace(20.0, 1000.0, 50)
        >>> noise = np.random.default_rng(1).normal(0.0, 0.005, 50)
        >>> fit = scaling.fit(scaling.Curve(compute=compute, performance=law(compute) + noise))
        >>> fit.identified
        True
        >>> low, high = fit.interval("asymptote")
        >>> low < 0.6 < high and high - low < 0.03
        True
        >>> short = scaling.fit(scaling.Curve(compute=compute[:5], performance=(law(compute) + noise)[:5]))
        >>> short.identified
        False
    """
    check_draws(draws)
    check_seed(seed)
    _check_options(r_0=r_0, r_0_stderr=r_0_stderr, delta=delta, n_items=n_items, drift=drift)
    if loss not in ("squared", "huber"):
        raise ScalingError(f"loss must be 'squared' or 'huber', got {loss!r}")
    if method not in ("posterior", "bootstrap"):
        raise ScalingError(f"method must be 'posterior' or 'bootstrap', got {method!r}")
    if r_0 is None and r_0_stderr is not None:
        raise ScalingError("r_0_stderr needs r_0")
    ensemble = law == "ensemble"
    form = "ensemble" if ensemble else law_named(law).name
    names = (
        ENSEMBLE if ensemble else _LIMITS if form == "sigmoid" and r_0 is None and method == "posterior" else (form,)
    )
    data = prepare(curves, fit_after=fit_after)
    if r_0 is not None and data.unit and not 0 <= r_0 <= 1:
        raise ScalingError(f"r_0 of {data.curves[0].metric} must lie within [0, 1], got {r_0:g}")
    several = len(data.curves) > 1
    prior = prior or Prior()
    if drift is not None:
        prior = replace(prior, drift=float(drift))
    # seeds have a spread of their own, a bootstrap simulates noise alone, and an outlier is no drift
    if several or method == "bootstrap" or loss == "huber" or min(s.y.size for s in data.positive) < MIN_EVALS:
        prior = replace(prior, drift=0.0)
    if method == "bootstrap" and (ensemble or several):
        raise ScalingError(
            "method='bootstrap' needs one law and one curve, e.g. fit(curve, law='sigmoid', method='bootstrap')"
        )
    if method == "bootstrap" and r_0_stderr:
        raise ScalingError("method='bootstrap' takes r_0 as exact: leave r_0_stderr out, or use method='posterior'")
    if "sigmoid" in names and method == "posterior":
        names = (*names, ONSET)
    if not data.unit:
        names = tuple(k for k in names if k != "log_linear") or names
    limits = _bounds(data, bounds)
    options = {
        "law": form,
        "method": method,
        "r_0": r_0,
        "r_0_stderr": r_0_stderr,
        "loss": loss,
        "delta": delta,
        "bounds": bounds,
        "limits": limits,
        "drift": drift,
    }
    common = {"form": form, "seed": seed, "n_items": n_items, "fit_after": fit_after, "options": options}
    used = data.series if not ensemble and LAWS[form].starts_at_zero else data.positive
    short = min(s.y.size for s in used)
    distinct = min(np.unique(s.x).size for s in used)
    if short < MIN_EVALS or distinct < MIN_DISTINCT:
        message = (
            f"{short} evaluations at {distinct} values of compute, at least {MIN_EVALS} at {MIN_DISTINCT} are needed"
        )
        if several:
            sizes = [(s.y.size, np.unique(s.x).size, c.run_id) for s, c in zip(used, data.curves)]
            few = [run for n, m, run in sizes if n < MIN_EVALS or m < MIN_DISTINCT]
            message += f" of every curve: {len(few)} of {len(sizes)} have fewer (runs {', '.join(map(repr, few[:4]))})"
        return Fit.refused(data, Verdict(Status.TOO_FEW, message), **common)
    factor = float(np.exp(min(700.0, *(np.ptp(s.x) for s in data.positive if s.x.size > 1))))
    if factor < MIN_FACTOR:
        message = (
            f"{data.curves[0].axis} grows by a factor of {factor:.6g} only, at least {MIN_FACTOR} is needed; "
            "is it counted from the run's start?"
        )
        return Fit.refused(data, Verdict(Status.TOO_FEW, message), **common)
    late = min(min(s.y.size, np.unique(s.x).size + 1) for s in data.positive)
    if late < MIN_EVALS:  # evaluations at zero compute alone carry only laws that start there
        names = tuple(k for k in names if member(k)[0].starts_at_zero) or names
    if all(np.ptp(s.y) <= _ROUNDING * np.abs(s.y).max() for s in data.series):
        message = f"every score is {data.series[0].y[0]:g}: nothing to fit"
        return Fit.refused(data, Verdict(Status.CONSTANT, message), **common)
    given = data
    if loss == "huber":
        data = data.replaced([_robust(s, delta, limits) for s in data.series])

    apart = _apart(names, data)

    @functools.cache
    def positive(name: str, i: int) -> Marginal:
        law, own = member(name, prior)
        return integrate(law, data.positive[i], prior=own, bounds=limits)

    # of a law without weight on the points it is compared on: never needed
    @functools.cache
    def integral(name: str, i: int) -> Marginal:
        near = positive(name, i) if several and name in apart and r_0 is None else None
        law, own = member(name, prior)
        return _integrate(law, data, i, limits, r_0, r_0_stderr, own, near)

    def integrals(name: str) -> list[Marginal]:
        return [integral(name, i) for i in range(len(data.series))]

    if method == "bootstrap":
        return _bootstrapped(integral(form, 0), data, limits, r_0, draws, common)
    shares = {names[0]: 1.0}
    if len(names) > 1:
        seen = {k: positive if k in apart else integral for k in names}
        count = len(data.series)
        running = names
        # where the middle is well inside the window, e^-13 and less is left of the onset
        if ONSET in names and not any(seen["sigmoid"]("sigmoid", i).reaches_onset for i in range(count)):
            running = tuple(k for k in names if k != ONSET)
        compared = _compare(running, lambda k, i: seen[k](k, i), count)
        found = evidence_weights(compared, odds=ODDS if ensemble else LIMIT_ODDS)
        shares = {k: found.get(k, 0.0) for k in names}
    table, new_seed = _draw(integrals, shares, draws, seed, limits, as_sigmoid=form == "sigmoid")
    weights = {k: w + (shares.get(ONSET, 0.0) if k == "sigmoid" else 0.0) for k, w in shares.items() if k != ONSET}
    best = (
        max((k for k in weights if LAWS[k].saturating or len(weights) == 1), key=lambda k: weights[k])
        if ensemble
        else form
    )
    point, certificate = _point(LAWS[best], data, limits, r_0)
    return Fit(
        law=point, draws=table, curves=data.curves, window=data.window, weights=weights, axis=data.curves[0].axis, metric=data.curves[0].metric, skipped=data.skipped, notes=data.notes,
        certificate=certificate, new_seed=new_seed, prepared=given, **common,
    )  # fmt: skip


def _bootstrapped(marginal: Marginal, data: Prepared, limits: dict, r_0: float | None, draws: int, common: dict) -> Fit:
    law = marginal.problem.law
    refits, rho, sigma = bootstrap(marginal, draws=draws, rng=np.random.default_rng(common["seed"]))
    parameters = law.rescale(law.decode(refits.u, refits.coefficients), marginal.problem.series.x_ref)
    point, _ = _point(law, data, limits, r_0)
    return Fit(
        law=point, draws=draw_table([(law.name, parameters, rho, sigma, 0.0)]), curves=data.curves, window=data.window,
        weights={law.name: 1.0}, axis=data.curves[0].axis, metric=data.curves[0].metric, skipped=data.skipped, notes=data.notes,
        certificate=refits, **common,
    )  # fmt: skip


def _bounds(data: Prepared, given: dict[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    scores = np.concatenate([s.y for s in data.series])
    if not data.unit and scores.size:  # a score that is no share: an asymptote three ranges away is not told from none
        low, high = float(scores.min()), float(scores.max())
        reach = 3.0 * max(high - low, 1e-9)
        out = {"asymptote": (low - reach, high + reach), "r_0": (low - reach, high + reach)}
    known = {name for law in LAWS.values() for name in law.bounds} - {"c_mid", "log_error"}
    for name, pair in dict(given or {}).items():
        if name not in known:
            raise ScalingError(f"bounds can be given for {', '.join(sorted(known))}, got {name!r}")
        try:
            low, high = (float(end) for end in pair)
        except (TypeError, ValueError) as error:
            raise ScalingError(f"bounds of {name} must be (low, high), got {pair!r}") from error
        if not low < high:
            raise ScalingError(f"bounds of {name} must be (low, high) with low < high, got ({low:g}, {high:g})")
        if name in _SEARCHED and not 0 < low < high < np.inf:
            raise ScalingError(f"bounds of {name} must be finite and above 0, got ({low:g}, {high:g})")
        out[name] = (low, high)
    return out


def _check_options(**options: float | None) -> None:
    """Raise where an option of `fit` is no number, or one that would be carried into the draws as nonsense."""
    for name, value in options.items():
        if value is None:
            continue
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            raise ScalingError(f"{name} must be a finite number, got {value!r}")
        if (name == "r_0_stderr" and value < 0) or (name == "delta" and value <= 0):
            raise ScalingError(f"{name} must be above 0, got {value!r}")
        if name == "n_items" and (value < 1 or value != int(value)):
            raise ScalingError(f"n_items must be a whole number of at least 1, got {value!r}")
        if name == "drift" and not 0 <= value < 1:
            raise ScalingError(f"drift must be a probability, at least 0 and below 1, got {value!r}")


def _integrate(
    law: type[Law],
    data: Prepared,
    i: int,
    bounds: dict[str, tuple[float, float]],
    r_0: float | None,
    r_0_stderr: float | None,
    prior: Prior | None,
    near: Marginal | None,
) -> Marginal:
    """The integral of seed ``i``; ``near`` is that without the evaluations at zero compute, whose cells may do."""
    series = (data.series if law.starts_at_zero else data.positive)[i]
    if near and series is data.positive[i]:
        return near
    options: dict[str, dict] = {}
    if r_0 is not None and "r_0" in law.linear:
        options["fixed"] = {"r_0": r_0}
        if r_0_stderr:
            first = integrate(law, series, prior=prior, bounds=bounds)
            if r_0_stderr > _EXACT * first.sigma:  # below, the weight of one value would drown the scores in rounding
                options = {"soft": {"r_0": (r_0, (first.sigma / r_0_stderr) ** 2)}}
    return integrate(law, series, prior=prior, bounds=bounds, near=near, **options)


def _compare(names: tuple[str, ...], integral: Callable[[str, int], Marginal], seeds: int) -> dict[str, list[Marginal]]:
    """The integrals of every law, seed by seed; of many seeds, a law out of the running is not followed to the last.

    It is out when the seeds so far put it e^-40 behind the best law, and still would after the rest, were these on its side
    by six standard deviations of what one seed says.
    """
    found: dict[str, list[Marginal]] = {name: [] for name in names}
    for i in range(seeds):
        for name, members in found.items():
            members.append(integral(name, i))
        if i + 1 < _FOLLOWED or i + 1 == seeds:
            continue
        log = np.array([[max(m.log_evidence, -1e9) for m in members] for members in found.values()])
        behind = log[log.sum(1).argmax()] - log
        left = seeds - i - 1
        least = left * behind.mean(1) - 6.0 * behind.std(1, ddof=1) * np.sqrt(left + left**2 / (i + 1))
        out = behind.sum(1) + np.minimum(least, 0.0) > 40.0
        found = {name: members for (name, members), gone in zip(found.items(), out) if not gone}
    return found


def _apart(names: tuple[str, ...], data: Prepared) -> frozenset[str]:
    """Laws that are compared without evaluations at zero compute, since others among them cannot describe these."""
    starting = frozenset(k for k in names if member(k)[0].starts_at_zero)
    zeros = any(a is not b for a, b in zip(data.series, data.positive))
    return starting if zeros and len(starting) < len(names) else frozenset()


def _draw(
    members: Callable[[str], list[Marginal]],
    weights: dict[str, float],
    draws: int,
    seed: int,
    bounds: dict,
    *,
    as_sigmoid: bool,
):
    """Draws of every member in proportion to its weight, compute in the axis' unit."""
    share = np.array(list(weights.values())) * draws
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share, kind="stable")[: draws - counts.sum()]] += 1
    parts, fresh = [], []
    for name, count in zip(weights, counts):
        if count == 0:
            continue
        integrals = members(name)
        law, unit = integrals[0].problem.law, integrals[0].problem.series.x_ref
        rng = np.random.default_rng([seed, sum(name.encode())])
        if len(integrals) == 1:
            got = integrals[0].draw(int(count), rng)
            parts.append((law.name, law.rescale(got.parameters, unit), got.rho, got.sigma, got.drift))
            continue
        seeds = [m.candidates(max(_CANDIDATES, draws), rng) for m in integrals]
        pooled = pool_seeds(seeds, draws=int(count), bounds={**law.bounds, **bounds}, rng=rng)
        parts.append((law.name, law.rescale(pooled.mean, unit), pooled.rho, pooled.sigma, 0.0))
        fresh.append((law.name, law.rescale(pooled.new_seed, unit), pooled.rho, pooled.sigma, 0.0))
    return draw_table(parts, as_sigmoid=as_sigmoid), draw_table(fresh, as_sigmoid=as_sigmoid) if fresh else None


def _robust(series: Series, delta: float | None, bounds: dict) -> Series:
    """Scores with residuals beyond Huber's threshold, at the robust optimum, drawn in to it (Huber's pseudo-values)."""
    law = LAWS["sigmoid"]

    def residual(threshold: float | None) -> NDArray[np.float64]:
        got = solve(law, series.x, series.y, weights=1 / series.s**2, bounds=bounds, delta=threshold)
        return series.y - (law.basis(series.x, got.u) * got.coefficients[:, :, None]).sum(1)[0]

    spread = 1.4826 * float(np.median(np.abs(residual(None) / series.s)))
    threshold = delta or 1.345 * max(spread, 1e-9)
    off = residual(threshold)
    limit = threshold * series.s
    return Series(series.x, series.y - off + np.clip(off, -limit, limit), series.s, series.x_ref)


def _point(law: type[Law], data: Prepared, bounds: dict, r_0: float | None) -> tuple[Law, Solution]:
    """The (weighted) least squares optimum of all curves together."""
    series = data.series if law.starts_at_zero else data.positive
    x, y, s = (np.concatenate([getattr(item, k) for item in series]) for k in "xys")
    fixed = {"r_0": r_0} if r_0 is not None and "r_0" in law.linear else None
    got = solve(law, x, y, weights=1 / s**2, bounds=bounds, fixed=fixed)
    parameters = law.rescale(law.decode(got.u, got.coefficients), series[0].x_ref)
    return law(**{k: float(v[0]) for k, v in parameters.items()}), got
