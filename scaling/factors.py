"""Which curves may be pooled or compared: settings that differ are named, never averaged over in silence.

Settings are a curve's ``labels`` (and its ``samples_per_item``). Within one recipe every setting must agree, save the
seed and what merely identifies a run. Between recipes training settings may differ (that is the comparison) and are
listed; *measurement* settings may not, as they change what the score means. Either is allowed once it is named as a
factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError

__all__ = ["FACTORS", "IDENTITY", "MEASUREMENT", "check_pooling", "fresh", "item_contrast", "notable"]

# labels that identify a run and say nothing of its recipe
IDENTITY = frozenset({"seed", "run_id", "name", "path", "confidence", "epoch", "prompts_fresh", "date", "host"})
# labels that say how the score was measured
MEASUREMENT = frozenset(
    {"samples_per_item", "k", "benchmark", "decoding", "eval_temperature", "eval_top_p", "eval_max_completion_length",
     "reward_range", "n_items"}
)  # fmt: skip
# settings of the field that a table's columns of these names are read into
FACTORS = (
    "data_reuse", "staleness", "max_completion_length", "task", "task_mix", "k", "temperature", "top_p", "reward_range",
    "group_size", "updates_per_rollout", "benchmark", "decoding", "eval_temperature", "accelerator", "model",
)  # fmt: skip
MAX_EPOCHS = 4.0  # repeating data up to four times costs little (arXiv:2305.16264); later evaluations are flagged


def settings(curve: Curve) -> dict[str, str]:
    """The settings of a curve as text, without what identifies it; settings that are not known are left out."""
    out = {}
    for name, value in curve.labels.items():
        known = value is not None and not (isinstance(value, float) and np.isnan(value))
        if name not in IDENTITY and known:
            out[str(name)] = str(value)
    if curve.samples_per_item is not None:
        out["samples_per_item"] = str(curve.samples_per_item)
    return out


def check_pooling(
    recipes: Mapping[str, Sequence[Curve]], *, factors: Iterable[str] = (), of: str = "benchmark"
) -> dict[str, dict[str, str]]:
    """Refuse what must not be pooled; return the settings in which the recipes differ.

    Args:
        recipes: name -> curves.
        factors: settings that are allowed to differ, also within a recipe and in measurement.
        of: the estimand; other items are another benchmark, and may only be compared for the population.

    Returns:
        setting -> recipe -> value (several joined by a slash).

    Raises:
        ScalingError: with the setting, the runs and what to do.

    Example:
        >>> def curve(temperature):
        ...     return Curve(compute=[1.0], performance=[0.1], labels={"temperature": temperature})
        >>> check_pooling({"a": [curve(1.0)], "b": [curve(1.0)]})
        {}
    """
    allowed = set(factors)
    values: dict[str, dict[str, str]] = {}
    for name, curves in recipes.items():
        facts = [settings(c) for c in curves]
        for key in sorted({k for f in facts for k in f}):
            seen = list(dict.fromkeys(f.get(key, "unknown") for f in facts))
            if len(seen) > 1 and key not in allowed:
                raise ScalingError(
                    f"curves of recipe {name!r} differ in {key} ({', '.join(seen[:4])}): split them into recipes of their own, "
                    f"or name the setting as a factor (factors=[{key!r}])"
                )
            values.setdefault(key, {})[name] = " / ".join(seen)
    out = {}
    for key, by_recipe in values.items():
        if len(by_recipe) < len(recipes) or len(set(by_recipe.values())) == 1:
            continue
        if all(recipe == value for recipe, value in by_recipe.items()):  # the column that names the recipes
            continue
        if key in MEASUREMENT and key not in allowed and not (key == "n_items" and of == "population"):
            raise ScalingError(
                f"recipes were measured with different {key} ({', '.join(f'{r} {v}' for r, v in by_recipe.items())}): their "
                f"scores are not the same quantity; evaluate them alike, or name it as a factor (factors=[{key!r}])"
            )
        out[key] = by_recipe
    items = {
        name: {c.successes.shape[1] for c in curves if c.successes is not None} for name, curves in recipes.items()
    }
    if of == "benchmark" and len(set().union(*items.values())) > 1:
        found = ", ".join(f"{name} {sorted(sizes)}" for name, sizes in items.items())
        raise ScalingError(f"recipes were evaluated on different numbers of items ({found}): compare of='population'")
    return out


def notable(recipes: Mapping[str, Sequence[Curve]]) -> list[str]:
    """Lines on evaluations beyond the fourth epoch and on collapsed runs.

    Example:
        >>> curve = Curve(compute=[1.0, 2.0], performance=[0.1, 0.2], labels={"epoch": np.array([1.0, 6.0])}, run_id="r")
        >>> notable({"a": [curve]})
        ['a: 1 of 2 evaluations of run r lie beyond the fourth epoch of its data (from gpu_hours 2)']
    """
    from scaling.collapse import find_collapse

    lines = []
    for name, curves in recipes.items():
        for curve in curves:
            epochs = epoch_of(curve)
            if epochs is None and curve.labels.get("epoch") is not None:
                lines.append(
                    f"{name}: label epoch of run {curve.run_id or '(unnamed)'} has not {len(curve)} values: epochs unknown"
                )
            if epochs is not None and (epochs > MAX_EPOCHS).any():
                late = epochs > MAX_EPOCHS
                lines.append(
                    f"{name}: {int(late.sum())} of {len(curve)} evaluations of run {curve.run_id or '(unnamed)'} lie beyond the "
                    f"fourth epoch of its data (from {curve.axis} {curve.compute[late][0]:.4g})"
                )
            collapse = find_collapse(curve)
            if collapse:
                lines.append(f"{name}: {collapse}")
    return lines


def epoch_of(curve: Curve) -> NDArray[np.float64] | None:
    """Epoch at each evaluation from the label ``epoch``: one value an evaluation, or the last one's, linear in compute.

    None where it is not recorded or has another length (of a curve that was cut).
    """
    given: Any = curve.labels.get("epoch")
    if given is None or not len(curve):
        return None
    values = np.atleast_1d(np.asarray(given, dtype=float))
    if values.size == len(curve):
        return np.sort(values)  # epochs only grow, and a curve is sorted by compute
    if values.size == 1 and curve.compute[-1] > 0:
        return values[0] * curve.compute / curve.compute[-1]
    return None


def fresh(curve: Curve) -> Curve:
    """The part of a training reward curve whose prompts were seen for the first time (first epoch; all if not recorded).

    Example:
        >>> curve = Curve(compute=[1.0, 2.0, 3.0], performance=[0.1, 0.2, 0.3], labels={"epoch": np.array([0.5, 1.0, 1.5])})
        >>> len(fresh(curve))
        2
    """
    epochs = epoch_of(curve)
    if epochs is None:
        return curve
    first = epochs <= 1.0
    cut = curve._take(first)
    cut.labels["epoch"] = epochs[first]
    return cut


def item_contrast(a: Sequence[Curve], b: Sequence[Curve]) -> tuple[float, str]:
    """Standard error of a difference in score from the choice of items, and what it is paired over.

    With per-item counts of the same items it is that of the mean per-item difference; else the two errors add.

    Raises:
        ScalingError: the number of items is not known.

    Example:
        >>> def curve(*successes):  # of four items, two completions each
        ...     return Curve(compute=[1.0], performance=[np.mean(successes) / 2], successes=[successes], samples_per_item=2)
        >>> error, paired = item_contrast([curve(0, 1, 1, 2)], [curve(1, 1, 2, 2)])
        >>> round(error, 3), paired
        (0.144, '4 shared items')
    """
    one, two = _item_shares(a), _item_shares(b)
    if one is not None and two is not None and one.size == two.size and _same_items(a, b):
        return float((two - one).std(ddof=1) / np.sqrt(one.size)), f"{one.size} shared items"
    from scaling.fitting.items import item_error

    errors = [
        item_error(tuple(curves)).sd(np.array([c.finite().performance[-5:].mean() for c in curves]).mean())
        for curves in (a, b)
    ]
    return float(np.hypot(*errors)), ""


def _item_shares(curves: Sequence[Curve]) -> NDArray[np.float64] | None:
    """Success share of each item, over the last five evaluations of all curves."""
    known = [c for c in curves if c.successes is not None and c.samples_per_item]
    if not known or len({c.successes.shape[1] for c in known if c.successes is not None}) > 1:
        return None
    return np.mean([c.successes[-5:].mean(axis=0) / c.samples_per_item for c in known], axis=0)  # type: ignore[index]


def _same_items(a: Sequence[Curve], b: Sequence[Curve]) -> bool:
    names = {str(c.labels.get("benchmark", "")) for c in (*a, *b)}
    return len(names) == 1
