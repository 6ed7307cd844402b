"""`Recorder`: write a run directory from any training loop, with no trainer and no torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaling import records
from scaling.cost import ComputeCost
from scaling.errors import RecordError, ScalingError

__all__ = ["Recorder"]


class Recorder:
    """Writes the records of one run (schema v1): a line an optimiser step, a line an evaluation.

    Opening a folder that has records continues the run in a new segment. Model FLOPs are given as ``flops``, or derived
    from ``shape``, the mean lengths and the number of rollouts (generation, then one forward and backward over each
    rollout; scoring is not known and not counted; the run is then marked ``derived``); without either only seconds and
    tokens are recorded, and the axis ``total_flops`` is unknown, not 0.

    Args:
        run_dir: folder of the run; its name is the run's id.
        name: shown to people.
        gpus: devices allocated, trainer and rollout server together [1].
        accelerator: device name as `scaling.hardware` knows it, or ``cpu``.
        shape: sizes of the model, for the FLOPs.
        model: facts about the model, e.g. ``{"name": "Qwen/Qwen2.5-7B", "params": 7.6e9}``.
        pretraining: ``{"flops":, "gpu_hours":, "accelerator":, "tokens":, "source":}`` of the base, where known.
        config: settings, for people and for grouping.
        recipe: runs with equal recipes are seeds or sizes of one recipe.

    Raises:
        RecordError: another process writes there, or the folder cannot be written.

    Example:
        >>> import scaling, tempfile
        >>> rec = scaling.Recorder(tempfile.mkdtemp() + "/mine", gpus=8, accelerator="H100-SXM")
        >>> for _ in range(3):
        ...     rec.step(seconds=30.0, prompt_tokens=50_000, completion_tokens=900_000, metrics={"reward": 0.4})
        >>> rec.eval(benchmark="held_out", successes=[1, 0, 2], k=2)
        >>> rec.close()
        >>> float(scaling.load_runs(rec.path).evals["gpu_hours"].iloc[-1])
        0.2
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        name: str = "",
        gpus: int = 1,
        accelerator: str = "cpu",
        shape: Any | None = None,
        model: Mapping[str, Any] | None = None,
        pretraining: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        recipe: str = "",
    ) -> None:
        if gpus < 1:
            raise ScalingError(f"gpus must be >= 1, got {gpus!r}")
        self.path, self.gpus, self.shape = Path(run_dir), gpus, shape
        self.cost = ComputeCost()
        self.last_step = 0
        earlier = self._resume() if records.is_run(self.path) else None
        self._lock: int | None = _lock(self.path)
        segment = {
            "start": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "resumed_from": self.last_step if earlier else None,
        }
        facts: dict[str, Any] = (
            {"params": shape.params, "architecture": shape.architecture} if shape is not None else {}
        )
        self.record = records.RunRecord(
            run_id=earlier.run_id if earlier else self.path.name,
            recipe_hash=recipe or (earlier.recipe_hash if earlier else ""),
            name=name or (earlier.name if earlier else self.path.name),
            sweep=self.path.parent.name,
            config=dict(config or {}),
            model={**facts, **(model or {})},
            accelerator=accelerator,
            devices=gpus,
            stages=({"stage": "pretrain", **pretraining},) if pretraining else (),
            segments=(*(earlier.segments if earlier else ()), segment),
            confidence="derived" if shape is not None else "measured",
            provenance=_provenance(self.cost),
            benchmarks=dict(earlier.benchmarks) if earlier else {},
        )
        records.write_run(self.path, self.record)
        self._steps = records.Appender(self.path / records.STEPS)
        self._evals = records.Appender(self.path / records.EVALS)

    @property
    def segment(self) -> int:
        """Number of this process among those that worked on the run."""
        return len(self.record.segments) - 1

    def step(
        self,
        *,
        seconds: float,
        gpus: int | None = None,
        prompt_tokens: float = 0,
        completion_tokens: float = 0,
        rollouts: int = 0,
        flops: float | None = None,
        phases: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
        step: int | None = None,
    ) -> None:
        """Append an optimiser step.

        Args:
            seconds: wall time since the last step, evaluation left out [s].
            gpus: devices held during it; those of the run by default [1].
            prompt_tokens: prompt tokens of the rollouts, once each rollout [token].
            completion_tokens: completion tokens of the rollouts [token].
            rollouts: completions sampled, discarded ones included [1].
            flops: model FLOPs of the step, if you count them yourself; recorded as training [FLOP].
            phases: wall seconds of ``generation``, ``scoring``, ``training`` within ``seconds``; the rest counts as idle [s].
            metrics: names and values, e.g. ``{"reward": 0.4}``.
            step: its number; the next one by default.

        Raises:
            ScalingError: a negative number, a step that is not whole, phases longer than ``seconds``, or a phase that is not known.
        """
        number = self.last_step + 1 if step is None else _whole("step", step)
        if number < 1:
            raise ScalingError(f"step must be >= 1 (0 is the base model), got {number!r}")
        held, phases = self.gpus if gpus is None else gpus, dict(phases or {})
        unknown = sorted(set(phases) - {"generation", "scoring", "training"})
        if unknown:
            raise ScalingError(f"phases must be among generation, scoring, training, got {unknown[0]!r}")
        idle = seconds - sum(phases.values())
        if idle < -1e-9 * max(1.0, seconds):
            raise ScalingError(f"phases must sum to at most seconds={seconds:g}, got {sum(phases.values()):g}")
        fields: dict[str, Any] = {f"{phase}_gpu_seconds": value * held for phase, value in phases.items()}
        fields |= {
            "idle_gpu_seconds": max(idle, 0.0) * held, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "rollouts": rollouts,
        }  # fmt: skip
        if flops is not None:
            fields["training_flops"] = flops
        elif self.shape is not None and rollouts:
            fields |= _derived_flops(self.shape, prompt_tokens, completion_tokens, rollouts)
        cost = ComputeCost(**{n: v.item() if hasattr(v, "item") else v for n, v in fields.items()})  # numpy, torch
        self._steps.write(
            {"segment": self.segment, "step": number, "cost": cost.to_dict(), "metrics": dict(metrics or {})}
        )
        first_flops = cost.total_flops > 0 and not self.cost.total_flops
        self.cost, self.last_step = self.cost + cost, number
        if first_flops:
            self.record = replace(self.record, provenance=_provenance(self.cost))
            records.write_run(self.path, self.record)

    def eval(
        self,
        *,
        benchmark: str,
        successes: Sequence[int],
        k: int = 1,
        step: int | None = None,
        temperature: float = 1.0,
        decoding: str = "sampled",
        completion_length: float | None = None,
        truncation_rate: float | None = None,
        guess_rate: float | None = None,
    ) -> None:
        """Append an evaluation of the current weights.

        Args:
            benchmark: its name.
            successes: correct completions of each problem, 0 to ``k``, always in the same order, shape ``(n_problems,)``.
            k: completions sampled a problem [1].
            step: which weights; the last step by default, 0 for the base before any step.
            temperature: of the sampling.
            decoding: ``sampled``, ``greedy``, ``forced_trace`` or ``maj@k``.
            completion_length: mean over the completions [token].
            truncation_rate: share of completions cut at the limit, 0 to 1.
            guess_rate: chance that a blind guess is right, 0 to 1; kept in run.json.

        Raises:
            ScalingError: counts outside 0..k, or numbers that are not whole (a mean reward is no count).
        """
        row: dict[str, Any] = {
            "segment": self.segment, "step": self.last_step if step is None else _whole("step", step),
            "cost": self.cost.to_dict(), "benchmark": benchmark,
            "successes": [_whole(f"evaluation of {benchmark}: a count of successes", n) for n in successes],
            "k": _whole("k", k),
            "sampling": {"decoding": decoding, "temperature": temperature},
        }  # fmt: skip
        row |= {
            n: v
            for n, v in (("completion_length", completion_length), ("truncation_rate", truncation_rate))
            if v is not None
        }
        reason = records.check_eval(row)
        if reason:
            raise ScalingError(f"evaluation of {benchmark}: {reason}")
        self._evals.write(row)
        if benchmark not in self.record.benchmarks:
            facts: dict[str, Any] = {"problems": len(row["successes"])}
            if guess_rate is not None:
                facts["guess_rate"] = guess_rate
            self.record = replace(self.record, benchmarks={**self.record.benchmarks, benchmark: facts})
            records.write_run(self.path, self.record)

    def close(self, cause: str = "finished") -> None:
        """End the segment: ``finished``, ``budget``, ``interrupted`` or ``failed``; a second call does nothing."""
        if self._lock is None:
            return
        self._steps.close()
        self._evals.close()
        last = {**self.record.segments[-1], "end": _now(), "cause": cause, "final_step": self.last_step}
        self.record = replace(self.record, segments=(*self.record.segments[:-1], last), status=cause)
        records.write_run(self.path, self.record)
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.close("finished" if kind is None else "failed")

    def _resume(self) -> records.RunRecord:
        rows, _ = records.read_lines(self.path / records.STEPS)
        for row, _number in rows:
            if records.check_step(row) is None:
                self.cost = self.cost + ComputeCost.from_dict(row.get("cost", {}))
                self.last_step = max(self.last_step, row["step"])
        return records.read_run(self.path)


def _whole(name: str, value: Any) -> int:
    """``value`` as an int, of whatever number type; never cut.

    Example:
        >>> _whole("step", 3.0)
        3
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise ScalingError(f"{name} must be a whole number, got {value!r}")
    return number


def _provenance(cost: ComputeCost) -> dict[str, Any]:
    """Who wrote the run; FLOPs that were never counted are unknown, not 0."""
    return {"trainer": "recorder"} | ({} if cost.total_flops else {"unknown_axes": ["total_flops"]})


def _derived_flops(shape: Any, prompt_tokens: float, completion_tokens: float, rollouts: int) -> dict[str, float]:
    """Generation and training at the mean lengths: attention grows with the square of a length, so this is a lower bound."""
    from scaling import flops

    prompt, completion = prompt_tokens / rollouts, completion_tokens / rollouts
    return {
        "generation_flops": rollouts * flops.generation_flops(shape, prompt, completion),
        "training_flops": rollouts * flops.training_flops(shape, prompt, completion),
    }


def _lock(path: Path) -> int:
    """Hold the run directory's lock until the descriptor is closed; it is let go with the process, however that ends."""
    import fcntl

    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / records.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RecordError(f"cannot write run directory {path}: {error.strerror}; choose another") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RecordError(
            f"run directory {path} is in use by another process; wait for it, or stop it first"
        ) from error
    return descriptor


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
