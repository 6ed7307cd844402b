"""Compare recipes: score at equal compute, asymptote, exponent where the asymptotes agree, effective speed-up; all with intervals.

What may be pooled is decided here too (`scaling.factors` says by which labels). A comparison never drops a run:
collapsed ones, evaluations beyond the fourth epoch and differing settings are named in `Comparison.flags` and
`Comparison.factors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling import _contrasts as contrasts
from scaling._callable import make_callable
from scaling._checks import check_level
from scaling.comparison import Comparison, Contrast, Pair
from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName

if TYPE_CHECKING:
    from scaling.fitting import Fit

__all__ = ["AT", "Comparison", "Contrast", "Pair", "compare"]

Array = NDArray[np.float64]

AT = (0.25, 0.5, 1.0, 4.0)  # where scores are compared, in units of the compute that both recipes reached
MARGIN = 0.02  # asymptotes nearer than this are not told apart by three seeds (arXiv:2510.13786, App. A.7) [score]
_SHARED_SEEDS = 3  # below, a t interval of paired differences is wider than what pairing could save


def compare(
    recipes: Mapping[str, Curve | Sequence[Curve]],
    *,
    baseline: str | None = None,
    at: Sequence[float] | None = None,
    law: str = "ensemble",
    level: float = 0.9,
    of: str = "benchmark",
    margin: float = MARGIN,
    factors: Sequence[str] = (),
    dense: Mapping[str, Curve | Sequence[Curve]] | None = None,
    fit_after: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare recipes with a baseline.

    Curves of one recipe are its seeds. Where at least three seeds (label ``seed``) are shared, every seed is fitted
    by itself and the differences are paired over seeds on a t-scale; else each recipe is fitted as a whole and draws
    are independent. With ``of="population"`` the error from the choice of items is added, paired where both recipes
    have the same items.

    Args:
        recipes: name -> curve or curves, all on one axis and metric.
        baseline: the recipe to compare with; the first by default.
        at: compute [unit of the axis] at which to compare; by default 1/4, 1/2, 1 and 4 times what both reached.
        law: law to fit, as for `scaling.fit`.
        level: of the intervals.
        of: ``benchmark`` (these very items) or ``population`` (all items they are a sample of).
        margin: asymptotes whose difference may be within this are taken to agree [score].
        factors: labels that curves of one recipe may differ in, and measurement settings in which recipes may differ.
        dense: training reward curves of the same recipes, prompts fresh and unfiltered, as a dense second opinion.
        fit_after: leave out evaluations before this compute; none are left out unless asked.
        draws: of each fit.
        seed: of the draws.

    Raises:
        ScalingError: fewer than two recipes, different axes or metrics, curves of one recipe that differ in a setting
            that is not among ``factors``, or recipes measured differently.
        UnknownName: ``baseline`` is not among the recipes.

    Example:
        >>> import numpy as np
        >>> from scaling import Sigmoid
        >>> rng, c = np.random.default_rng(0), np.geomspace(5, 2000, 50)
        >>> slow = Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=120.0, r_0=0.2)(c)
        >>> fast = Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=60.0, r_0=0.2)(c)
        >>> a, b = (Curve(compute=c, performance=y + rng.normal(0, 0.004, 50)) for y in (slow, fast))
        >>> pair = compare({"a": a, "b": b}, at=[200.0], draws=300).pairs[0]
        >>> pair.speed_up[0].low < 2 < pair.speed_up[0].high
        True
    """
    from scaling.factors import check_pooling, notable
    from scaling.fitting import fit

    named = _recipes(recipes)
    if len(named) < 2:
        raise ScalingError(f"compare needs at least two recipes, got {len(named)}: {', '.join(named) or 'none'}")
    for name, curves in named.items():
        if not curves:
            raise ScalingError(f"recipe {name!r} has no curves")
    first = next(iter(named)) if baseline is None else baseline
    if first not in named:
        raise UnknownName(f"baseline must be one of {', '.join(named)}, got {baseline!r}")
    if of not in ("benchmark", "population"):
        raise ScalingError(f"of must be 'benchmark' or 'population', got {of!r}")
    check_level(level)
    if not 0 <= margin < np.inf:
        raise ScalingError(f"margin must be a score >= 0, got {margin}")
    if at is not None:
        at = np.ravel(np.asarray(at, dtype=float)).tolist()
        if not all(0 < c < np.inf for c in at):
            raise ScalingError(f"recipes are compared at compute that is finite and above 0, got at={at}")
    for what in ("axis", "metric"):
        found = sorted({getattr(c, what) for curves in named.values() for c in curves})
        if len(found) > 1:
            raise ScalingError(f"recipes must share one {what} to be compared, got {', '.join(found)}")
    factors = (factors,) if isinstance(factors, str) else factors
    differing = check_pooling(named, factors=factors, of=of)
    options = {"law": law, "fit_after": fit_after, "draws": draws}
    fits = {name: fit(curves, seed=seed, **options) for name, curves in named.items()}
    flags = notable(named)
    flags += [f"{name} was not fitted: {f.message}" for name, f in fits.items() if not len(f.draws)]
    rng = np.random.default_rng([seed, 7])
    pairs = tuple(
        _pair(first, name, named, fits, at, level, of, margin, options, seed, rng) for name in named if name != first
    )  # fmt: skip
    second = None
    if dense is not None:
        second, word = _dense(dense, named, first, pairs, at, level, margin, factors, options, seed)
        flags.append(word)
    sample = named[first][0]
    return Comparison(pairs, fits, level, sample.axis, sample.metric, of, differing, tuple(flags), second)


def _pair(
    a: str,
    b: str,
    named: dict[str, list[Curve]],
    fits: dict[str, Fit],
    at: Sequence[float] | None,
    level: float,
    of: str,
    margin: float,
    options: dict,
    seed: int,
    rng: np.random.Generator,
) -> Pair:
    from scaling.factors import item_contrast

    fit_a, fit_b = fits[a], fits[b]
    nothing = float("nan")
    begun = max(fit_a.window[0], fit_b.window[0])
    reached = min(fit_a.window[1], fit_b.window[1])
    where = np.asarray(at if at is not None else [share * reached for share in AT], dtype=float)
    if not len(fit_a.draws) or not len(fit_b.draws):
        why = f"{a if not len(fit_a.draws) else b} could not be fitted"
        empty = tuple(Contrast(q, nothing, -np.inf, np.inf, c, status=why) for q in ("difference",) for c in where)
        speed = tuple(Contrast("speed_up", nothing, 0.0, np.inf, c, status=why) for c in where)
        none = Contrast("asymptote", nothing, -np.inf, np.inf, status=why)
        return Pair(
            a,
            b,
            empty,
            speed,
            none,
            Contrast("efficiency_exponent", nothing, -np.inf, np.inf, status=why),
            nothing,
            "nothing",
        )
    seeds = _shared_seeds(named[a], named[b])
    couples = [(fit_a, fit_b)]
    paired = "nothing"
    if len(seeds) >= _SHARED_SEEDS:
        from scaling.fitting import fit

        couples = [
            (fit([x], seed=seed + i, **options), fit([y], seed=seed + i, **options)) for i, (x, y) in enumerate(seeds)
        ]
        couples = [(x, y) for x, y in couples if len(x.draws) and len(y.draws)]
        paired = f"{len(couples)} shared seeds"
    extra, items = (0.0, "") if of == "benchmark" else item_contrast(named[a], named[b])
    if items:
        paired = items if paired == "nothing" else f"{paired} and {items}"
    differences, speeds = [], []
    for c in where:
        change, ratio = zip(*(contrasts.at(x, y, float(c), rng) for x, y in couples))
        pooled = contrasts.pool(list(change), rng)
        pooled = pooled + extra * rng.standard_normal(pooled.size)
        status = "ok" if begun * (1 - 1e-9) <= c <= reached * (1 + 1e-9) else "extrapolated"
        differences.append(
            contrasts.contrast("difference", pooled, level, compute=float(c), status=status, better_above=0.0)
        )
        with np.errstate(divide="ignore", over="ignore"):
            logs = [np.log(r) for r in ratio]
            if len(couples) == 1:
                whole = ratio[0]
            elif all(np.isfinite(x).all() for x in logs):
                whole = np.exp(contrasts.pool(logs, rng))
            else:  # some draws never get there: no t-scale of infinities
                whole = contrasts.at(fit_a, fit_b, float(c), rng)[1]
        beyond = float(np.mean(whole * fit_b.window[1] * (1 + 1e-9) < c))
        speed_status = "extrapolated" if beyond > 0.5 or c > fit_a.window[1] * (1 + 1e-9) else "ok"
        speeds.append(
            contrasts.contrast("speed_up", whole, level, compute=float(c), status=speed_status, better_above=1.0)
        )
    asymptote, common = contrasts.asymptotes(fit_a, fit_b, couples, level, margin, rng)
    each = [(x.curves, y.curves) for x, y in couples]
    exponent = contrasts.exponents(each, couples, asymptote, common, level, options, seed, rng)
    return Pair(a, b, tuple(differences), tuple(speeds), asymptote, exponent, common[0], paired)


def _recipes(given: Mapping[str, Curve | Sequence[Curve]]) -> dict[str, list[Curve]]:
    if not isinstance(given, Mapping):
        raise ScalingError(f"recipes must be a mapping from name to curves, got {type(given).__name__}")
    named = {}
    for name, curves in given.items():
        named[str(name)] = members = list(curves) if isinstance(curves, Iterable) else [curves]
        for item in members:
            if not isinstance(item, Curve):
                raise ScalingError(f"recipe {name!r} must be a Curve or a list of them, got {type(item).__name__}")
    return named


def _dense(
    dense: Mapping[str, Curve | Sequence[Curve]],
    named: dict[str, list[Curve]],
    first: str,
    pairs: tuple[Pair, ...],
    at: Sequence[float] | None,
    level: float,
    margin: float,
    factors: Sequence[str],
    options: dict,
    seed: int,
) -> tuple[Comparison | None, str]:
    """The comparison on training reward, and a line that says whether held-out scores bear it out."""
    from scaling.factors import fresh

    reward = _recipes(dense)
    if set(reward) != set(named):
        raise ScalingError(f"dense must hold the recipes {', '.join(named)}, got {', '.join(reward)}")
    kept = {name: [fresh(c) for c in curves] for name, curves in reward.items()}
    if any(not curves or min(map(len, curves)) < 5 for curves in kept.values()):
        return None, "training reward was not used: fewer than five steps with fresh prompts (first epoch)"
    if at is None:  # the places of the held-out comparison
        at = [c.compute for c in pairs[0].difference]
    other = compare(
        kept, baseline=first, at=at, law=options["law"], level=level, margin=margin, factors=factors,
        fit_after=options["fit_after"], draws=options["draws"], seed=seed,
    )  # fmt: skip
    against = []
    for mine, theirs in zip(pairs, other.pairs):
        x, y = mine.difference[0], theirs.difference[0]
        if np.isfinite([x.low, y.low]).all() and (x.low > y.high or y.low > x.high):
            against.append(mine.other)
    word = "training reward (dense, not held-out) is given beside the held-out comparison; "
    if against:
        return other, word + f"the two contradict each other for {', '.join(against)}: believe the held-out scores"
    return other, word + "the two agree within their intervals"


def _shared_seeds(a: list[Curve], b: list[Curve]) -> list[tuple[Curve, Curve]]:
    """Curves of the same seed in both recipes, if every curve has a partner; else none."""
    sides = []
    for curves in (a, b):
        seeds = [c.labels.get("seed") for c in curves]
        if any(s is None or s != s for s in seeds) or len(set(map(str, seeds))) < len(seeds):
            return []
        sides.append({str(s): c for s, c in zip(seeds, curves)})
    if set(sides[0]) != set(sides[1]):
        return []
    return [(sides[0][s], sides[1][s]) for s in sorted(sides[0])]


make_callable(__name__)
