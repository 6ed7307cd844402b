"""What the GPU benchmarks share: composing a run, processes of their own, and results that survive a kill."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MARK = "RESULT "
_ONE_AT_A_TIME = threading.Lock()
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "PYTHONUNBUFFERED": "1",
}


def compose(overrides: Sequence[str]) -> Any:
    """The resolved configuration of a run."""
    from sweeps.config import composed

    with _ONE_AT_A_TIME:  # Hydra's state is the process's own, and checks compose from threads
        return composed(overrides)


def scratch(hidden: int, layers: int) -> list[str]:
    """Overrides for a model trained from scratch of this width and depth."""
    heads = max(2, hidden // 64)
    return [
        "model=scratch_64x3", f"model.name=h{hidden}x{layers}", f"model.hidden_size={hidden}", f"model.num_layers={layers}",
        f"model.num_heads={heads}", f"model.intermediate_size={4 * hidden}",
    ]  # fmt: skip


class Results:
    """Cells in the order they finish, written whole to one JSON file after each.

    Attributes:
        before: what an earlier call left in the file, empty if it was of another benchmark or device.
        cells: of this call, and those of the earlier one that `keep` took over.
    """

    def __init__(self, path: Path, benchmark: str, device: str, **facts: Any) -> None:
        self.path, self.cells = path, []
        self.body: dict[str, Any] = {
            "benchmark": benchmark, "device": device, "machine": machine(device), "commit": commit(), **facts, "cells": self.cells,
        }  # fmt: skip
        self.lock = threading.Lock()
        self.start = time.monotonic()
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        same = all(old.get(k) == self.body[k] for k in ("benchmark", "device")) and old.get("tiny") == facts.get("tiny")
        self.before: dict[str, Any] = old if same else {}

    def keep(self, cells: Sequence[dict[str, Any]]) -> None:
        """Take over cells of the earlier call."""
        self.cells.extend(cells)

    def add(self, cell: dict[str, Any]) -> None:
        with self.lock:
            self.cells.append({**cell, "at_seconds": round(time.monotonic() - self.start, 1)})
            self.write()
            print(f"[{self.cells[-1]['at_seconds']:6.1f} s] {json.dumps(cell)}", flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.body, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table; a missing value is a dash."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        values = [row.get(c) for c in columns]
        lines.append(
            "| "
            + " | ".join("-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)
            + " |"
        )
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """Names and versions that a figure depends on."""
    from importlib.metadata import version

    import torch

    name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
    packages = {p: version(p) for p in ("torch", "transformers", "trl", "accelerate")}
    return {"accelerator": name, "cores": os.cpu_count(), "python": sys.version.split()[0], "packages": packages}


def commit() -> str | None:
    """Commit of the code, where it is a checkout."""
    from sweeps.run_dir import git_commit

    return git_commit(ROOT)


def environment(device: str, **more: str) -> dict[str, str]:
    """Environment of a child: the checkout importable, one thread, no accelerator where the device is the CPU."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, **hidden, **more}


def stream(command: Sequence[str], env: dict[str, str], *, patience: float) -> Iterator[dict[str, Any] | None]:
    """What a child prints as results, as it prints them; None once nothing came for ``patience`` seconds (it is then killed).

    Ends when the child ends; the last lines of its standard error follow as ``{"stderr": ...}`` where it failed.
    """
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    def drain() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            errors.append(line)
            del errors[:-40]

    threads = [threading.Thread(target=f, daemon=True) for f in (read, drain)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                yield None
                return
            if line is None:
                break
            if line.startswith(MARK):
                deadline = time.monotonic() + patience
                yield json.loads(line[len(MARK) :])
        child.wait()
        threads[1].join(timeout=5)
        if child.returncode:
            yield {"stderr": "".join(errors)[-3000:], "code": child.returncode}
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def last_line(text: str) -> str:
    """The last line that says something: the reason at the end of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
