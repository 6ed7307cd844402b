"""Which processes a run has, on which nodes, and the commands that start them.

A run on one device is one worker process. More trainer devices make ranks under torchrun, or under ``accelerate launch``
where ``cluster.accelerate_config`` asks for FSDP or DeepSpeed. On Slurm each role is an ``srun`` step on its own nodes; on
one machine a child process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.errors import ConfigError
from sweeps.config import RunConfig

__all__ = ["Layout", "address", "command", "lay_out", "on_slurm_steps", "ports", "wrap"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which processes run where.

    Attributes:
        trainer_hosts: nodes of trainer ranks.
        ranks_per_host: trainer ranks on each; 1 rank in all is a plain worker.
        server_host: node of the vLLM server, or None.
        server_devices: devices of the server [1].
        split: whether server and trainer share one node, each with its part of the GPUs.
    """

    trainer_hosts: tuple[str, ...]
    ranks_per_host: int
    server_host: str | None = None
    server_devices: int = 0
    split: bool = False

    @property
    def ranks(self) -> int:
        """Trainer ranks in all."""
        return len(self.trainer_hosts) * self.ranks_per_host

    @property
    def plain(self) -> bool:
        """Whether the run is one process."""
        return self.ranks == 1 and self.server_host is None


def lay_out(config: RunConfig, hosts: Sequence[str] = ("localhost",)) -> Layout:
    """Lay a run out over its nodes.

    Raises:
        ConfigError: the devices do not suffice for a trainer and a server, or cannot be divided.

    Example:
        >>> lay_out(config, ["n0", "n1", "n2"])  # doctest: +SKIP
        Layout(trainer_hosts=('n0', 'n1'), ranks_per_host=8, server_host='n2', server_devices=8, split=False)
    """
    cluster = config.cluster
    nodes: tuple[str, ...] = tuple(hosts)
    per_node = cluster.devices // len(nodes)
    if config.grpo.vllm != "server":
        if cluster.server_devices:
            raise ConfigError(
                f"cluster.server_devices: must be 0 where grpo.vllm is {config.grpo.vllm}, got {cluster.server_devices}"
            )
        return Layout(trainer_hosts=nodes, ranks_per_host=per_node)
    if len(nodes) > 1:
        if cluster.server_devices not in (0, per_node):
            raise ConfigError(
                f"cluster.server_devices: must be the {per_node} GPUs of one whole node where a run has several, got {cluster.server_devices}"
            )
        return Layout(trainer_hosts=nodes[:-1], ranks_per_host=per_node, server_host=nodes[-1], server_devices=per_node)
    if cluster.devices < 2:
        raise ConfigError(
            "cluster.devices: grpo.vllm=server needs a device for the server and one for the trainer, got 1: use colocate, or more devices"
        )
    server = cluster.server_devices or 1
    return Layout(
        trainer_hosts=nodes,
        ranks_per_host=per_node - server,
        server_host=next(iter(nodes)),
        server_devices=server,
        split=True,
    )


def ports(key: int) -> dict[str, int]:
    """Ports of a run, from its job or process number: runs that share a node do not share ports."""
    base = 20_000 + key * 3 % 30_000
    return {"trainer": base, "server": base + 1, "group": base + 2}


def command(
    worker: Sequence[str], *, nodes: int, ranks: int, address: str, port: int, accelerate_config: str | None = None
) -> list[str]:
    """The command of one node's trainer ranks.

    The agent that watches the ranks would end at SIGUSR1 and take them along; it inherits an ignored signal, and the ranks,
    which set their own handler, save. The node's rank is Slurm's number of the node within the step.
    """
    if accelerate_config is None:
        launch = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(ranks), "--node-rank", "NODE_RANK",
            "--master-addr", address, "--master-port", str(port), *worker,
        ]  # fmt: skip
    else:
        launch = [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", accelerate_config, "--num_machines", str(nodes),
            "--num_processes", str(nodes * ranks), "--machine_rank", "NODE_RANK", "--main_process_ip", address,
            "--main_process_port", str(port), *worker,
        ]  # fmt: skip
    line = shlex.join(launch).replace("NODE_RANK", '"${SLURM_NODEID:-0}"' if nodes > 1 else "0")
    return ["bash", "-c", f"trap '' USR1; exec {line}"]


def on_slurm_steps(layout: Layout, config: RunConfig) -> bool:
    """Whether roles are srun steps: several nodes, or a container that srun brings up."""
    several = len({*layout.trainer_hosts, layout.server_host} - {None}) > 1
    return "SLURM_JOB_ID" in os.environ and (several or config.cluster.slurm.container == "pyxis")


def wrap(
    argv: list[str], *, name: str, hosts: Sequence[str], gpus: int, config: RunConfig, layout: Layout
) -> list[str]:
    """A role's command as its nodes run it: inside the run's container, and as an ``srun`` step where roles are steps."""
    slurm = config.cluster.slurm
    mounts = [*slurm.mounts, *_own_folders(config)]
    if slurm.container == "apptainer" and slurm.image:
        argv = ["apptainer", "exec", "--nv", *(f"--bind={m}" for m in mounts), slurm.image, *argv]
    if not on_slurm_steps(layout, config):
        return argv
    step = [
        "srun", f"--job-name={name}", f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", f"--nodelist={','.join(hosts)}", "--ntasks-per-node=1",
        "--kill-on-bad-exit=1", "--wait=60", "--exact", "--unbuffered", f"--cpus-per-task={slurm.cpus_per_gpu * max(1, gpus)}",
    ]  # fmt: skip
    if config.cluster.gpus_per_node:
        step.append(f"--gpus-per-node={gpus}")
    if slurm.container == "pyxis" and slurm.image:
        step += [f"--container-image={slurm.image}", f"--container-mounts={','.join(mounts)}"]
    return [*step, *argv]


def _own_folders(config: RunConfig) -> list[str]:
    """The folders that a container must see: runs, bases, code, and where Python's packages may lie."""
    folders = {
        os.path.abspath(config.runs_dir),
        os.path.abspath(config.bases_dir),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    }
    return [f"{folder}:{folder}" for folder in sorted(folders) if folder]


def address(host: str) -> str:
    """A name or address that other nodes can reach: Slurm's NodeAddr, since node names need not resolve."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        shown = subprocess.run(
            ["scontrol", "show", "node", "-o", host], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return host
    return dict(field.split("=", 1) for field in shown.split() if "=" in field).get("NodeAddr", host)
