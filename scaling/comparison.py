"""What a comparison of recipes says: contrasts with their intervals, in a table and in words. Made by `scaling.compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scaling.words import percent

if TYPE_CHECKING:
    import pandas as pd

    from scaling.fitting import Fit

__all__ = ["Comparison", "Contrast", "Pair"]


@dataclass(frozen=True)
class Contrast:
    """One difference or ratio with its interval.

    Attributes:
        quantity: ``difference`` [score], ``asymptote`` [score], ``efficiency_exponent`` [1] or ``speed_up`` [1].
        median: estimate; NaN where there is none.
        low: lower end of the interval.
        high: upper end.
        compute: where, in the unit of the axis; NaN for quantities that belong to no compute.
        better: probability that the other recipe is better than the baseline.
        status: ``"ok"``, or why the number must not be quoted.

    Example:
        >>> gain = Contrast("difference", 0.03, 0.01, 0.05, compute=200.0, better=0.99)
        >>> gain.low > 0 and gain.status == "ok"
        True
    """

    quantity: str
    median: float
    low: float
    high: float
    compute: float = float("nan")
    better: float = float("nan")
    status: str = "ok"


@dataclass(frozen=True)
class Pair:
    """One recipe against the baseline; see `Contrast` for what each entry holds.

    Attributes:
        baseline: name of the baseline.
        other: name of the recipe compared with it.
        difference: other less baseline at equal compute, one an element of ``at``.
        speed_up: baseline compute over the compute at which ``other`` has the same score, at the same places.
        asymptote: difference in A.
        exponent: difference in B after refitting both with a common A.
        common_asymptote: that A; NaN where the asymptotes differ or are not identified.
        paired: what the draws are paired over.

    Example:
        >>> none = Contrast("asymptote", float("nan"), -np.inf, np.inf, status="asymptote not identified")
        >>> gain = Contrast("difference", 0.03, 0.01, 0.05, compute=200.0, better=0.99)
        >>> pair = Pair("dapo", "cispo", (gain,), (), none, none, float("nan"), "nothing")
        >>> [c.quantity for c in pair.contrasts() if c.status == "ok"]
        ['difference']
    """

    baseline: str
    other: str
    difference: tuple[Contrast, ...]
    speed_up: tuple[Contrast, ...]
    asymptote: Contrast
    exponent: Contrast
    common_asymptote: float
    paired: str

    def contrasts(self) -> tuple[Contrast, ...]:
        """All of them."""
        return (*self.difference, *self.speed_up, self.asymptote, self.exponent)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Recipes against a baseline; made by `compare`.

    Attributes:
        pairs: one for every recipe but the baseline.
        fits: name -> fit of all its curves.
        level: nominal coverage of the intervals.
        axis: compute axis.
        metric: the score.
        of: ``benchmark`` or ``population``.
        factors: setting -> recipe -> value, for every setting in which the recipes differ.
        flags: what a reader must know, one line each: evaluations beyond the fourth epoch, collapsed runs, extrapolation.
        dense: the same comparison on training reward where it was given and usable; marked as such in its flags.

    Example:
        >>> from scaling import Curve, compare
        >>> c = np.geomspace(5, 2000, 20)
        >>> a, b = (Curve(compute=c, performance=0.6 - 0.4 / (1 + c / k) + 0.004 * np.sin(c)) for k in (120, 60))
        >>> comparison = compare({"slow": a, "fast": b}, at=[100.0], draws=100)
        >>> comparison.table["quantity"].tolist()
        ['difference', 'speed_up', 'asymptote', 'efficiency_exponent']
    """

    pairs: tuple[Pair, ...]
    fits: dict[str, Fit]
    level: float
    axis: str
    metric: str
    of: str
    factors: dict[str, dict[str, str]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    dense: Comparison | None = None

    def __repr__(self) -> str:
        return (
            "Comparison("
            + ", ".join(f"{p.other} against {p.baseline}" for p in self.pairs)
            + f"; {self.metric} on {self.axis})"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row a contrast: baseline, other, quantity, compute, median, low, high, better, status, paired."""
        import pandas as pd

        rows = [
            {
                "baseline": p.baseline,
                "other": p.other,
                **{k: getattr(c, k) for k in Contrast.__dataclass_fields__},
                "paired": p.paired,
            }
            for p in self.pairs
            for c in p.contrasts()
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The comparison in words and numbers."""
        lines = []
        of = "these very items" if self.of == "benchmark" else "all items they are a sample of"
        for p in self.pairs:
            paired = "independent draws" if p.paired == "nothing" else f"paired over {p.paired}"
            lines.append(
                f"{p.other} against {p.baseline}: {self.metric} on {of}, {percent(self.level)} intervals, {paired}"
            )
            for c, s in zip(p.difference, p.speed_up):
                if np.isnan(c.median):
                    lines.append(f"  at {self.axis} {c.compute:.4g}: not compared, {c.status}")
                    continue
                note = "" if c.status == "ok" else f"  ({c.status})"
                lines.append(
                    f"  at {self.axis} {c.compute:.4g}: difference {c.median:+.4f} [{c.low:+.4f}, {c.high:+.4f}], better with "
                    f"probability {c.better:.2f}; {_speed(s)}{note}"
                )
            lines.append(f"  asymptote: {_words(p.asymptote).removeprefix('asymptote ')}")
            same = p.exponent.status != "ok" and p.exponent.status == p.asymptote.status
            lines.append(f"  exponent:  {'not compared without a common asymptote' if same else _words(p.exponent)}")
        for name, values in self.factors.items():
            lines.append(f"  factor {name}: " + ", ".join(f"{recipe} {value}" for recipe, value in values.items()))
        lines += [f"  flag: {flag}" for flag in self.flags]
        if self.dense is not None:
            lines.append("dense second curve (training reward, not held-out):")
            lines += ["  " + line for line in self.dense.summary().splitlines()]
        return "\n".join(lines)


def _words(c: Contrast) -> str:
    if c.status != "ok":
        return c.status
    return f"difference {c.median:+.3f} [{c.low:+.3f}, {c.high:+.3f}], higher with probability {c.better:.2f}"


def _speed(s: Contrast) -> str:
    if not np.isfinite(s.median):
        return "speed-up beyond any factor" if s.median > 0 else "no speed-up"
    if s.median == 0:
        return f"more likely than not never reaches that score (at most {s.high:.2f} x)"
    return f"speed-up {s.median:.2f} x [{s.low:.2f}, {s.high:.2f}]"
