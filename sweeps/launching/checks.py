"""What ``rl-scaling doctor`` looks at: one check a function, one line a result, with what to do about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CHECKS", "Result", "run_checks"]

LEAST_DISK_GB = 20.0


@dataclass(frozen=True)
class Result:
    """One line of the doctor.

    Attributes:
        name: what was looked at.
        state: ok, note (works, with a limit), missing (an option that is not there) or bad (training would fail).
        found: what was found.
        fix: what to do; empty where all is well.
    """

    name: str
    state: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:7s} {self.name}: {self.found}" + (f"  -> {self.fix}" if self.fix else "")


def run_checks(runs_dir: Path) -> Iterator[Result]:
    """Run every check; one that breaks is itself a bad result."""
    for name, check in CHECKS.items():
        try:
            yield check(runs_dir)
        except Exception as error:  # a broken installation fails in any way it likes; the doctor must go on
            yield Result(
                name,
                "bad",
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
                "reinstall: pip install 'rl-scaling[train]'",
            )


def python(_: Path) -> Result:
    """Python itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Result("Python", "ok" if good else "bad", version, "" if good else "use Python 3.11 to 3.13")


def torch(_: Path) -> Result:
    """PyTorch and the accelerator."""
    import torch as t

    from scaling.errors import UnknownName
    from scaling.hardware import accelerator

    if not t.cuda.is_available():
        driver = " although nvidia-smi is here" if shutil.which("nvidia-smi") else ""
        fix = "install a torch build for this driver: https://pytorch.org/get-started/locally/" if driver else ""
        return Result(
            "torch", "bad" if driver else "note", f"{t.__version__}, no accelerator{driver}: runs use the CPU", fix
        )
    names = [t.cuda.get_device_name(i) for i in range(t.cuda.device_count())]
    shown = f"{t.__version__}, {len(names)} x {names[0]}"
    try:
        return Result("torch", "ok", f"{shown}, dense bf16 peak {accelerator(names[0]).peak() / 1e12:.0f} TFLOP/s")
    except UnknownName:
        return Result(
            "torch",
            "note",
            f"{shown}, whose peak is not known: hours are metered, MFU is not",
            "set cluster.accelerator to a known name",
        )


def trainer(_: Path) -> Result:
    """TRL and transformers."""
    found = {name: _version(name) for name in ("trl", "transformers", "accelerate", "datasets")}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Result("trainer", "bad", f"{', '.join(missing)} not installed", "pip install 'rl-scaling[train]'")
    tested = "1.16.0"
    shown = ", ".join(f"{k} {v}" for k, v in found.items())
    return Result(
        "trainer",
        "ok" if found["trl"] == tested else "note",
        shown,
        "" if found["trl"] == tested else f"tested with trl=={tested}",
    )


def vllm(_: Path) -> Result:
    """Whether vLLM is there, in a version that TRL supports."""
    version = _version("vllm")
    if version is None:
        return Result(
            "vLLM",
            "missing",
            "not installed: generation through transformers, much slower on GPUs",
            "pip install 'trl[vllm]' for grpo.vllm=colocate or server",
        )
    from trl.import_utils import is_vllm_available

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = is_vllm_available()
    said = [str(w.message) for w in caught if "vLLM" in str(w.message)]
    if not usable or said:
        return Result(
            "vLLM",
            "bad",
            said[0].split(". ")[0] if said else f"{version} cannot be imported",
            "pip install 'trl[vllm]' takes one that fits",
        )
    return Result("vLLM", "ok", f"{version}, within what TRL supports")


def slurm(_: Path) -> Result:
    """The controller, and whether the cluster keeps accounts."""
    if not shutil.which("sbatch"):
        return Result("Slurm", "missing", "no sbatch on PATH: cluster=local and cluster=ray only")
    from sweeps.launching.slurm import SlurmError, _run

    try:
        partitions = sorted(set(_run(["sinfo", "--noheader", "--format=%R"]).split()))
    except SlurmError as error:
        return Result("Slurm", "note", str(error), "check SLURM_CONF and the network from this node")
    try:
        _run(["sacct", "-n", "-X", "-o", "JobID", "--starttime=now"])
        accounts = "with accounts"
    except SlurmError:
        accounts = "without accounts: `sweep reconcile` is not possible"
    return Result("Slurm", "ok", f"partitions {', '.join(partitions)}, {accounts}")


def ray(_: Path) -> Result:
    """Ray's Jobs API."""
    if _version("ray") is None:
        return Result(
            "Ray",
            "missing",
            "not installed: cluster=local and cluster=slurm only",
            "pip install 'ray[default]' for cluster=ray",
        )
    from sweeps.cluster import RayConfig

    address = os.environ.get("RAY_API_SERVER_ADDRESS", RayConfig().address)
    from sweeps.launching.ray_jobs import reachable

    why = reachable(address)
    return Result(
        "Ray",
        "ok" if why is None else "note",
        f"{_version('ray')}, {address} {'answers' if why is None else f'does not answer: {why}'}",
    )


def wandb(_: Path) -> Result:
    """W&B's credentials."""
    if _version("wandb") is None:
        return Result(
            "W&B", "missing", "not installed: no mirror", "pip install 'rl-scaling[wandb]', or tracking=disabled"
        )
    from sweeps.tracking import credentials

    where = credentials()
    if where is None:
        return Result(
            "W&B",
            "note",
            f"{_version('wandb')}, no login: mirrors stay offline",
            "wandb login, or `wandb leet` without an account",
        )
    return Result("W&B", "ok", f"{_version('wandb')}, login from {where}")


def disk(runs_dir: Path) -> Result:
    """Free disk where runs are written."""
    place = next(p for p in (runs_dir.absolute(), *runs_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    if not os.access(place, os.W_OK):
        return Result("disk", "bad", f"{place} cannot be written", "choose another runs_dir")
    few = free < LEAST_DISK_GB
    return Result(
        "disk",
        "note" if few else "ok",
        f"{free:.0f} GB free at {place}",
        "a 7 B run keeps about 85 GB a checkpoint" if few else "",
    )


def locks(runs_dir: Path) -> Result:
    """Whether locks work where runs are written: they keep two processes from one run."""
    from sweeps.launching.jobs import is_locked

    place = next(p for p in (runs_dir.absolute(), *runs_dir.absolute().parents) if p.exists())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as f:
        code = f"import fcntl,sys\nf=open({f.name!r},'ab')\nfcntl.flock(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout and other.stdin
            other.stdout.readline()
            held = is_locked(Path(f.name))
            other.stdin.close()
            other.wait(10)
        freed = not is_locked(Path(f.name))
    good = held and freed
    return Result(
        "locks",
        "ok" if good else "bad",
        f"{'work' if good else 'do not work'} at {place}",
        "" if good else "mount with locks (NFS: local_lock=none), or choose another runs_dir",
    )


def launcher(_: Path) -> Result:
    """Hydra and our plugin."""
    from hydra_plugins.rl_scaling_launcher import register
    from sweeps.config import conf_dir

    register()
    return Result(
        "launcher",
        "ok",
        f"hydra-core {_version('hydra-core')}, submitit {_version('submitit')}, settings in {conf_dir()}",
    )


def verifiers(_: Path) -> Result:
    """Each verifier on known pairs: a right answer in several forms, wrong ones, none."""
    from sweeps.tasks import ChainConfig, CountdownConfig, build
    from sweeps.tasks.verifier import MathVerifier

    wrong: list[str] = []

    def expect(name: str, got: list[float], right: list[float]) -> None:
        if list(got) != right:
            wrong.append(f"{name} scored {list(got)}, must be {right}")

    chain = build(ChainConfig.model_validate({"held_out": 4}))
    gold = chain.training_rows(n=1, seed=0)[0]["answer"]
    other = str((int(gold.split()[-1]) + 1) % chain.config.modulus)
    expect("chain", chain.verify([f"1 , 2 = {gold}", f"1 , 2 = {other}", "no answer"], [gold] * 3), [1.0, 0.0, 0.0])
    countdown = build(CountdownConfig.model_validate({"name": "countdown"}))
    row = countdown.training_rows(n=1, seed=0)[0]
    expect("countdown", countdown.verify(["<answer>0</answer>", "none"], [row["answer"]] * 2), [0.0, 0.0])
    with MathVerifier(workers=1) as verifier:
        pairs = {
            r"so \boxed{0.5}": r"\frac{1}{2}",
            r"\boxed{3}": "4",
            r"\boxed{x^2+2x+1}": "(x+1)^2",
            "I do not know": "7",
        }
        got = [float(o == "correct") for o in verifier.outcomes(list(pairs), list(pairs.values()))]
    expect("math", got, [1.0, 0.0, 1.0, 0.0])
    return Result(
        "verifiers",
        "bad" if wrong else "ok",
        "; ".join(wrong) or "chain, countdown and math score known pairs as they must",
        "reinstall math-verify" if wrong else "",
    )


CHECKS: dict[str, Callable[[Path], Result]] = {
    "Python": python, "torch": torch, "trainer": trainer, "vLLM": vllm, "launcher": launcher, "Slurm": slurm, "Ray": ray, "W&B": wandb,
    "disk": disk, "locks": locks, "verifiers": verifiers,
}  # fmt: skip


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
