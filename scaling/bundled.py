"""The bundled ladder study: real GRPO runs of small models, with controls, small enough to come with the package.

Five widths x three pretraining budgets x three seeds of chain arithmetic in two kinds, pretrained from scratch, so that
pretraining FLOPs are known exactly; ``docs/results/ladder.md`` says what was run, what it shows, and what it cannot show about large models.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from scaling.errors import ScalingError, UnknownName

if TYPE_CHECKING:
    import pandas as pd

    from scaling.run_table import RunTable

__all__ = ["KINDS", "PIECES", "arm_differences", "bundled_arms", "bundled_runs"]

KINDS = ("acquisition", "elicitation")
PIECES = (*KINDS, "slips")
_TABLES = ("runs", "steps", "evals")
_CONTROLS = {"continued": "continued pretraining", "rejection": "rejection SFT", "random_reward": "random reward"}


def bundled_runs(kind: str | None = "acquisition", *, reward: str | None = "correct") -> RunTable:
    """The runs of the bundled study as `load_runs` would return them from their directories.

    Args:
        kind: ``acquisition`` (long chains are scarce in pretraining), ``elicitation`` (pretraining texts answer directly and
            slip), ``slips`` (elicitation at one width and budget, with other slip rates; no control), or None for all.
        reward: ``correct``, ``random`` (the control), or None for both.

    Raises:
        UnknownName: no such kind or reward.
        ScalingError: the installation lacks the study's files.

    Example:
        >>> runs = bundled_runs("acquisition")
        >>> sorted(set(runs.runs["task"]))
        ['chain']
    """
    import pandas as pd

    from scaling.run_table import RunTable

    for what, got, known in (("kind", kind, PIECES), ("reward", reward, ("correct", "random"))):
        if got is not None and got not in known:
            raise UnknownName(f"{what} must be one of {', '.join(known)} or None, got {got!r}")
    tables = {}
    for name in _TABLES:
        with as_file(_folder() / f"{name}.parquet") as path:
            tables[name] = pd.read_parquet(path)
    runs = tables["runs"]
    for column, value in (("sweep", kind), ("reward", reward)):
        runs = runs[runs[column] == value] if value is not None else runs
    return RunTable(**tables).select(runs["run_id"])


def bundled_arms() -> pd.DataFrame:
    """Every base and every arm started from it, one row each: held-out accuracies under each decoding, FLOPs, settings.

    ``arm`` is ``base``, ``grpo``, ``random_reward``, ``continued`` (pretraining) or ``rejection`` (SFT on the base's own
    verified samples); all arms of a base spend the FLOPs of its GRPO run. ``piece`` is the kind, or ``slips``.

    Example:
        >>> sorted(set(bundled_arms()["arm"]))
        ['base', 'continued', 'grpo', 'random_reward', 'rejection']
    """
    import pandas as pd

    with as_file(_folder() / "arms.csv") as path:
        return pd.read_csv(path)


def arm_differences(arms: pd.DataFrame) -> pd.DataFrame:
    """GRPO's sampled accuracy less that of each other arm of its base, and less the base's best decoding.

    Args:
        arms: rows as of `bundled_arms`, of one kind.

    Returns:
        one row a base (``parameters``, ``pretrain_steps``, ``seed``), a column a thing compared with; NaN where it was not run.

    Example:
        >>> arms = bundled_arms()
        >>> bool(arm_differences(arms[arms["piece"] == "acquisition"])["base's best decoding"].mean() > 0)
        True
    """
    keyed = arms.set_index(["parameters", "pretrain_steps", "seed", "arm"])
    sampled = keyed["sampled"].unstack("arm")
    others = {"base's best decoding": keyed["best_decoding"].unstack("arm")["base"]}
    others |= {label: sampled[arm] for arm, label in _CONTROLS.items() if arm in sampled}
    return (-sampled.drop(columns=sampled.columns).assign(**others)).add(sampled["grpo"], axis=0)


def _folder():
    folder = files("scaling.data") / "ladder"
    if not (folder / "runs.parquet").is_file():
        raise ScalingError("the bundled study is missing from this installation: reinstall rl-scaling from its wheel")
    return folder
