"""The processes of one run, started, watched and stopped: trainer ranks and, with ``grpo.vllm=server``, a vLLM server.

Which they are, and by which commands, says `sweeps.launching.layout`. Hydra is never inside a rank.

``python -m sweeps.launching.roles CONFIG.json`` runs one attempt of a run that has several processes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaling.errors import ConfigError
from sweeps.launching.jobs import process_start, read_config
from sweeps.launching.layout import address, command, lay_out, on_slurm_steps, ports, wrap
from sweeps.worker import INTERRUPTED

__all__ = ["Processes", "main"]

SERVER = "RL_SCALING_VLLM_SERVER"
"""Command that takes the place of ``trl vllm-serve``; tests put a stand-in there."""
SERVER_START_SECONDS = 900.0  # loading tens of gigabytes of weights from a shared file system
STOP_SECONDS = 30.0


class Processes:
    """The started processes of one attempt."""

    def __init__(self, config_path: Path, *, hosts: Sequence[str] = ("localhost",), key: int | None = None) -> None:
        self.config = read_config(config_path)
        self.config_path = config_path
        self.layout = lay_out(self.config, hosts)
        self.ports = ports(os.getpid() if key is None else key)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.asked = False  # to save and stop

    def start(self) -> None:
        """Run the stages before RL where ranks would, start the server, wait until it is healthy, start the trainer.

        Raises:
            RuntimeError: a stage failed; the server ended or did not get healthy in time.
        """
        env: dict[str, str] = {}
        if self.layout.ranks > 1 and self.config.sft is not None:
            self._run_stages()
        if self.layout.server_host is not None:
            url = f"http://{address(self.layout.server_host)}:{self.ports['server']}"
            self._spawn(
                "server", self._server(), [self.layout.server_host], self.layout.server_devices, self._devices("server")
            )
            self._await_server(url)
            env = {"RL_SCALING_VLLM_URL": url, "RL_SCALING_VLLM_GROUP_PORT": str(self.ports["group"])}
        self._spawn(
            "trainer",
            self._trainer(),
            self.layout.trainer_hosts,
            self.layout.ranks_per_host,
            {**self._devices("trainer"), **env},
        )

    def wait(self) -> int:
        """Wait for the trainer; the server is then stopped. A server that ends first fails the run.

        Returns:
            Exit code of the trainer, `INTERRUPTED` where it was asked to stop and saved.
        """
        while True:
            ended = {name: p.returncode for name, p in self.running.items() if p.poll() is not None}
            if ended:
                break
            time.sleep(0.1)
        if "trainer" not in ended:
            self.stop()
            print(
                f"the vLLM server ended before the trainer (exit code {ended['server']}): see its log above",
                file=sys.stderr,
                flush=True,
            )
            return 1
        code = self.running["trainer"].returncode
        self.stop()
        if self.layout.ranks > 1 and self.asked and code:  # a launcher of ranks reports a rank's 75 as its own failure
            from scaling.records import read_run

            return INTERRUPTED if read_run(self.config.run_dir).status == "interrupted" else code
        return code

    def save(self, seconds: float) -> int | None:
        """Ask the trainer for a checkpoint and wait for it to leave; its exit code, None where time ran out."""
        self.asked = True
        trainer = self.running.get("trainer")
        if trainer is None:
            return None
        end = time.monotonic() + seconds
        if trainer.poll() is None:
            for pid in self._signalled(trainer.pid):
                _signal(pid, signal.SIGTERM if self.layout.plain else signal.SIGUSR1)
        while trainer.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        return trainer.poll()

    def stop(self) -> None:
        """Stop whatever is left, politely first."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self.running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _signalled(self, pid: int) -> list[int]:
        """Who gets the request to save: an srun passes it on; the agent of local ranks does not, so they get it directly."""
        return [pid] if self.layout.plain or on_slurm_steps(self.layout, self.config) else _descendants(pid)

    def _trainer(self) -> list[str]:
        worker = ["-m", "sweeps.worker", str(self.config_path)]
        if self.layout.ranks == 1:
            return [sys.executable, *worker]
        return command(
            worker, nodes=len(self.layout.trainer_hosts), ranks=self.layout.ranks_per_host, address=address(self.layout.trainer_hosts[0]),
            port=self.ports["trainer"], accelerate_config=self.config.cluster.accelerate_config,
        )  # fmt: skip

    def _server(self) -> list[str]:
        model = getattr(self.config.model, "name_or_path", None)
        if model is None:
            raise ConfigError(
                f"grpo.vllm: server needs a model of the hub or a local folder, got {self.config.model.name}"
            )
        own = os.environ.get(SERVER)
        start = shlex.split(own) if own else [sys.executable, "-m", "trl.cli", "vllm-serve"]
        return [
            *start, "--model", model, "--tensor_parallel_size", str(self.layout.server_devices), "--host", "0.0.0.0" if not self.layout.split else "127.0.0.1",
            "--port", str(self.ports["server"]),
        ]  # fmt: skip

    def _run_stages(self) -> None:
        """Supervised stages know one process: ranks would each wait for the other inside."""
        argv = [sys.executable, "-m", "sweeps.worker", "--stages", str(self.config_path)]
        first = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v][:1]
        env = {"CUDA_VISIBLE_DEVICES": first[0]} if first else {}
        self._spawn("stages", argv, self.layout.trainer_hosts[:1], 1, env)
        stage = self.running.pop("stages")
        try:
            while stage.poll() is None and not self.asked:
                time.sleep(0.1)
        finally:
            if stage.poll() is None:
                stage.terminate()
        if self.asked:
            raise RuntimeError("asked to stop before the ranks started: what is trained of the base is kept")
        if stage.returncode:
            raise RuntimeError(f"the stages before RL ended with exit code {stage.returncode}: see the lines above")

    def _devices(self, role: str) -> dict[str, str]:
        """The part of this node's GPUs that a role gets where trainer and server share it."""
        visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        if not self.layout.split or len(visible) < self.config.cluster.devices:
            return {}
        cut = len(visible) - self.layout.server_devices
        return {"CUDA_VISIBLE_DEVICES": ",".join(visible[cut:] if role == "server" else visible[:cut])}

    def _spawn(self, name: str, argv: list[str], hosts: Sequence[str], gpus: int, env: Mapping[str, str]) -> None:
        argv = wrap(argv, name=name, hosts=hosts, gpus=gpus, config=self.config, layout=self.layout)
        print(f"{name}: {shlex.join(argv)}", flush=True)
        self.running[name] = subprocess.Popen(argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL)

    def _await_server(self, url: str) -> None:
        end = time.monotonic() + SERVER_START_SECONDS
        while not _healthy(f"{url}/health/"):
            code = self.running["server"].poll()
            if code is not None:
                raise RuntimeError(
                    f"the vLLM server ended with exit code {code} before it was healthy: see its log above"
                )
            if time.monotonic() > end or self.asked:
                self.stop()
                raise RuntimeError(f"the vLLM server at {url} was not healthy within {SERVER_START_SECONDS:.0f} s")
            time.sleep(0.5)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _descendants(pid: int) -> list[int]:
    """A process and all below it, the process itself first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    out, todo = [], [pid]
    while todo:
        out.append(todo.pop())
        todo += children.get(out[-1], [])
    return out


def _signal(pid: int, number: int) -> None:
    if process_start(pid) is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt of a run on this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.launching.roles", description="Run all processes of one run."
    )
    parser.add_argument("config", type=Path, help="JSON file of a resolved configuration")
    processes = Processes(parser.parse_args(argv).config)
    grace = processes.config.cluster.slurm.grace_seconds

    def save(*_: object) -> None:
        processes.save(grace)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, save)
    processes.start()
    return processes.wait()


if __name__ == "__main__":
    sys.exit(main())
