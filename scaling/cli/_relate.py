"""What a folder of runs says about RL relative to pretraining, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.runs import RunTable

_MOST_WORTHS = 6


def relate(table: RunTable, *, benchmark: str | None, total: float, amortised_over: float) -> str:
    """Surface, headline quantities, best split and worth; a part that the runs do not support says why.

    Raises:
        ScalingError: the runs do not support a surface at all.
    """
    from scaling.pretraining import best_split, fit_surface, headline, study_runs, worth

    runs = study_runs(table, benchmark=benchmark)
    surface = fit_surface(runs)
    parts = [headline(runs).summary(), surface.summary()]
    for shared in dict.fromkeys((1.0, amortised_over)):
        try:
            parts.append(best_split(surface, total, amortised_over=shared).summary())
        except ScalingError as error:
            parts.append(f"no best split with the base shared by {shared:g} runs: {error}")
    longest: dict[tuple[float, float], float] = {}
    for run in runs:
        key = (run.params, run.tokens)
        longest[key] = max(longest.get(key, 0.0), float(run.curve.compute.max()))
    for (params, tokens), compute in list(longest.items())[-_MOST_WORTHS:]:
        try:
            answer = worth(surface, params=params, tokens=tokens, rl_flops=compute)
            parts.append(
                f"{params:.3g} parameters on {tokens:.3g} tokens, {compute:.3g} FLOPs of RL: {answer.headline()}"
            )
        except ScalingError as error:
            parts.append(f"worth of RL on {params:.3g} parameters: {error}")
    return "\n\n".join(parts)
