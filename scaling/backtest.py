"""Back-test: fit on the first part of a curve, score on the rest.

What is scored is the curve on its own benchmark items. Every row of the result is one curve, one fraction, one method, so that
any other summary than ours can be taken from `Backtest.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling._callable import make_callable
from scaling._checks import check_draws, check_level, check_seed
from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.words import percent

if TYPE_CHECKING:
    import pandas as pd

    from scaling.fitting.prior import Prior
    from scaling.fitting.result import Fit

__all__ = ["BASELINES", "FORMS", "Backtest", "Forecaster", "LawForecaster", "backtest", "last_value"]

Array = NDArray[np.float64]
# (seeds of one curve up to the cut, compute to forecast, level) -> (median, low, high), each shaped like the compute
Forecaster = Callable[[list[Curve], Array, float], tuple[Array, Array, Array]]

FORMS = ("ensemble", "sigmoid", "weibull", "power", "log_linear", "linear_log")
BASELINES = ("last_value", "log_linear")
_PLACES = 2000  # of a law's forecast; a million evaluations are read off between them
FINAL_EVALS = 5  # the final value is the mean of the last five evaluations
_COLUMNS = (
    "curve", "method", "fraction", "status", "cut", "n_fit", "n_rest", "rmse", "bias", "final", "forecast", "low", "high",
    "width", "covered", "skill_last_value", "skill_log_linear",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Backtest:
    """Scores of forecasts against what happened.

    Attributes:
        table: one row a curve, fraction and method: ``cut`` [unit of the axis], ``n_fit``, ``n_rest``, ``rmse`` and ``bias``
            (forecast less observed, mean) over the evaluations after the cut, the ``final`` value (mean of the last five
            evaluations), its ``forecast``, the band ``low`` to ``high`` (of the mean of these five evaluations, with their
            noise) and its ``width``, whether the band ``covered`` the final value, and ``skill_<baseline>`` = 1 - RMSE / RMSE of the baseline. ``status`` is ``ok`` or why there is none.
        level: nominal coverage of the band.

    Example:
        >>> from scaling.backtest import backtest, last_value
        >>> curve = Curve(compute=np.arange(1.0, 31.0), performance=0.6 - 0.4 / np.arange(1.0, 31.0))
        >>> result = backtest([curve], fractions=[0.5], laws=[], methods={"last_value": last_value})
        >>> int(result.scores()["curves"].iloc[0])
        1
    """

    table: pd.DataFrame
    level: float

    def __repr__(self) -> str:
        t = self.table
        return f"Backtest({t['curve'].nunique()} curves x {t['method'].nunique()} methods at {sorted(t['fraction'].unique())})"

    def scores(self) -> pd.DataFrame:
        """One row a fraction and method: means over curves, counts of covered finals and of positive skill."""
        import pandas as pd

        rows = []
        for (fraction, method), part in self.table.groupby(["fraction", "method"], sort=False):
            good = part[part["status"] == "ok"]
            row = {
                "fraction": fraction, "method": method, "curves": len(good), "refused": len(part) - len(good),
                "rmse": good["rmse"].mean(), "rmse_worst": good["rmse"].max(), "bias": good["bias"].mean(),
                "covered": int(good["covered"].sum()), "width": good["width"].mean(),
                "skill_last_value": good["skill_last_value"].mean(),
                "better_than_last_value": int((good["skill_last_value"] > 0).sum()),
                "better_than_log_linear": int((good["skill_log_linear"] > 0).sum()),
            }  # fmt: skip
            rows.append(row)
        return pd.DataFrame(rows)

    def best_form(self, fraction: float) -> tuple[str, float]:
        """The single law with the lowest mean RMSE in hindsight at ``fraction``, and that RMSE."""
        part = self.scores()
        part = part[(part["fraction"] == fraction) & part["method"].isin(FORMS[1:])].dropna(subset=["rmse"])
        if part.empty:
            raise ScalingError(f"no single law was scored at fraction {fraction}; fractions are {self._fractions()}")
        best = part.loc[part["rmse"].idxmin()]
        return str(best["method"]), float(best["rmse"])

    def _fractions(self) -> list[float]:
        return sorted(float(x) for x in self.table["fraction"].unique())

    def summary(self) -> str:
        """The scores as a text table, and how the ensemble stands to the best single law in hindsight."""
        lines = []
        scores = self.scores()
        for fraction, part in scores.groupby("fraction", sort=True):
            lines.append(
                f"fitted on the first {percent(fraction)} of compute, scored on the rest ({percent(self.level)} bands)"
            )
            lines.append(
                f"  {'method':<14}{'RMSE':>8}{'worst':>8}{'bias':>9}{'covers final':>14}{'width':>8}"
                f"{'skill':>8}{'beats last value':>18}{'beats log-linear':>18}"
            )
            for row in part.to_dict("records"):
                n = row["curves"]
                refused = f"   {row['refused']} refused" if row["refused"] else ""
                rmse, worst, bias, width, skill = (
                    format(row[key], form) if np.isfinite(row[key]) else "-"
                    for key, form in (
                        ("rmse", ".4f"), ("rmse_worst", ".4f"), ("bias", "+.4f"), ("width", ".3f"), ("skill_last_value", ".2f"),
                    )
                )  # fmt: skip
                lines.append(
                    f"  {row['method']:<14}{rmse:>8}{worst:>8}{bias:>9}{row['covered']:>9} of {n:<2}{width:>8}{skill:>8}"
                    f"{row['better_than_last_value']:>13} of {n:<2}{row['better_than_log_linear']:>13} of {n:<2}{refused}"
                )
            ours = part.loc[part["method"] == "ensemble", "rmse"].dropna()
            if len(ours) and part.loc[part["method"].isin(FORMS[1:]), "rmse"].notna().any():
                name, best = self.best_form(float(fraction))  # type: ignore[arg-type]
                lines.append(
                    f"  the ensemble's mean RMSE is {float(ours.iloc[0]) / best:.2f} x the best single law's ({name})"
                )
        return "\n".join(lines)


def backtest(
    curves: Iterable[Curve | Sequence[Curve]] | Mapping[str, Curve | Sequence[Curve]],
    fractions: Sequence[float] = (0.25, 0.5),
    *,
    laws: Sequence[str] = FORMS,
    methods: Mapping[str, Forecaster] | None = None,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Backtest:
    """Fit on the first ``fractions`` of each curve's compute and score the forecast on the rest.

    Args:
        curves: curves, each forecast by itself; a list among them holds the seeds of one curve, fitted together. A mapping
            names them.
        fractions: shares of the largest compute at which to cut, each in (0, 1).
        laws: laws to score, by the names of `scaling.fit`; the baselines ``last_value`` (the mean of the last five
            evaluations before the cut stays) and ``log_linear`` are always among the methods.
        methods: further methods by name, each a function ``(prefix curves, compute, level) -> (median, low, high)``.
        level: of the band.
        draws: of each fit.
        seed: of the draws.

    Raises:
        ScalingError: no curves, or a fraction outside (0, 1).
        UnknownName: no such law.

    Example:
        >>> import numpy as np
        >>> from scaling import Sigmoid
        >>> law, rng = Sigmoid(asymptote=0.6, efficiency_exponent=1.2, c_mid=60.0, r_0=0.2), np.random.default_rng(0)
        >>> c = np.linspace(5, 1000, 60)
        >>> curve = Curve(compute=c, performance=law(c) + rng.normal(0, 0.005, 60))
        >>> result = backtest([curve], fractions=[0.25], laws=["ensemble"], draws=200)
        >>> sorted(result.table["method"])
        ['ensemble', 'last_value', 'log_linear']
    """
    import pandas as pd

    from scaling.laws import law_named

    named = _named(curves)
    if not named:
        raise ScalingError("backtest needs at least one curve")
    fractions = np.ravel(np.asarray(fractions, dtype=float)).tolist()
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ScalingError(f"fractions must be one or more shares between 0 and 1, got {fractions}")
    check_level(level)
    laws = [laws] if isinstance(laws, str) else laws
    for name in laws:
        if name != "ensemble":
            law_named(name)  # an unknown law is an error, not a refused fit
    check_draws(draws)
    check_seed(seed)
    forecasters: dict[str, Forecaster] = {"last_value": last_value}
    forecasters |= {name: LawForecaster(name, draws, seed) for name in ("log_linear", *laws)}
    forecasters |= dict(methods or {})
    rows = []
    for name, seeds in named.items():
        for fraction in fractions:
            scored = {method: _score(f, seeds, fraction, level) for method, f in forecasters.items()}
            for method, row in scored.items():
                for baseline in BASELINES:
                    reference = scored[baseline]["rmse"]
                    row[f"skill_{baseline}"] = 1 - row["rmse"] / reference if reference else np.nan
                rows.append({"curve": name, "method": method, "fraction": float(fraction), **row})
    return Backtest(pd.DataFrame(rows, columns=list(_COLUMNS)), level)


@dataclass(frozen=True)
class LawForecaster:
    """`scaling.fit` with one law (or the ensemble) as a method to score: a `Forecaster` whose one fit also gives the final value.

    Attributes:
        law: name of the law.
        draws: of each fit.
        seed: of the draws.
        prior: of each fit; the library's by default.

    Example:
        >>> compute = np.geomspace(1.0, 100.0, 20)
        >>> seen = [Curve(compute=compute, performance=0.6 - 0.3 / (1 + compute / 10))]
        >>> median, low, high = LawForecaster("sigmoid", draws=50)(seen, np.array([200.0]), 0.9)
        >>> bool(low[0] <= median[0] <= high[0])
        True
    """

    law: str
    draws: int = 1000
    seed: int = 0
    prior: Prior | None = None

    def __call__(self, prefix: list[Curve], compute: Array, level: float) -> tuple[Array, Array, Array]:
        """Median and band of the curve at ``compute``."""
        band = self.fitted(prefix).forecast(compute, level=level)
        return band.median, band.low, band.high

    def fitted(self, prefix: list[Curve]) -> Fit:
        """The fit; a refused one raises."""
        from scaling.fitting import fit

        fitted = fit(prefix, law=self.law, draws=self.draws, seed=self.seed, prior=self.prior)
        if not fitted.draws.size:
            raise ScalingError(fitted.message or str(fitted.status))
        return fitted


def last_value(prefix: list[Curve], compute: Array, level: float) -> tuple[Array, Array, Array]:
    """The baseline "the last value stays": mean of the last five evaluations, band from their own spread.

    Example:
        >>> seen = Curve(compute=[1.0, 2.0, 3.0, 4.0, 5.0], performance=[0.48, 0.5, 0.52, 0.5, 0.5])
        >>> low, middle, high = (float(v[0]) for v in np.sort(last_value([seen], np.array([10.0]), 0.9), axis=0))
        >>> low < middle < high, round(middle, 3)
        (True, 0.5)
    """
    from scipy.special import stdtrit

    last = [c.finite().performance[-FINAL_EVALS:] for c in prefix]
    last = [values for values in last if values.size]
    if not last:
        raise ScalingError("no evaluations before the cut")
    middle = float(np.mean([values.mean() for values in last]))
    every = np.concatenate([values - values.mean() for values in last])
    freedom = max(every.size - len(last), 1)
    half = float(stdtrit(freedom, 0.5 + level / 2) * np.sqrt((every**2).sum() / freedom))
    flat = np.full(compute.shape, middle)
    return flat, flat - half, flat + half


def _score(forecaster: Forecaster, seeds: list[Curve], fraction: float, level: float) -> dict[str, Any]:
    cut = fraction * max(c.compute[-1] for c in seeds if len(c))
    prefix = [c.before(cut) for c in seeds]
    rest = [c._take(c.compute > cut).finite() for c in seeds]
    final_at = [c.finite().compute[-FINAL_EVALS:] for c in seeds]
    final = float(np.mean([c.finite().performance[-FINAL_EVALS:].mean() for c in seeds if len(c.finite())]))
    row: dict[str, Any] = {
        "status": "ok", "cut": cut, "n_fit": sum(map(len, prefix)), "n_rest": sum(map(len, rest)), "final": final,
        **dict.fromkeys(("rmse", "bias", "forecast", "low", "high", "width", "covered"), np.nan),
    }  # fmt: skip
    ends = np.concatenate(final_at)
    ends = ends[ends > cut]
    if not ends.size:
        return {**row, "status": "no evaluations after the cut"}
    where = np.concatenate([c.compute for c in rest])
    observed = np.concatenate([c.performance for c in rest])
    try:
        if isinstance(forecaster, LawForecaster):
            fitted = forecaster.fitted(prefix)
            grid = where if where.size <= _PLACES else np.geomspace(where.min(), where.max(), _PLACES)
            median = fitted.forecast(grid, level=level).median
            if grid is not where:  # a law is smooth between so many places
                median = np.interp(np.log(where), np.log(grid), median)
            forecast, low, high = _final(fitted, ends, level)
        else:
            median, _, _ = forecaster(prefix, where, level)
            forecast, low, high = (float(np.mean(x)) for x in forecaster(prefix, ends, level))
    except ScalingError as error:
        return {**row, "status": str(error)}
    error = median - observed
    return {
        **row, "rmse": float(np.sqrt(np.mean(error**2))), "bias": float(error.mean()), "forecast": forecast, "low": low,
        "high": high, "width": high - low, "covered": bool(low <= final <= high),
    }  # fmt: skip


def _final(fitted: Fit, ends: Array, level: float) -> tuple[float, float, float]:
    """Median and band of the mean of evaluations at ``ends``: their noise, autocorrelated as it is, belongs to the band."""
    noise = "observation" if len(fitted.curves) == 1 else "curve"
    mean = fitted.simulate(ends, noise=noise).mean(1)
    low, median, high = np.quantile(mean, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return float(median), float(low), float(high)


def _named(
    curves: Iterable[Curve | Sequence[Curve]] | Mapping[str, Curve | Sequence[Curve]],
) -> dict[str, list[Curve]]:
    if isinstance(curves, Curve):
        curves = [curves]
    if isinstance(curves, Mapping):
        pairs = [(str(name), item) for name, item in curves.items()]
    else:
        pairs = [("", item) for item in curves]
    out: dict[str, list[Curve]] = {}
    for i, (name, item) in enumerate(pairs):
        seeds: list[Any] = list(item) if isinstance(item, Iterable) else [item]
        if wrong := [type(c).__name__ for c in seeds if not isinstance(c, Curve)]:
            raise ScalingError(f"backtest needs Curve objects, or lists of them, got {wrong[0]}")
        seeds = [c for c in seeds if len(c.finite())]
        if not seeds:
            raise ScalingError(f"curve {name or i} has no finite evaluations")
        name = name or seeds[0].run_id or f"curve {i}"
        while name in out:
            name = f"{name} ({i})"
        out[name] = seeds
    return out


make_callable(__name__)
