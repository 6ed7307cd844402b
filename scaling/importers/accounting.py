"""From a foreign run's keys to our ledger: GPU-seconds by phase, tokens, rollouts, FLOPs, each by a stated rule.

GPU-seconds of a step, the first rule whose keys the log has:

1. ``gpu_seconds`` as the trainer counts them                                               measured
2. total tokens / (tokens per second and GPU)                                               measured
3. step time x GPUs, the GPUs from the configuration in the log (derived) or ``--gpus`` (assumed)
4. sum of the phases' times x GPUs                                                          derived, or assumed with ``--gpus``
5. completion tokens / (tokens per second) x GPUs                                           derived, or assumed
6. growth of the elapsed time x GPUs: an upper bound, with start-up and idling in it        derived, or assumed

Evaluation time goes to ``evaluation_gpu_seconds``, start-up (tables only) to ``overhead_gpu_seconds``. Checkpoints are wall time of the run like any other: what they take is in
the GPU-hours, as ``idle_gpu_seconds``, whoever trained. Whether the step time contains the two is told by the mapping, or "by phases": on steps with an evaluation, the step time exceeds the sum of its phases by the
evaluation if it is inside, by nothing if not. What a step holds beyond its phases is ``idle_gpu_seconds``.

A step is stalled if it took more than ten times the median step and a quarter of an hour more than it. Its cost stays where
it was spent, so it is in the paid hours; the step carries ``stalled`` and the run lists it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import ForeignLogError
from scaling.importers.counting import step_flops
from scaling.importers.expression import from_config
from scaling.importers.imported import RawRun
from scaling.importers.mapping import TrainerMapping
from scaling.importers.placement import find_stalls, inside_step
from scaling.importers.quantities import Quantities
from scaling.importers.rows import Block
from scaling.importers.values import lookup, number
from scaling.words import counted

__all__ = ["Accounts"]

Array = NDArray[np.float64]


class Accounts(Quantities):
    """The rules chosen for one run, and the columns of its ledger block by block.

    Args:
        raw: the run.
        mapping: names and semantics of its trainer.
        gpus: devices as the user has them; None: as the log has them [1].
        lora: only adapters were trained.
        shape: `ModelShape`, for FLOPs.

    Attributes:
        rules: our quantity -> (confidence, rule in words).
        unknown: axes that the log does not hold.
        stalled: ``(segment, step, seconds)`` of stalled steps.
        notes: what a user must know.
    """

    def __init__(
        self, raw: RawRun, mapping: TrainerMapping, gpus: float | None = None, lora: bool = False, shape: Any = None
    ) -> None:
        super().__init__(raw, mapping)
        self.gpus, self.lora, self.shape = gpus, lora, shape
        self.rules: dict[str, tuple[str, str]] = {}
        self.unknown: list[str] = []
        self.stalled: list[tuple[int, int, float]] = []
        self.notes: list[str] = []
        self._find_gpus()
        if self.cost_keys:  # a ledger like ours
            self.rules["gpu_seconds"] = self.rules["tokens"] = ("measured", "the run's own ledger")
            self.time_rule = self.token_rule = ""
            self.inside: dict[str, bool] = {}
        else:
            self._choose_time()
            self._place_evaluation()
            self._choose_tokens()
            self._note_negative()
        self._find_stalls()

    # -- choices ---------------------------------------------------------------------------------------------------

    def _find_gpus(self) -> None:
        found = from_config(self.mapping.gpus, self.raw.config)
        if self.gpus is not None:
            if not 0 < self.gpus < 1e9:
                raise ForeignLogError(f"--gpus must be > 0 and a number of devices, got {self.gpus:g}")
            self.gpus_rule = ("assumed", f"{self.gpus:g} GPUs, given by the user")
        elif found and 0 < found[0] < 1e9:
            self.gpus, self.gpus_rule = (
                found[0],
                ("derived", f"{found[0]:g} GPUs = {found[1]} of the configuration in the log"),
            )
        elif self.raw.gpus:
            self.gpus, self.gpus_rule = self.raw.gpus, ("derived", f"{self.raw.gpus:g} GPUs from {self.raw.gpus_from}")
        else:
            self.gpus_rule = ("", "")

    def _choose_time(self) -> None:
        given = self.gpus_rule[0] == "assumed"
        per_gpu = self.known("total_tokens") and self.known("tokens_per_gpu_second")
        summed = [p for p in ("generation", "scoring", "training", "idle") if p in self.phase_keys]
        self.time_rule = ""
        if self.known("gpu_seconds"):
            self.time_rule, self.rules["gpu_seconds"] = "given", ("measured", "as the log has it")
        elif per_gpu and not (given and self.known("step_seconds") and not self._same_gpus()):
            self.time_rule = "throughput"
            self.rules["gpu_seconds"] = ("measured", "total tokens / (tokens per second and GPU)")
        elif self.known("step_seconds"):
            self.time_rule = "step"
            self.rules["gpu_seconds"] = (self.gpus_rule[0], f"step time x {self.gpus_rule[1]}")
        elif summed:
            self.time_rule = "phases"
            self.rules["gpu_seconds"] = (self.gpus_rule[0], f"sum of {' + '.join(summed)} x {self.gpus_rule[1]}")
        elif self.known("tokens_per_second") and self.known("completion_tokens"):
            self.time_rule = "rate"
            self.rules["gpu_seconds"] = (
                self.gpus_rule[0],
                f"completion tokens / tokens per second x {self.gpus_rule[1]}",
            )
        elif self.known("elapsed_seconds"):
            self.time_rule = "elapsed"
            self.rules["gpu_seconds"] = (
                self.gpus_rule[0],
                f"growth of elapsed time x {self.gpus_rule[1]}: an upper bound",
            )
        else:
            self.unknown.append("gpu_hours")
            self.notes.append("the log holds no time, so GPU-hours are not known; other axes can be used")
            return
        if self.time_rule not in ("given", "throughput") and self.gpus is None:
            ask = "the log has times but no number of GPUs; pass --gpus N (all of them, trainer and rollout servers)"
            if self.mapping.gpus:  # a trainer that says it, usually: its log is incomplete
                raise ForeignLogError(f"{self.raw.name}: {ask}")
            self.time_rule = ""
            del self.rules["gpu_seconds"]
            self.unknown.append("gpu_hours")
            self.notes.append(f"GPU-hours are not known: {ask}")

    def _same_gpus(self) -> bool:
        counted = self.gpus_by_throughput()
        return counted is not None and self.gpus is not None and abs(counted - self.gpus) < 0.02 * self.gpus

    def gpus_by_throughput(self) -> float | None:
        """GPUs by total tokens / (tokens per second and GPU x step time), the median of all steps; None if not known."""
        counts = []
        for block in self.raw.rows.blocks():
            parts = [self.value(block, n) for n in ("total_tokens", "tokens_per_gpu_second", "step_seconds")]
            if any(p is None for p in parts):
                return None
            with np.errstate(divide="ignore", invalid="ignore"):
                counts.append(parts[0] / (parts[1] * parts[2]))  # type: ignore[operator]
        all_counts = np.concatenate(counts) if counts else np.empty(0)
        all_counts = all_counts[np.isfinite(all_counts)]
        if not len(all_counts):
            return None
        middle = float(np.median(all_counts))
        return float(round(middle)) if abs(middle - round(middle)) < 0.02 * middle else middle

    def wall(self, block: Block) -> Array:
        """Wall seconds of each row's step by the chosen rule, 0 where the row has none."""
        out: Array | None
        if self.time_rule == "phases":
            return sum(
                (self.phase(block, p) for p in ("generation", "scoring", "training", "idle")), np.zeros(len(block.step))
            )
        if self.time_rule == "rate":
            tokens, rate = self.value(block, "completion_tokens"), self.value(block, "tokens_per_second")
            with np.errstate(divide="ignore", invalid="ignore"):
                out = tokens / rate  # type: ignore[operator]
        elif self.time_rule == "elapsed":
            out = self.growth(block, "elapsed_seconds")
        else:
            out = self.value(block, "step_seconds")
            if out is not None and self.mapping.semantics.get("averaged_over_logging"):
                out = out * self.steps_covered(block)
        if out is None:
            return np.zeros(len(block.step))
        return np.clip(np.nan_to_num(out, nan=0.0, posinf=0.0, neginf=0.0), 0, None)

    def _place_evaluation(self) -> None:
        said = {
            n: self.mapping.semantics.get(f"{n}_in_step_time", False) for n in ("evaluation", "checkpoint", "overhead")
        }
        if self.time_rule == "phases":  # only the phases that are summed are inside
            self.inside = dict.fromkeys(said, False)
            return
        by_phases = [n for n, v in said.items() if v == "by phases" and n in self.phase_keys]
        self.inside = {n: v is True for n, v in said.items()}
        if by_phases and self.known("step_seconds"):
            columns = self._clock()
            self.inside |= {n: inside_step(n, columns) for n in by_phases}

    def _clock(self) -> dict[str, Array]:
        """Seconds of all rows: the step, the sum of its core phases, evaluation and checkpoint."""
        parts: dict[str, list[Array]] = {"step": [], "core": [], "evaluation": [], "checkpoint": []}
        for block in self.raw.rows.blocks():
            parts["step"].append(np.nan_to_num(np.asarray(self.value(block, "step_seconds"))))
            core = [self.phase(block, p) for p in ("generation", "scoring", "training", "idle")]
            parts["core"].append(np.sum(core, axis=0))
            for name in ("evaluation", "checkpoint"):
                parts[name].append(self.phase(block, name))
        return {name: np.concatenate(p) for name, p in parts.items()}

    def _note_negative(self) -> None:
        for name in ("gpu_seconds", "step_seconds", "tokens_per_gpu_second", "total_tokens"):
            columns = [self.value(block, name) for block in self.raw.rows.blocks()] if self.known(name) else []
            if count := sum(int((column < 0).sum()) for column in columns if column is not None):
                self.notes.append(f"{counted(count, 'row')} with negative {name}: counted as 0")

    def _choose_tokens(self) -> None:
        total = self.known("total_tokens") or self.known("cumulative_tokens")
        lengths = self.known("completion_length"), self.known("prompt_length")
        if self.known("prompt_tokens") and self.known("completion_tokens"):
            self.token_rule, words = "given", "prompt and completion tokens as the log has them"
        elif total and all(lengths):
            self.token_rule, words = "split", "total tokens, split by the mean prompt and completion length"
        elif self.known("rollouts") and lengths[0]:
            self.token_rule, words = "lengths", "rollouts x mean lengths"
            if not lengths[1]:
                words = "rollouts x mean completion length; prompt tokens are not in the log"
                self.notes.append("prompt tokens are not in the log: they are missing from tokens and FLOPs")
        elif total or self.known("completion_tokens"):
            self.token_rule = "total"
            words = "completion tokens; prompt tokens are not in the log"
            if total:
                words = (
                    "total tokens, all of them under completion_tokens: the log does not say how many are prompt tokens"
                )
                self.notes.append(words)
        else:
            self.token_rule = ""
            self.unknown += ["tokens", "rollouts"]
            self.notes.append("the log holds no token counts, so tokens and FLOPs are not known")
            return
        self.rules["tokens"] = ("measured" if self.token_rule == "given" else "derived", words)
        if self.token_rule == "split":
            self.rules["rollouts"] = ("derived", "total tokens / (mean prompt length + mean completion length)")
        elif self.known("rollouts"):
            key = self.keys.get("rollouts")
            self.rules["rollouts"] = (
                ("measured", key[1]) if key else ("derived", "from the mapping or the configuration")
            )
        else:
            self.unknown.append("rollouts")

    def tokens(self, block: Block) -> tuple[Array, Array, Array]:
        """Prompt tokens, completion tokens and rollouts of each row, 0 where not known."""
        n = len(block.step)
        get = lambda name: np.nan_to_num(v) if (v := self.value(block, name)) is not None else np.zeros(n)  # noqa: E731
        total = get("total_tokens") if self.known("total_tokens") else np.zeros(n)
        if not self.known("total_tokens") and self.known("cumulative_tokens"):
            total = self.growth(block, "cumulative_tokens")
        prompt, completion, rollouts = np.zeros(n), np.zeros(n), get("rollouts")
        if self.token_rule == "given":
            prompt, completion = get("prompt_tokens"), get("completion_tokens")
        elif self.token_rule == "split":
            p, c = get("prompt_length"), get("completion_length")
            both = p + c
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(both > 0, p / both, 0.0)
                counted = np.where(both > 0, total / both, 0.0)
            whole = np.round(counted)
            rollouts = np.where(np.abs(counted - whole) <= 0.001 * counted + 0.05, whole, counted)
            prompt = np.round(total * share)
            completion = total - prompt
        elif self.token_rule == "lengths":
            reported = np.isfinite(self.value(block, "completion_length"))  # type: ignore[arg-type]
            rollouts = np.where(reported, rollouts, 0.0)
            prompt, completion = rollouts * get("prompt_length"), rollouts * get("completion_length")
        elif self.token_rule == "total":
            completion = total if total.any() else get("completion_tokens")
        return prompt, completion, rollouts

    def _find_stalls(self) -> None:
        if self.time_rule:
            parts = [(self.wall(block), block.segment, block.step) for block in self.raw.rows.blocks()]
            wall, segment, step = (np.concatenate(p) for p in zip(*parts))
            stalled, note = find_stalls(wall)
            self.stalled = [(int(segment[i]), int(step[i]), float(wall[i])) for i in stalled]
            self.notes += [f"step {self.stalled[0][1]} {note}"] if stalled else []
        self.stalled_steps = {(s, t) for s, t, _ in self.stalled}
        self.reset()

    # -- the ledger ------------------------------------------------------------------------------------------------

    def costs(self, block: Block) -> dict[str, Array]:
        """The cost of each row by `ComputeCost` field, shape ``(n_rows,)`` each."""
        n = len(block.step)
        if self.cost_keys:
            return {
                f: np.clip(np.nan_to_num(block.get(key) * c.scale), 0, None) for f, (c, key) in self.cost_keys.items()
            }
        prompt, completion, rollouts = self.tokens(block) if self.token_rule else (np.zeros(n),) * 3
        out = {"prompt_tokens": prompt, "completion_tokens": completion, "rollouts": rollouts}
        if self.time_rule:
            out |= self._gpu_seconds(block)
        if self.shape is not None and self.token_rule:
            passes = self._scoring_passes(block)
            out |= step_flops(self.shape, prompt, completion, rollouts, passes, lora=self.lora)
        return {name: np.clip(np.nan_to_num(v, nan=0.0, posinf=0.0), 0, None) for name, v in out.items()}

    def _gpu_seconds(self, block: Block) -> dict[str, Array]:
        wall = self.wall(block)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.time_rule == "given":
                whole = np.nan_to_num(self.value(block, "gpu_seconds"))  # type: ignore[arg-type]
                devices = np.where(wall > 0, whole / wall, self.gpus or 0.0)
            elif self.time_rule == "throughput":
                ratio = self.value(block, "total_tokens") / self.value(block, "tokens_per_gpu_second")  # type: ignore[operator]
                whole = np.nan_to_num(ratio, nan=0.0, posinf=0.0)
                if self.gpus is None:
                    self.gpus = self.gpus_by_throughput()
                whole = np.where((whole == 0) & (wall > 0), wall * (self.gpus or 0.0), whole)
                devices = np.where(wall > 0, whole / wall, self.gpus or 0.0)
            else:
                whole, devices = wall * (self.gpus or 0.0), np.full(len(wall), self.gpus or 0.0)
        devices = np.nan_to_num(devices)
        beside = {name: self.phase(block, name) * devices for name in self.inside}
        inner = whole - sum(beside[name] for name in ("evaluation", "overhead") if self.inside[name])
        inner = np.clip(inner, 0, None) + beside["checkpoint"] * (not self.inside["checkpoint"])
        split = {p: self.phase(block, p) * devices for p in ("generation", "scoring", "training")}
        used = sum(split.values(), np.zeros(len(wall)))
        with np.errstate(divide="ignore", invalid="ignore"):
            fit = np.where(used > inner, inner / used, 1.0)  # overlapping phases share the step by their proportions
        out = {f"{p}_gpu_seconds": s * np.nan_to_num(fit) for p, s in split.items()}
        out["idle_gpu_seconds"] = inner - sum(out.values(), np.zeros(len(wall)))
        return out | {f"{name}_gpu_seconds": beside[name] for name in ("evaluation", "overhead")}

    def _scoring_passes(self, block: Block) -> Array:
        rule = self.mapping.semantics.get("scoring_passes", 0)
        if rule == "phases":
            keys = self.phase_keys.get("scoring", [])
            there = [np.nan_to_num(block.get(key)) > 0 for _, key in keys] or [np.zeros(len(block.step))]
            return np.sum(there, axis=0).astype(float)
        value = number(rule)
        if value is None and isinstance(rule, str):
            value = number(lookup(self.raw.config, rule))
        return np.full(len(block.step), value or 0.0)
