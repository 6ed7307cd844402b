"""What every setting of `choices.py` is tried on: the designs of `coverage.py`, early windows, and curves of no law."""

from __future__ import annotations

import time
from dataclasses import dataclass

import coverage
import numpy as np
from _choices_settings import Setting, constants
from _coverage_tables import PARTS
from coverage import Cell, Scores

from scaling import Curve, fit

PROFILE = "profile"  # in the place of a setting: the profile interval of the true law that knows rho
CUTS = (0.25, 0.5)  # of the window of a sum, from which its end is forecast


@dataclass(frozen=True)
class Window:
    """A sigmoid seen up to ``cell.ratio`` x C_mid, with noise of its own size."""

    cell: Cell
    noise: float

    @property
    def key(self) -> str:
        return f"window{self.cell.key.removeprefix(self.cell.part)}sd {self.noise:g}"


@dataclass(frozen=True)
class Sums:
    """Curves of no law here: the gain is shared out among two or three sigmoids, or exponentials, drawn for every curve.

    Curve ``i`` draws from ``default_rng([seed, i])``, in this order: two or three parts; their shares, Dirichlet(2); C_mid,
    log-uniform in .02 to 2 of the window's end (a part whose C_mid lies near or beyond it is a second rise still to come); B,
    log-uniform in .7 to 2.5; R_0, uniform in .02 to .4; the gain, uniform in .2 to .7 of 1 - R_0; rho, one of 0, .3, .6; the
    noise's sd, .004 or .01; the noise. Odd curves have 100 evaluations even in compute, even ones 60 even in its logarithm,
    from .01 to 1. An exponential has 1 - 2^-(C / C_mid) for the sigmoid's share.
    """

    kind: str
    seed: int

    @property
    def key(self) -> str:
        return f"sums|{self.kind}|{self.seed}"


Design = Cell | Window | Sums

# "x" seeds the noise: with it the curves are those of the table of the onset in docs/which-law.md
WINDOWS = tuple(
    Window(Cell("x", "sigmoid", 0.5, b, rho, n, spacing), noise)
    for b, rho, n, spacing, noise in (
        (1.2, 0.3, 40, "linear", 0.006), (2.0, 0.0, 16, "linear", 0.015), (2.0, 0.6, 40, "geometric", 0.006),
        (3.0, 0.3, 40, "linear", 0.012),
    )
)  # fmt: skip
SUMS = (Sums("sigmoids", 77), Sums("sigmoids", 78), Sums("exponentials", 77))
_ALL = tuple(coverage.cells(PARTS))
_LAWS = tuple(c for c in _ALL if c.part == "intervals" and c.truth != "weibull")
_WEIBULL = tuple(c for c in _ALL if c.truth == "weibull")
DESIGNS: dict[str, tuple[Design, ...]] = {
    "odds": (*_ALL, *SUMS),
    "lambda": (*_LAWS, *SUMS),
    "onset": (*WINDOWS, *_WEIBULL, *SUMS),
    "noise": (*_ALL, *SUMS),
    "drift": (*_ALL, *SUMS),
}


def each(design: Design) -> int:
    """Curves of a design for one study: two of a sum, of which there are few designs."""
    return 2 if isinstance(design, Sums) else 1


def study(design: Design, index: int, draws: int) -> Scores:
    """Rows of low, high, truth and the verdict (of a sum: the median) of the default fit of one simulated curve."""
    if isinstance(design, Sums):
        return _sum(design, index, draws)
    if isinstance(design, Window):
        law, curve = coverage.simulated(design.cell, index, noise=design.noise)
        f, at = fit(curve, draws=draws, seed=index), 4 * curve.compute[-1]
        band = f.forecast([at])
        return {
            "ensemble:asymptote": [*f.interval("asymptote"), coverage.ASYMPTOTE, 0.0],
            "ensemble:forecast": [float(band.low[0]), float(band.high[0]), float(law(at)), 0.0],
        }
    return coverage.study(design, index, draws, forms=("ensemble",))


def _sum(design: Sums, index: int, draws: int) -> Scores:
    rng = np.random.default_rng([design.seed, index])
    parts = int(rng.integers(2, 4))
    share = rng.dirichlet(np.full(parts, 2.0))
    c_mid = np.exp(rng.uniform(np.log(0.02), np.log(2.0), parts))
    b = np.exp(rng.uniform(np.log(0.7), np.log(2.5), parts))
    r_0 = rng.uniform(0.02, 0.4)
    gain = (1.0 - r_0) * rng.uniform(0.2, 0.7)
    rho, sd = rng.choice([0.0, 0.3, 0.6]), rng.choice([0.004, 0.01])
    compute = np.linspace(0.01, 1.0, 100) if index % 2 else np.geomspace(0.01, 1.0, 60)
    at = compute[:, None] / c_mid
    risen = -np.expm1(-np.log(2.0) * at) if design.kind == "exponentials" else 1.0 / (1.0 + at**-b)
    level = r_0 + gain * (risen @ share)
    score = np.clip(level + coverage.ar1(rng, compute.size, rho, sd), 0.0, 1.0)
    out: Scores = {}
    for cut in CUTS:
        seen = compute <= cut
        band = fit(Curve(compute=compute[seen], performance=score[seen]), draws=draws, seed=index).forecast([1.0])
        row = [float(band.low[0]), float(band.high[0]), float(level[-1]), float(band.median[0])]
        out[f"ensemble:from {100 * cut:g} %"] = row
    return out


def compact(design: Design, studies: list[Scores]) -> dict[str, dict]:
    """Target -> hits (one digit a study), widths, and the verdicts or the errors of the median, as they are kept."""
    out: dict[str, dict] = {}
    for key in studies[0]:
        a = np.array([s[key] for s in studies])
        kept: dict = {"hit": _digits(coverage.hits(a)), "width": [float(f"{w:.5g}") for w in a[:, 1] - a[:, 0]]}
        if isinstance(design, Sums):
            kept["error"] = [round(e, 5) for e in a[:, 3] - a[:, 2]]
        elif isinstance(design, Cell) and design.part == "verdict":
            kept["yes"] = _digits(a[:, 3] > 0)
        out[key.split(":")[1]] = kept
    return out


def _digits(flags: np.ndarray) -> str:
    return "".join("01"[int(flag)] for flag in flags)


Job = tuple[Design, list[tuple[Setting | str, list[int]]], int]


def work(job: Job) -> list[dict]:
    """The lines of one chunk of a design: the same curves in every setting."""
    design, wanted, draws = job
    lines = []
    for setting, indices in wanted:
        start = time.process_time()
        if isinstance(setting, str):
            assert isinstance(design, Cell)
            found, key = [coverage.profiles(design, i) for i in indices], setting
        else:
            with constants(setting):
                found, key = [study(design, i, draws) for i in indices], setting.key
        took = round(time.process_time() - start, 3)
        lines.append(
            {"setting": key, "design": design.key, "first": indices[0], "cpu": took, "scores": compact(design, found)}
        )
    return lines
