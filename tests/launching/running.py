"""How launcher tests start the command line, with the stub in place of training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STUB = "tests.launching.stub:train"


class Shell:
    """Commands on one runs folder."""

    def __init__(self, runs: Path, *, env: Mapping[str, str] | None = None, overrides: tuple[str, ...] = ()) -> None:
        self.runs, self.overrides = runs, overrides
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "RL_SCALING_TRAIN": STUB,
            "RL_SCALING_EVALUATE": "tests.launching.stub:evaluate",
            "RL_SCALING_DEVICE_LOCKS": str(runs.parent / "locks"),
            **(env or {}),
        }

    def train(self, *overrides: str, ok: bool | None = True, timeout: float = 180) -> str:
        """``python -m sweeps.train -m``; output of both streams."""
        return self._finish(
            [sys.executable, "-m", "sweeps.train", "-m", f"runs_dir={self.runs}", *self.overrides, *overrides],
            ok,
            timeout,
        )

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """The same, left running."""
        return self._start("-m", "sweeps.train", "-m", f"runs_dir={self.runs}", *self.overrides, *overrides)

    def start_evaluation(self, *arguments: str) -> subprocess.Popen[str]:
        """The same for `evaluate`."""
        return self._start("-m", "sweeps.evaluate", *self.overrides, *arguments)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, *arguments]
        return subprocess.Popen(
            argv,
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a suite started in the background ignores Ctrl-C, and a child would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def sweep(self, *arguments: str, ok: bool | None = True) -> str:
        """``rl-scaling sweep``."""
        return self._finish([sys.executable, "-m", "scaling", "sweep", *arguments], ok, 120)

    def evaluate(self, *arguments: str, ok: bool | None = True, timeout: float = 180) -> str:
        """``python -m sweeps.evaluate``; on the same cluster as `train`."""
        return self._finish([sys.executable, "-m", "sweeps.evaluate", *self.overrides, *arguments], ok, timeout)

    def _finish(self, argv: list[str], ok: bool | None, timeout: float) -> str:
        done = subprocess.run(argv, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        text = done.stdout + done.stderr
        if ok is not None:
            assert (done.returncode == 0) == ok, text
        return text


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What a process prints until a line has ``word``."""
    assert process.stdout is not None
    text = ""
    while word not in text:
        line = process.stdout.readline()
        assert line, f"it ended before saying {word!r}: {text}"
        text += line
    return text


def finished_run(sweep: Path, *, seed: int = 0, name: str = "", steps: tuple[int, ...] = (1, 2, 4, 8)) -> Path:
    """A run that has ended and kept checkpoints, without weights in them."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from hydra_plugins.rl_scaling_launcher import register
    from scaling import records
    from sweeps.config import conf_dir, resolve

    register()
    overrides = [
        "model=scratch_16",
        f"seed={seed}",
        "task.held_out=8",
        f"runs_dir={sweep.parent}",
        f"sweep={sweep.name}",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        body: Any = OmegaConf.to_container(compose("config", overrides), resolve=True)
    config = resolve(body)
    path = sweep / config.run_id
    shape = {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 32,
        "tied": True,
    }
    segment = {
        "start": "2026-01-01",
        "end": "2026-01-02",
        "cause": "finished",
        "final_step": steps[-1],
        "final_cost": {},
    }
    records.write_run(path, records.RunRecord(
        run_id=config.run_id, name=name, sweep=sweep.name, config=config.model_dump(mode="json"), status="finished", accelerator="cpu",
        model={"name": "scratch_16", "params": 10_000, "shape": shape}, segments=(segment,),
    ))  # fmt: skip
    with records.Appender(path / records.STEPS) as out:
        for step in range(1, steps[-1] + 1):
            out.write({"segment": 0, "step": step, "cost": {"training_flops": 1e9}, "metrics": {"reward": 0.1}})
    for step in steps:
        folder = path / "snapshots" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "ledger.json").write_text(json.dumps({"step": step, "cost": {"training_flops": step * 1e9}}))
    return path


def run_dirs(sweep: Path) -> list[Path]:
    return sorted(p.parent for p in sweep.glob("*/run.json"))


def record(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "run.json").read_text())


def steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "steps.jsonl").read_text().splitlines()]


def jobs(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((sweep / ".launch" / "jobs").glob("*.json"))]


def until(condition: Callable[[], Any], *, seconds: float = 60, what: str = "condition") -> Any:
    end = time.monotonic() + seconds
    while not (found := _quietly(condition)):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)
    return found


def _quietly(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except (OSError, ValueError, IndexError, KeyError):
        return None
