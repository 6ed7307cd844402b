"""What is not known, and where everything came from."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

import scaling
from scaling import records
from scaling.errors import RecordError
from scaling.fitting import Fit
from scaling.report.gather import Analysis
from scaling.report.page import Note, Section, Table
from scaling.report.text import number, plural, some

__all__ = ["provenance", "unknown"]


def unknown(a: Analysis) -> Section:
    """What limits the report, said plainly."""
    lines = list(a.notes)
    runs: Any = a.table.runs
    fits = a.fits.get(a.axis, {})
    for status in sorted({str(f.status) for f in fits.values() if isinstance(f, Fit) and not f.identified}):
        names = [name for name, f in fits.items() if isinstance(f, Fit) and str(f.status) == status]
        lines.append(f"{status[:1].upper()}{status[1:]}: {some(names)}.")
    single = [g.name for g in a.groups if len(g.run_ids) == 1]
    if single:
        lines.append(f"One seed only in {some(single)}: their intervals do not contain the spread between seeds.")
    for confidence in ("derived", "assumed"):
        names = runs.loc[runs["confidence"] == confidence, "name"].tolist()
        if names:
            lines.append(f"The cost of {some(names)} was {confidence}, not measured.")
    unfinished = runs.loc[~runs["status"].isin(["finished", "budget"]), "name"].tolist()
    if unfinished:
        lines.append(f"Not finished: {some(unfinished)}; what is shown is their state at the time of the report.")
    if len(set(runs["accelerator"])) > 1:
        lines.append(
            f"GPU-hours of different accelerators are not converted: {', '.join(sorted(set(runs['accelerator'])))}."
        )
    if a.table.skipped:
        reasons = Counter(s.reason.split(",")[0] for s in a.table.skipped)
        told = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(4))
        lines.append(
            f"{plural(len(a.table.skipped), 'line')} of the records were skipped, first {a.table.skipped[0]}: {told}."
        )
    lines.append("Scores are those of one benchmark under one decoding; other benchmarks may move otherwise.")
    lead = f"{plural(len(lines), 'thing')} limit{'s' if len(lines) == 1 else ''} what these runs can tell."
    return Section("unknown", "What is not known", lead, (Note(tuple(lines)),))


def provenance(a: Analysis, *, command: str = "") -> Section:
    """Commands, commits, versions, seeds, hashes of the data."""
    rows, commits, packages = [], Counter(), {}
    for row in a.table.runs.to_dict("records"):
        path = Path(str(row["path"]))
        record = _record(path)
        seen = sorted({str(s.get("git_commit") or "unknown")[:12] for s in record.segments}) if record else []
        commits.update(seen)
        for segment in record.segments if record else ():
            packages |= {str(k): str(v) for k, v in (segment.get("packages") or {}).items()}
        rows.append(
            {
                "run_id": row["run_id"],
                "name": row["name"],
                "seed": row["seed"],
                "status": row["status"],
                "segments": row["segments"],
                "steps": row["steps"],
                "gpu_hours_paid": row["gpu_hours_paid"],
                "confidence": row["confidence"],
                "trainer": row["trainer"],
                "git_commits": " ".join(seen),
                "sha256": digest(path),
            }
        )
    frame = pd.DataFrame(rows)
    whole = hashlib.sha256("".join(sorted(str(r["sha256"]) for r in rows)).encode()).hexdigest()
    settings = ", ".join(f"{k}={v}" for k, v in a.settings.items() if v is not None)
    lines = [
        *([f"Command: {command}"] if command else []),
        f"rl-scaling {scaling.__version__}, Python {platform.python_version()}, "
        f"{_versions('numpy', 'scipy', 'pandas', 'plotly')}",
        f"Fits: benchmark={a.benchmark}, {settings}",
        f"Training code: {', '.join(f'{c} ({n})' for c, n in commits.most_common(4)) or 'commit unknown'}"
        + (f"; {_known(packages)}" if packages else ""),
        f"SHA-256 over the records of all runs: {whole}",
    ]
    shown = pd.DataFrame(
        {
            "run": frame["name"],
            "id": frame["run_id"].astype(str).str[:16],
            "seed": frame["seed"].map(_or_dash),
            "status": frame["status"],
            "steps": frame["steps"],
            "segments": frame["segments"],
            "GPU-hours paid": frame["gpu_hours_paid"].map(number),
            "cost": frame["confidence"],
            "commit": frame["git_commits"].map(_or_dash),
        }
    )
    lead = "How this page was made, and from what: the same records and the same settings give the same numbers."
    caption = "One row a run. runs.csv beside the page has all of them with the hash of their records."
    if len(shown) > 60:
        caption = f"The first 60 of {len(shown)} runs. " + caption
    return Section(
        "provenance", "Provenance", lead, (Note(tuple(lines)), Table(shown.head(60), caption, "runs", frame))
    )


def _record(path: Path) -> records.RunRecord | None:
    try:
        return records.read_run(path)
    except (RecordError, OSError):  # an imported table has no folder of its own
        return None


def digest(path: Path) -> str:
    digest = hashlib.sha256()
    for name in (records.RUN, records.STEPS, records.EVALS):
        file = path / name
        if file.is_file():
            with file.open("rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


def _versions(*names: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _known(packages: dict[str, str]) -> str:
    return ", ".join(f"{k} {packages[k]}" for k in ("torch", "trl", "transformers") if k in packages)


def _or_dash(value: Any) -> str:
    text = "" if value is None or value != value else str(value)
    return text or "–"
