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
        argv = [sys.executable, "-m", "sweeps.train", "-m", f"runs_dir={self.runs}", *self.overrides, *overrides]
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
