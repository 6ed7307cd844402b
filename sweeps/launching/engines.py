"""What the launcher asks of an engine, and which one a job belongs to."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from sweeps.launching.jobs import Job, Notes

__all__ = ["cancel", "engine", "refresh"]


def engine(name: str) -> Any:
    """The module of an engine: ``refresh(notes, jobs)``, ``cancel(notes, jobs)``; imported on use."""
    return importlib.import_module(f"sweeps.launching.{'ray_jobs' if name == 'ray' else name}")


def refresh(notes: Notes) -> dict[str, Job]:
    """All jobs of a sweep as they are now, by run id."""
    jobs = notes.jobs()
    for name in {job.engine for job in jobs.values() if job.active}:
        of_engine = [job for job in jobs.values() if job.engine == name]
        jobs |= {job.run_id: job for job in engine(name).refresh(notes, of_engine)}
    return jobs


def cancel(notes: Notes, jobs: Sequence[Job]) -> None:
    """Take queued jobs back and ask running ones to save and stop."""
    for name in {job.engine for job in jobs}:
        engine(name).cancel(notes, [job for job in jobs if job.engine == name])
