"""Where runs execute: settings of the `cluster` and `launch` groups."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sweeps.schema import Strict

__all__ = ["ClusterConfig", "LaunchConfig", "RayConfig", "SlurmConfig"]

Count = Annotated[int, Field(ge=1)]


class SlurmConfig(Strict):
    """What Slurm is asked for; a run is one job (an element of one array)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    time_minutes: Count = 240
    """Time limit of one attempt [min]; a run that reaches it saves, is requeued and continues."""
    grace_seconds: int = Field(default=120, ge=10)
    """How long before the limit, and how long at preemption, a run has to save [s]."""
    max_attempts: Count = 20
    """Attempts a run gets over time limits, preemptions and lost nodes, before it counts as failed."""
    cpus_per_gpu: Count = 4
    memory_gb: int | None = Field(default=None, ge=1)
    """Host memory a node [GB]; None leaves it to the partition."""
    at_once: Count = 256
    """Runs of the array at a time."""
    setup: list[str] = []
    """Shell lines before the run, on its first node: ``module load ...``, ``source .../activate``."""
    container: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None
    mounts: list[str] = []
    """``host:container`` folders; the sweep's and the code's own are added."""
    sbatch: dict[str, str | int | bool] = {}
    """Any other option of sbatch, e.g. ``{mail-type: END}``; true gives a bare flag."""

    @model_validator(mode="after")
    def _image(self) -> SlurmConfig:
        if (self.container == "none") != (self.image is None):
            raise ValueError(
                f"image and container go together: container is pyxis or apptainer with an image, got {self.container!r} and {self.image!r}"
            )
        return self


class RayConfig(Strict):
    """An existing Ray cluster, reached through its Jobs API."""

    address: str = "http://127.0.0.1:8265"
    """Of the dashboard, which serves the Jobs API."""
    cpus: Count = 1
    """CPU cores a run [1]."""


class ClusterConfig(Strict):
    """Where runs execute."""

    engine: Literal["local", "slurm", "ray"] = "local"
    accelerator: str = "auto"
    """Name as `scaling.hardware` knows it; ``auto`` asks the device, ``cpu`` where there is none."""
    nodes: Count = 1
    """Nodes a run [1]."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs a node that a run gets [1]; 0 means ``devices`` on one node."""
    devices: int = Field(default=0, ge=0)
    """Devices a run is allocated, trainer and rollout server together [1]; 0 means nodes x gpus_per_node, at least 1."""
    server_devices: int = Field(default=0, ge=0)
    """Of these, for the vLLM server of ``grpo.vllm=server`` [1]; 0 means the last node, or one GPU of a single node."""
    accelerate_config: str | None = None
    """accelerate's YAML for the trainer ranks (FSDP, DeepSpeed); its process counts are replaced by the run's own."""
    workers: int = Field(default=0, ge=0)
    """Runs at a time on one machine; 0 means one a GPU, or one a core without GPUs."""
    threads: int = Field(default=1, ge=1)
    """CPU threads a run [1]."""
    shared: bool = False
    """Several runs share one device at once: hours are then noise and never fitted."""
    offline: bool = False
    """Compute nodes without internet: hub caches are checked before submission, W&B stays offline until synced."""
    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _count(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        nodes, per_node, devices = (body.get(k) or 0 for k in ("nodes", "gpus_per_node", "devices"))
        if all(isinstance(v, int) for v in (nodes, per_node, devices)) and not devices:
            return {**body, "devices": max(1, nodes) * per_node or 1}
        return body

    @model_validator(mode="after")
    def _layout(self) -> ClusterConfig:
        if self.gpus_per_node and self.devices != self.nodes * self.gpus_per_node:
            raise ValueError(
                f"devices must be nodes x gpus_per_node = {self.nodes * self.gpus_per_node}, or left at 0, got {self.devices}"
            )
        if self.nodes > 1 and not self.gpus_per_node:
            raise ValueError(f"gpus_per_node must be set where nodes is {self.nodes}")
        if self.nodes > 1 and self.engine != "slurm":
            raise ValueError(
                f"nodes must be 1 on engine {self.engine}, got {self.nodes}: several nodes a run need engine slurm"
            )
        if self.server_devices >= self.devices and self.server_devices:
            raise ValueError(
                f"server_devices must leave a device for the trainer, got {self.server_devices} of {self.devices}"
            )
        return self


class LaunchConfig(Strict):
    """How a sweep is launched."""

    dry_run: bool = False
    """Write the manifest with predicted FLOPs and hours, submit nothing."""
    wait: bool = True
    """Wait for the runs and show progress; without it, return after submission."""
    snapshot: bool = True
    """Runs use a copy of the code as it was at submission."""
    completion_length: int = Field(default=0, ge=0)
    """Mean completion length that predictions assume [token]; 0 means the limit, which no run exceeds."""
    prompt_length: int = Field(default=0, ge=0)
    """Mean prompt length that predictions assume [token]; 0 means the task's width, or 256."""
    utilisation: float = Field(default=0.2, gt=0, le=1)
    """Share of the dense peak that predicted hours assume with vLLM, end to end, generation included, 0 to 1."""
    usd_per_gpu_hour: float | None = Field(default=None, gt=0)
    """Price for the manifest [USD / GPU h]; None takes the one that `scaling.hardware` states, if any."""
