"""The W&B mirror of one run: everything it shows is in the records already, so losing it costs the run nothing.

`sweeps.wandb_mirror` does the work; what could not be mirrored is counted, reported once, and brought to the server
later from the records by ``rl-scaling wandb sync``.

Layout on the server: every metric is drawn against ``gpu_hours`` (one ``*`` definition), with ``total_flops`` and
``pretraining_flops_ratio`` in the same rows as other axes; ``train/<metric>``, ``eval/<benchmark>/<metric>``,
``compute/<quantity>``.
"""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scaling.cost import ComputeCost
from scaling.errors import ConfigError

__all__ = ["Tracker", "blank_secrets", "compute_metrics", "credentials", "open_tracker", "resolve_mode"]

MODES = ("auto", "online", "offline", "disabled")


class Tracker:
    """A mirror that mirrors nothing (mode ``disabled``); the interface of all trackers. No method ever raises.

    Attributes:
        mode: ``online``, ``offline`` or ``disabled``: what really happens, not what was asked for.
        lost: rows that did not reach the mirror so far [1].
        failure: the first failure in words, or None.
    """

    mode: str = "disabled"
    lost: int = 0
    failure: str | None = None

    def log(self, row: Mapping[str, float]) -> None:
        """Mirror one row; it holds ``gpu_hours`` and ``train/global_step``. Returns at once."""

    def log_completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mirror a bounded table of samples with the next row."""

    def finish(self, exit_code: int = 0) -> None:
        """End this segment of the mirror; bounded in time."""


def compute_metrics(cost: ComputeCost, *, devices: int, rollouts: float, peak: float | None) -> dict[str, float]:
    """The keys ``compute/*`` of one step's row.

    Args:
        cost: of the step.
        devices: of the run [1].
        rollouts: of the run so far [1].
        peak: dense peak of one device, where there is one to state [FLOP/s].
    """
    row = {f"compute/{name}": value for name, value in cost.to_dict().items()}
    row |= {"compute/step_seconds": cost.gpu_seconds / devices, "compute/rollouts_total": rollouts}
    if peak and cost.training_gpu_seconds:
        row["compute/mfu"] = cost.training_flops / cost.training_gpu_seconds / peak
        row["compute/utilisation"] = cost.total_flops / cost.gpu_seconds / peak
    return row


def open_tracker(
    *,
    mode: str = "auto",
    directory: str | Path,
    run_id: str,
    project: str = "rl-scaling",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Tracker:
    """Open the mirror of a run and say in one line where it goes and why; on ranks other than 0, nothing happens.

    Args:
        mode: ``auto`` (``WANDB_MODE`` if set; else online where credentials exist, else offline), ``online``,
            ``offline`` or ``disabled``.
        directory: the run directory; offline files go to its ``wandb/``.
        run_id: id on the server; the same over all segments of a run.
        project: project on the server.
        entity: user or team on the server; its default where None.
        name: display name.
        group: runs of one recipe and size.
        tags: free labels.
        config: the resolved configuration; values of secret environment variables are blanked.
        resume: whether an earlier segment of this run may have been mirrored already.

    Raises:
        ConfigError: the mode is not known. Nothing else ever raises, here or in the tracker's methods.

    Example:
        >>> tracker = open_tracker(mode="disabled", directory="runs/a", run_id="a")
        W&B: disabled (tracking.mode=disabled)
        >>> tracker.log({"gpu_hours": 0.5, "train/global_step": 1, "train/reward": 0.25})
        >>> tracker.finish()
    """
    mode, reason = resolve_mode(mode)
    if os.environ.get("RANK", "0") != "0":  # set by torchrun and accelerate
        return Tracker()
    where = ""
    if mode == "offline":
        where = f"; browse with: wandb leet {Path(directory) / 'wandb'}"
    elif mode == "online":
        where = f"; project {entity + '/' if entity else ''}{project}, run {run_id}"
    print(f"W&B: {mode} ({reason}){where}", flush=True)
    if mode == "disabled":
        return Tracker()
    from sweeps.wandb_mirror import WandbTracker

    identity = {
        "project": project, "entity": entity, "id": run_id, "name": name, "group": group, "tags": list(tags),
    }  # fmt: skip
    return WandbTracker(
        mode=mode, directory=Path(directory), resume=resume,
        identity=blank_secrets(identity), config=blank_secrets(dict(config or {})),
    )  # fmt: skip


def resolve_mode(mode: str) -> tuple[str, str]:
    """What a requested mode comes to on this machine, and why.

    Raises:
        ConfigError: the mode is not one of auto, online, offline, disabled.
    """
    if mode not in MODES:
        raise ConfigError(f"tracking.mode must be one of {', '.join(MODES)}, got {mode!r}")
    reason = f"tracking.mode={mode}"
    if mode == "auto" and os.environ.get("WANDB_MODE") in MODES[1:]:
        mode, reason = os.environ["WANDB_MODE"], f"WANDB_MODE={os.environ['WANDB_MODE']}"
    if mode == "disabled":
        return mode, reason
    if importlib.util.find_spec("wandb") is None:
        return "disabled", "the package wandb is not installed: pip install 'rl-scaling[wandb]'"
    if mode == "offline":
        return mode, reason
    source = credentials()
    if source:
        return "online", f"credentials from {source}"
    hint = "no credentials: set WANDB_API_KEY or run 'wandb login' to mirror online"
    return "offline", hint if mode == "auto" else f"{reason}, but {hint}"


def credentials() -> str | None:
    """Where credentials for the W&B server come from, or None; the credentials themselves are not returned."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    return "netrc" if _netrc_key() else None


def _netrc_key() -> str | None:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        entry = netrc.netrc(os.environ.get("NETRC") or None).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None


def blank_secrets(value: Any) -> Any:
    """``value`` with every secret of the environment and of netrc replaced by ``***`` in its texts.

    A secret is the value of a variable whose name ends with KEY, TOKEN, SECRET or PASSWORD, 8 characters or longer.
    """
    named = (v for k, v in os.environ.items() if k.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")))
    return _blank(value, tuple(v for v in (*named, _netrc_key()) if v and len(v) >= 8))


def _blank(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    elif isinstance(value, Mapping):
        return {key: _blank(v, secrets) for key, v in value.items()}
    elif isinstance(value, (list, tuple)):
        return [_blank(v, secrets) for v in value]
    return value
