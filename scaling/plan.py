"""Planning: what a grid of sizes and budgets costs, what a budget buys, which next run helps most, stop or continue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.cost import ComputeCost
from scaling.errors import ScalingError
from scaling.flops import ModelShape
from scaling.throughput import Throughput
from scaling.workload import Workload

if TYPE_CHECKING:
    from scaling.fitting import Fit
    from scaling.pretraining import JointFit

__all__ = ["Advice", "Candidate", "PlannedRun", "buys", "next_run", "next_size", "plan_grid", "stop_or_continue"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid.

    Attributes:
        model: name.
        params: parameters [1].
        steps: optimiser batches [1].
        cost: FLOPs by phase, tokens, rollouts.
        gpu_hours: (low, central, high) [GPU h].
        usd: the same in money [USD], or None without a price.
        pretraining_flops_ratio: RL FLOPs over pretraining FLOPs [1], or None where the latter are not known.
        score: (median, low, high), or None without a fitted study.

    Example:
        >>> cost = ComputeCost(training_flops=3e18)
        >>> run = PlannedRun("0.5B", 5e8, 400, cost, gpu_hours=(6.0, 8.0, 11.0), usd=None, pretraining_flops_ratio=1e-3, score=None)
        >>> run.cost.total_flops / run.pretraining_flops_ratio  # of its pretraining
        3e+21
    """

    model: str
    params: float
    steps: int
    cost: ComputeCost
    gpu_hours: tuple[float, float, float]
    usd: tuple[float, float, float] | None
    pretraining_flops_ratio: float | None
    score: tuple[float, float, float] | None


@dataclass(frozen=True)
class Candidate:
    """A run that could be made next.

    Attributes:
        name: which curve to continue, or which size to add.
        until: its compute at the end [unit of the axis].
        extra: compute it adds [unit of the axis].
        width_now: width of the target's interval now.
        width_after: expected width after it.
        narrowing: width that is expected to go away per unit of compute added.

    Example:
        >>> print(Candidate("0.5B", until=4e18, extra=2e18, width_now=0.08, width_after=0.05, narrowing=1.5e-20))
        0.5B to 4e+18 (+2e+18): interval 0.080 -> about 0.050
    """

    name: str
    until: float
    extra: float
    width_now: float
    width_after: float
    narrowing: float

    def __str__(self) -> str:
        return (
            f"{self.name} to {self.until:.3g} (+{self.extra:.3g}): interval {self.width_now:.3f} -> about "
            f"{self.width_after:.3f}"
        )


@dataclass(frozen=True)
class Advice:
    """Stop or continue.

    Attributes:
        decision: ``stop``, ``continue`` or ``undecided``.
        probability: that the score gains more than ``more_than`` by ``by``.
        by: compute asked about [unit of the axis].
        more_than: gain that matters [1].
        reason: one sentence.

    Example:
        >>> Advice("continue", probability=0.9, by=400.0, more_than=0.01, reason="it still rises").decision
        'continue'
    """

    decision: str
    probability: float
    by: float
    more_than: float
    reason: str


def plan_grid(
    shapes: Mapping[str, ModelShape],
    workload: Workload,
    throughput: Throughput,
    *,
    gpu_hours: Sequence[float] = (),
    flops: Sequence[float] = (),
    steps: Sequence[int] = (),
    usd_per_hour: float | None = None,
    pretraining_flops: Mapping[str, float] | None = None,
    study: JointFit | None = None,
    level: float = 0.9,
) -> list[PlannedRun]:
    """A grid of sizes x budgets; budgets of all three kinds may be given together.

    A GPU-hour budget buys the steps of the central rate.

    Args:
        shapes: model name -> shape.
        workload: what a step does.
        throughput: rates of the device.
        gpu_hours: budgets [GPU h].
        flops: budgets [FLOP].
        steps: budgets [1].
        usd_per_hour: price [USD / GPU h].
        pretraining_flops: model name -> pretraining FLOPs [FLOP].
        study: a joint fit on axis ``total_flops`` or ``gpu_hours`` that predicts scores.
        level: of the predicted scores' intervals.

    Raises:
        ScalingError: no size, no budget, or a budget that is not positive.

    Example:
        >>> from scaling.reference import public_shape
        >>> from scaling.throughput import stated_throughput
        >>> step = Workload(prompts_per_step=64, group_size=8, prompt_length=200, completion_length=1000)
        >>> shapes = {name: public_shape(name) for name in ("Qwen2.5-1.5B", "Qwen2.5-7B")}
        >>> for run in plan_grid(shapes, step, stated_throughput("H100"), flops=[1e20]):
        ...     print(run.model, run.steps, run.gpu_hours[0] < run.gpu_hours[1] < run.gpu_hours[2])
        Qwen2.5-1.5B 13074 True
        Qwen2.5-7B 2866 True
    """
    budgets = [("gpu_hours", b) for b in gpu_hours] + [("flops", b) for b in flops] + [("steps", b) for b in steps]
    if not shapes or not budgets:
        raise ScalingError("a plan needs at least one size and one budget (GPU-hours, FLOPs or steps)")
    for kind, budget in budgets:
        if not 0 < budget < float("inf"):
            raise ScalingError(f"a budget in {kind} must be finite and > 0, got {budget!r}")
    if usd_per_hour is not None and not usd_per_hour >= 0:
        raise ScalingError(f"usd_per_hour must be >= 0, got {usd_per_hour!r}")
    return [
        _planned(name, shape, kind, budget, workload, throughput, usd_per_hour, pretraining_flops or {}, study, level)
        for name, shape in shapes.items()
        for kind, budget in budgets
    ]


def buys(
    gpu_hours: float, shapes: Mapping[str, ModelShape], workload: Workload, throughput: Throughput
) -> dict[str, PlannedRun]:
    """What a number of GPU-hours buys at each size; a size whose first step costs more buys 0 steps.

    Example:
        >>> from scaling.reference import public_shape
        >>> from scaling.throughput import stated_throughput
        >>> step = Workload(prompts_per_step=64, group_size=8, prompt_length=200, completion_length=1000)
        >>> shapes = {"Qwen2.5-7B": public_shape("Qwen2.5-7B")}
        >>> buys(500, shapes, step, stated_throughput("H100"))["Qwen2.5-7B"].steps
        3141
    """
    return {run.model: run for run in plan_grid(shapes, workload, throughput, gpu_hours=[gpu_hours])}


def _planned(
    name: str,
    shape: ModelShape,
    kind: str,
    budget: float,
    workload: Workload,
    throughput: Throughput,
    price: float | None,
    pretraining: Mapping[str, float],
    study: JointFit | None,
    level: float,
) -> PlannedRun:
    one = workload.step_cost(shape)
    each = {"gpu_hours": throughput.gpu_hours(one, shape.params)[1], "flops": one.total_flops, "steps": 1}[kind]
    steps = int(budget / each * (1 + 1e-12))
    cost = ComputeCost(**{key: value * steps for key, value in one.to_dict().items()})
    hours = throughput.gpu_hours(cost, shape.params)
    score = None
    if study is not None and steps:
        compute = {"total_flops": cost.total_flops, "gpu_hours": hours[1]}.get(study.data.axis)
        if compute is None:
            raise ScalingError(
                f"a study on axis {study.data.axis!r} predicts no score of a plan: fit it in total_flops"
            )
        band = study.forecast(shape.params, compute, level=level)
        score = float(band.median[0]), float(band.low[0]), float(band.high[0])
    return PlannedRun(
        model=name,
        params=shape.params,
        steps=steps,
        cost=cost,
        gpu_hours=hours,
        usd=None if price is None else (hours[0] * price, hours[1] * price, hours[2] * price),
        pretraining_flops_ratio=cost.total_flops / pretraining[name] if pretraining.get(name) else None,
        score=score,
    )


def next_run(
    fits: Mapping[str, Fit],
    *,
    target: str | float = "asymptote",
    factors: Iterable[float] = (1.5, 2.0, 3.0, 5.0),
    evals: int = 8,
) -> list[Candidate]:
    """Which curve to continue, and how far, so that its target narrows most per unit of compute; best first.

    The expected width comes from the draws: the target and the scores of the new evaluations are treated as jointly
    normal, so the variance left is ``v - c' (S + sigma^2 I)^-1 c`` (the preposterior variance of a linear Gaussian experiment).

    Args:
        fits: name -> fit; refused ones are left out.
        target: ``"asymptote"``, or a compute [unit of the axis] whose score is to be known.
        factors: how many times its present compute each curve may be continued to.
        evals: evaluations on the way, spaced evenly in log compute.

    Raises:
        ScalingError: no fit has draws, or the fits are on different axes.

    Example:
        >>> import scaling
        >>> law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=100.0, r_0=0.2)
        >>> compute = np.linspace(20.0, 400.0, 40)
        >>> scores = law(compute) + np.random.default_rng(0).normal(0, 0.01, 40)
        >>> best = next_run({"a": scaling.fit(scaling.Curve(compute=compute, performance=scores), draws=200)})[0]
        >>> best.until > 400 and best.width_after < best.width_now
        True
    """
    usable = {name: fit for name, fit in fits.items() if fit.draws.size}
    if not usable:
        raise ScalingError("no fit has draws: there is nothing to narrow; evaluate more often first")
    if len({fit.axis for fit in usable.values()}) > 1:
        raise ScalingError("fits must share one axis to be compared per unit of compute")
    from scaling.fitting.draws import drifting

    if target != "asymptote" and not (isinstance(target, (int, float)) and 0 < target < np.inf):
        raise ScalingError(f"target must be 'asymptote' or a compute > 0, got {target!r}")
    out = []
    for name, fit in usable.items():
        last = fit.window[1]
        if target == "asymptote":
            held = "asymptote" in (fit.draws.dtype.names or ())
            values = np.where(drifting(fit.draws), np.nan, fit.draws["asymptote"]) if held else np.zeros(0)
            low, high = fit.interval("asymptote")
        else:
            values = fit.simulate([float(target)])[:, 0]
            band = fit.forecast(float(target))
            low, high = float(band.low[0]), float(band.high[0])
        rows = np.isfinite(values)
        if rows.sum() < 20:
            continue
        sigma = float(np.median(fit.draws["sigma"]))
        for factor in factors:
            if not 1 < factor < np.inf:
                raise ScalingError(f"factors must be > 1 times the present compute, got {factor}")
            new = np.geomspace(last, last * factor, evals + 1)[1:]
            after = (high - low) * np.sqrt(_left(values[rows], fit.simulate(new)[rows], sigma))
            extra = last * (factor - 1)
            out.append(
                Candidate(name, last * factor, extra, high - low, float(after), _narrowing(high - low, after, extra))
            )
    return sorted(out, key=lambda c: -c.narrowing)


def next_size(
    study: JointFit,
    *,
    target: tuple[float, float],
    sizes: Iterable[float],
    budgets: Iterable[float],
    evals: int = 12,
    level: float = 0.9,
) -> list[Candidate]:
    """Which size to run next, and how far, so that the forecast at ``target`` = (parameters, compute) narrows most.

    As `next_run`, over the draws of a joint fit.

    Args:
        study: the joint fit.
        target: (parameters, compute [unit of the axis]) whose score is to be known.
        sizes: sizes that could be run [parameters].
        budgets: compute that each could be run to [unit of the axis].
        evals: evaluations on the way, spaced evenly in log compute.
        level: of the target's interval.

    Raises:
        ScalingError: a size or budget is not positive.

    Example:
        >>> import scaling
        >>> rng, compute = np.random.default_rng(0), np.geomspace(1e17, 1e20, 30)
        >>> curves = {}
        >>> for n in (5e8, 2e9, 7e9, 2e10):
        ...     scores = 1 - 0.9 * (compute / 1e17) ** (-0.15 / (1 + 15e9 / n)) + rng.normal(0, 0.005, 30)
        ...     curves[n] = [scaling.Curve(compute=compute, performance=scores, axis="total_flops")]
        >>> study = scaling.fit_joint(curves, draws=50)
        >>> best = next_size(study, target=(7e10, 1e21), sizes=[2e10, 4e10], budgets=[1e20, 1e21])[0]
        >>> best.width_after < best.width_now
        True
    """
    params, compute = target
    band = study.forecast(params, compute, level=level)
    width = float(band.high[0] - band.low[0])
    values = study.values(float(params), np.array([float(compute)]))[:, 0]
    out = []
    for size in sizes:
        for budget in budgets:
            if not (size > 0 and budget > 0):
                raise ScalingError(f"sizes and budgets must be > 0, got {size!r} and {budget!r}")
            seen = study.values(float(size), np.geomspace(budget / 100, budget, evals))
            after = width * np.sqrt(_left(values, seen, study.rmse))
            out.append(
                Candidate(f"{size:.3g} parameters", float(budget), float(budget), width, float(after),
                          _narrowing(width, after, budget))
            )  # fmt: skip
    return sorted(out, key=lambda c: -c.narrowing)


def stop_or_continue(fit: Fit, *, by: float, more_than: float = 0.01, sure: float = 0.8) -> Advice:
    """Whether a run is worth continuing to ``by``: the probability that it gains more than ``more_than``.

    Args:
        fit: fit of the run so far.
        by: compute to continue to [unit of the axis].
        more_than: gain that matters [1].
        sure: probability at which the answer is no longer ``undecided``.

    Raises:
        ScalingError: ``by`` is not beyond the run, or the fit was refused.

    Example:
        >>> import scaling
        >>> law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=100.0, r_0=0.2)
        >>> compute = np.linspace(20.0, 3000.0, 60)
        >>> scores = law(compute) + np.random.default_rng(0).normal(0, 0.003, 60)
        >>> fit = scaling.fit(scaling.Curve(compute=compute, performance=scores), draws=200)
        >>> stop_or_continue(fit, by=6000.0).decision
        'stop'
    """
    if not by > fit.window[1]:
        raise ScalingError(f"by must lie beyond the run's compute {fit.window[1]:.3g}, got {by!r}")
    if not 0.5 < sure < 1:
        raise ScalingError(f"sure must lie between 0.5 and 1, got {sure!r}")
    if not fit.draws.size:
        raise ScalingError(f"no advice from a refused fit: {fit.message}")
    if not np.isfinite(more_than):
        raise ScalingError(f"more_than must be a gain in score, got {more_than!r}")
    p = fit.gain(by=by, more_than=more_than)
    decision = "continue" if p >= sure else "stop" if p <= 1 - sure else "undecided"
    reason = f"probability {p:.2f} of gaining more than {more_than:g} by {by:.3g} {fit.axis}"
    return Advice(decision, p, float(by), more_than, reason)


def _left(target: Array, seen: Array, sigma: float) -> float:
    """Share of the target's variance expected to be left after observing ``seen`` with noise ``sigma``."""
    t = target - target.mean()
    s = seen - seen.mean(axis=0)
    variance = float(np.mean(t**2))
    if variance <= 0:
        return 1.0
    cross = s.T @ t / t.size
    inner = s.T @ s / t.size + max(sigma, 1e-6) ** 2 * np.eye(seen.shape[1])
    return float(np.clip(1 - cross @ np.linalg.solve(inner, cross) / variance, 0.0, 1.0))


def _narrowing(width: float, after: float, extra: float) -> float:
    return (width - after) / extra
