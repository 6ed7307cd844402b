"""The W&B workspace and report of a study, as code: built and validated without a login, updated in place.

Both show what the mirror logs (`sweeps.wandb_mirror`) and what `sweeps.wandb_fit` adds: fitted curves and their table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling import records
from scaling.errors import ConfigError, ScalingError
from sweeps.files import read_json, write_json
from sweeps.tracking import credentials
from sweeps.wandb_fit import FIGURE, PARAMETERS
from sweeps.wandb_mirror import wandb_settings

__all__ = ["Dashboard", "Urls", "build_report", "build_workspace", "describe", "save", "spec", "state_folder"]

STATE = "wandb-dashboard.json"  # beside the runs: where the workspace and the report of each project are
NAME = "rl-scaling"

AXES = {
    "gpu_hours": "GPU-hours (evaluation, start-up and redone work left out)",
    "total_flops": "RL model FLOPs",
    "pretraining_flops_ratio": "RL model FLOPs / pretraining FLOPs",
}
TRAINING = {
    "reward": "Reward",
    "completion_length": "Completion length [token]",
    "entropy": "Entropy [nat/token]",
    "truncation_rate": "Truncation rate",
    "zero_variance_fraction": "Zero-variance fraction (groups that teach nothing)",
    "kl": "KL to the base",
}
COMPUTE = {
    "compute/mfu": "MFU of training, 0 to 1",
    "compute/utilisation": "Utilisation, idle included, 0 to 1",
    "compute/step_seconds": "Seconds a step",
}


@dataclass(frozen=True)
class Dashboard:
    """What the panels are about.

    Attributes:
        entity: user or team.
        project: project of the runs.
        benchmarks: held-out benchmarks, as in ``eval/<benchmark>/pass@1``.
        group_by: configuration key whose values are the lines of every panel; ``params`` is the size.
    """

    entity: str
    project: str
    benchmarks: tuple[str, ...]
    group_by: str = "params"


@dataclass(frozen=True)
class Urls:
    """Where the two are, and whether they were there before."""

    workspace: str
    report: str | None
    updated: bool


def panels(board: Dashboard) -> dict[str, list[Any]]:
    """Section name -> panels, for the workspace and the report alike."""
    wr = _reports()

    def line(key: str, title: str, axis: str = "gpu_hours", **options: Any) -> Any:
        return wr.LinePlot(
            title=title, x=axis, y=[key], title_x=AXES[axis], groupby=wr.Config(board.group_by), groupby_aggfunc="mean",
            groupby_rangefunc="minmax", max_runs_to_show=100, smoothing_type="none", **options,
        )  # fmt: skip

    scores = [(name, f"eval/{name}/pass@1") for name in board.benchmarks]
    return {
        "Held-out accuracy": [line(key, f"{name}: pass@1") for name, key in scores],
        "Against pretraining": [
            line(key, f"{name}: pass@1", axis, log_x=True)
            for name, key in scores
            for axis in ("total_flops", "pretraining_flops_ratio")
        ],
        "Fitted curves": [
            wr.MediaBrowser(title="Fitted curves with 90 % bands", media_keys=[FIGURE], num_columns=1),
            wr.WeavePanelSummaryTable(table_name=PARAMETERS, layout=wr.Layout(w=24, h=10)),
        ],
        "Training": [line(f"train/{name}", title) for name, title in TRAINING.items()]
        + [line(f"eval/{name}/completion_length", f"{name}: completion length [token]") for name in board.benchmarks],
        "Compute": [line(key, title) for key, title in COMPUTE.items()],
    }


def build_workspace(board: Dashboard) -> Any:
    """The workspace, validated, not saved; needs no login.

    Returns:
        a ``wandb_workspaces.workspaces.Workspace``.
    """
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=name,
            panels=shown,
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=2, rows=max(1, (len(shown) + 1) // 2)),
            panel_settings=ws.SectionPanelSettings(x_axis="gpu_hours"),
        )
        for name, shown in panels(board).items()
        if shown
    ]
    return ws.Workspace(
        entity=board.entity,
        project=board.project,
        name=f"{NAME}: {board.project}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="gpu_hours", smoothing_type="none", max_runs=100),
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(board.group_by)]),
    )


def build_report(board: Dashboard, *, summary: str = "", runset: bool = True) -> Any:
    """The report of a study, for sharing: the table of fits in words, then the same panels.

    Args:
        board: what it is about.
        summary: Markdown under the title.
        runset: name the project in the panels' run set; False validates without a login.

    Returns:
        a ``wandb_workspaces.reports.v2.Report``.
    """
    wr = _reports()
    where = {"entity": board.entity, "project": board.project} if runset else {}
    blocks: list[Any] = [wr.MarkdownBlock(text=summary)] if summary else []
    for name, shown in panels(board).items():
        if shown:
            grid = wr.PanelGrid(
                runsets=[wr.Runset(name="runs", groupby=[f"config.{board.group_by}"], **where)], panels=shown
            )
            blocks += [wr.H2(text=name), grid]
    blocks.append(wr.MarkdownBlock(text=NOTES))
    title = f"{NAME}: {board.project}"[:128]
    description = "Scaling of reinforcement learning over model sizes and compute"
    return wr.Report(entity=board.entity, project=board.project, title=title, description=description, blocks=blocks)


NOTES = """GPU-hours are devices allocated x wall time without evaluation, start-up and redone work: what curves are
fitted against. FLOPs are model FLOPs: real tokens, causal attention, whatever backend generated. An asymptote is given
as an interval with its verdict; *not identified* means that the runs do not determine it."""


def save(board: Dashboard, folder: Path, *, summary: str = "", report: bool = True) -> Urls:
    """Save the workspace and the report, in place of those saved before from ``folder``.

    Edits made by hand to either are replaced; a copy under another name in the W&B app is left alone.
    """
    import wandb_workspaces.workspaces as ws

    wr = _reports()
    state = read_json(folder / STATE)
    key = f"{board.entity}/{board.project}"
    known = state.get(key, {})

    workspace = build_workspace(board)
    before = _load(ws.Workspace.from_url, known.get("workspace"))
    if before is not None:
        for name in ("_internal_name", "_internal_id", "_internal_runset_id"):
            setattr(workspace, name, getattr(before, name))
    workspace.save()
    urls = {"workspace": str(workspace.url)}

    if report:
        page = build_report(board, summary=summary)
        old = _load(wr.Report.from_url, known.get("report"))
        if old is not None:
            page.id = old.id
        page.save()
        urls["report"] = str(page.url)
    state[key] = {**known, **urls}
    write_json(folder / STATE, state)
    return Urls(urls["workspace"], urls.get("report"), updated=before is not None)


def spec(board: Dashboard, *, summary: str = "") -> dict[str, Any]:
    """What would be saved, as plain JSON: for ``--dry-run`` and for tests; needs no login."""
    workspace = build_workspace(board)._to_model()
    report = build_report(board, summary=summary, runset=False)._to_model()
    return {
        "workspace": json.loads(workspace.spec.model_dump_json(by_alias=True, exclude_none=True)),
        "report": json.loads(report.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }


def describe(
    paths: Sequence[Path], *, project: str | None, entity: str | None, group_by: str = "params", offline: bool = False
) -> tuple[Any, Dashboard]:
    """The runs under ``paths`` as a `RunTable`, and the dashboard that fits them.

    Args:
        paths: run directories or folders of them.
        project: by default the one that the runs mirror to.
        entity: by default that of the runs' mirror, else the account's own.
        group_by: see `Dashboard`.
        offline: do not ask the server for the account's entity.

    Raises:
        ConfigError: runs mirror to several projects and none is named, or there are no credentials.
    """
    from scaling.runs import find_runs, load_runs
    from sweeps.wandb_sync import mirror_place

    table = load_runs(list(paths))
    places = [mirror_place(run) for path in paths for run in find_runs(Path(path))]
    projects = sorted({name for name, _ in places})
    if project is None and len(projects) != 1:
        raise ConfigError(f"runs mirror to several projects, {', '.join(projects)}: name one with --project")
    entity = entity or next((owner for _, owner in places if owner), None)
    if not offline:
        if credentials() is None:
            raise ConfigError(
                "wandb dashboard needs credentials: set WANDB_API_KEY or run 'wandb login', or use --dry-run"
            )
        import wandb

        wandb.setup(settings=wandb_settings())
        entity = entity or wandb.Api(timeout=30).default_entity
    benchmarks = tuple(sorted(table.evals["benchmark"].unique())) if len(table.evals) else ()
    board = Dashboard(
        entity=entity or "entity", project=project or projects[0], benchmarks=benchmarks, group_by=group_by
    )
    return table, board


def state_folder(paths: Sequence[Path]) -> Path:
    """Where the addresses are kept: the first path, or the folder of a single run directory."""
    first = Path(paths[0])
    return first.parent if records.is_run(first) else first


def _load(loader: Any, url: str | None) -> Any:
    """What is behind a stored URL, or None where there is none any more (deleted in the app)."""
    if not url:
        return None
    try:
        return loader(url)
    except TypeError:  # a report that is gone comes as null
        return None
    except ValueError as error:
        if "not found" in str(error):
            return None
        raise ScalingError(f"cannot read {url}: {error}; remove its line from {STATE} to make a new one") from error


def _reports() -> Any:
    try:
        import wandb_workspaces.reports.v2 as wr
    except ModuleNotFoundError as error:
        raise ConfigError(f"the dashboard needs the package {error.name}: pip install 'rl-scaling[wandb]'") from error
    return wr
