"""`load` and `read_runs`: from paths and the name of a source to imported runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ForeignLogError, UnknownName
from scaling.importers.convert import convert
from scaling.importers.imported import ImportedRun, RawRun, to_table
from scaling.importers.mapping_file import load_mapping
from scaling.importers.values import lookup
from scaling.runs import RunTable

__all__ = ["SOURCES", "load", "read_runs"]

# source -> (module, function, what a folder is searched for (none: the module searches; None: it takes all paths at once),
#            whether rows of any trainer may be in it, one line of help)
SOURCES: dict[str, tuple[str, str, tuple[str, ...] | None, bool, str]] = {
    "verl": (
        "verl",
        "read",
        ("*.log", "*.log.gz", "*.jsonl", "*.out", "*.txt"),
        False,
        "verl console logs, file-logger JSONL",
    ),
    "trl": ("trl", "read", (), False, "TRL and Hugging Face trainer_state.json"),
    "openrlhf": ("openrlhf", "read", ("*.log", "*.log.gz", "*.out", "*.txt"), False, "OpenRLHF console logs"),
    "wandb": ("wandb", "read", None, True, "W&B: an offline run or folder, a UI CSV export, or ENTITY/PROJECT online"),
    "tensorboard": ("tensorboard", "read", (), True, "TensorBoard event files"),
    "mlflow": ("mlflow", "read", (), True, "MLflow: an mlruns folder or an mlflow.db"),
    "table": ("table", "read", ("*.csv", "*.jsonl", "*.parquet"), False, "any CSV, JSONL or parquet, with --mapping"),
}


def load(
    path: str | Path | Iterable[str | Path],
    source: str,
    mapping: str | Path | Mapping[str, Any] | None = None,
    *,
    gpus: float | None = None,
    shape: Any = None,
    model: str = "",
    lora: bool = False,
    one_run: bool = False,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> RunTable:
    r"""Load runs of another trainer or tracker into a `RunTable`, as `scaling.load_runs` does for run directories.

    Args:
        path: a file, a folder, or several; for ``wandb`` also ``entity/project`` online.
        source: one of `SOURCES`.
        mapping: names and semantics: a shipped trainer, a YAML file, or a dictionary (our name -> their key). Default: the
            source's own trainer, or the one whose names the run uses.
        gpus: devices allocated, where the log does not say [1].
        shape: `scaling.flops.ModelShape` of the model, for FLOPs.
        model: name of the model, where the log does not say.
        lora: only adapters were trained.
        one_run: the paths are successive logs of one run.
        progress: called with the bytes read.
        options: of the source, see its module.

    Raises:
        UnknownName: no such source or mapping.
        ForeignLogError: a log cannot be read, holds no steps, or lacks what its hours are derived from.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.csv"
        >>> _ = path.write_text("step,r,seconds\n1,0.2,30\n2,0.3,30\n")
        >>> load(path, "table", {"step": "step", "reward": "r", "step_seconds": "seconds"}, gpus=8)
        RunTable(1 run, 2 steps, 0 evaluations)
    """
    runs = read_runs(
        path,
        source,
        mapping,
        gpus=gpus,
        shape=shape,
        model=model,
        lora=lora,
        one_run=one_run,
        progress=progress,
        **options,
    )
    return to_table(runs)


def read_runs(
    path: str | Path | Iterable[str | Path],
    source: str,
    mapping: str | Path | Mapping[str, Any] | None = None,
    *,
    gpus: float | None = None,
    shape: Any = None,
    model: str = "",
    lora: bool = False,
    one_run: bool = False,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> list[ImportedRun]:
    r"""The runs behind `load`, each with its record, its lines and the explanation of its keys. Arguments as in `load`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.csv"
        >>> _ = path.write_text("step,r,odd\n1,0.2,30\n2,0.3,30\n")
        >>> [run] = read_runs(path, "table", {"step": "step", "reward": "r"}, gpus=8)
        >>> run.explanation.unmatched
        [('odd', 'the mapping has no use for it')]
    """
    if source not in SOURCES:
        raise UnknownName(f"source must be one of {', '.join(SOURCES)}; got {source!r}")
    module_name, function, patterns, any_trainer, _ = SOURCES[source]
    read = getattr(importlib.import_module(f"scaling.importers.{module_name}"), function)
    chosen = None if mapping is None else load_mapping(mapping)
    if chosen is None and not any_trainer:
        chosen = load_mapping(source)
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    if not paths:
        raise ForeignLogError("at least one path must be given")
    raws: list[RawRun] = []
    for one in [paths] if patterns is None else _expand(paths, patterns):
        found = read(one, chosen, progress, **options)
        raws.extend(found if isinstance(found, list) else [found])
    return [convert(raw, gpus=gpus, shape=shape, model=model, lora=lora) for raw in _join(raws, one_run)]


def _expand(paths: Iterable[str | Path], patterns: tuple[str, ...]) -> list[Any]:
    """Files of the folders among ``paths``; sources without patterns look into folders themselves."""
    out: list[Any] = []
    for one in paths:
        folder = Path(one)
        if not patterns:
            out.append(one)
            continue
        if folder.is_dir():
            files = sorted({f for p in patterns for f in folder.rglob(p) if f.is_file()})
            if not files:
                raise ForeignLogError(f"{folder} holds none of {', '.join(patterns)}; name the files themselves")
            out += files
        elif folder.exists():
            out.append(folder)
        else:
            raise ForeignLogError(f"{folder} must exist")
    return out


def _join(raws: list[RawRun], one_run: bool) -> list[RawRun]:
    """Successive logs of one run become its segments: all of them if asked, else those that the configuration names alike
    and of which each begins where training was under way.
    """
    groups: dict[Any, list[RawRun]] = {}
    for i, raw in enumerate(raws):
        name = (lookup(raw.config, "trainer.project_name"), lookup(raw.config, "trainer.experiment_name"))
        key: Any = "one" if one_run else name if None not in name else i
        groups.setdefault(key, []).append(raw)
    out: list[RawRun] = []
    for members in groups.values():
        members.sort(key=lambda r: r.rows.opening[0])
        starts = [m.rows.opening[0] <= 1 for m in members]
        if len(members) > 1 and (one_run or sum(starts) <= 1):
            first = members[0]
            for later in members[1:]:
                first.rows.extend(later.rows)
                first.files += later.files
                first.skipped += later.skipped
                first.unused |= later.unused
                first.config = first.config or later.config
                first.model_config = first.model_config or later.model_config
                first.gpus = first.gpus or later.gpus
            out.append(first)
        else:
            out += members
    return out
