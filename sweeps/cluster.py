"""Where runs execute: settings of the `cluster` and `launch` groups."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sweeps.schema import Strict

__all__ = ["ClusterConfig", "LaunchConfig"]


class ClusterConfig(Strict):
    """Where runs execute."""

    engine: Literal["local", "slurm", "ray"] = "local"
    accelerator: str = "auto"
    """Name as `scaling.hardware` knows it; ``auto`` asks the device, ``cpu`` where there is none."""
    devices: int = Field(default=1, ge=1)
    """Devices a run is allocated, trainer and rollout server together [1]."""
    workers: int = Field(default=0, ge=0)
    """Runs at a time on one machine; 0 means one a GPU, or one a core without GPUs."""
    threads: int = Field(default=1, ge=1)
    """CPU threads a run [1]."""
    shared: bool = False
    """Several runs share one device at once: hours are then noise and never fitted."""


class LaunchConfig(Strict):
    """How a sweep is launched."""

    dry_run: bool = False
    """Write the manifest with predicted FLOPs and hours, submit nothing."""
    wait: bool = True
    """Wait for the runs and show progress; without it, return after submission."""
