"""Our quantities and metrics as columns of a foreign run's rows: from their keys, from constants, or derived."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scaling.importers.expression import Expression, from_config
from scaling.importers.imported import RawRun
from scaling.importers.mapping import Choice, TrainerMapping
from scaling.importers.rows import Block

__all__ = ["Quantities"]

Array = NDArray[np.float64]


class Quantities:
    """What of a mapping a run has, and its columns block by block.

    Attributes:
        keys, metric_keys, cost_keys: our name -> the mapping's choice and the key that the run has for it.
        phase_keys: phase -> the same for each of its parts.
        constants: numbers that hold for every row.
    """

    def __init__(self, raw: RawRun, mapping: TrainerMapping) -> None:
        self.raw, self.mapping = raw, mapping
        have = raw.rows.key_counts
        self.keys = {name: (c, key) for name, c in mapping.quantities.items() if (key := c.pick(have))}
        self.metric_keys = {name: (c, key) for name, c in mapping.metrics.items() if (key := c.pick(have))}
        self.cost_keys = {name: (c, key) for name, c in mapping.costs.items() if (key := c.pick(have))}
        self.phase_keys: dict[str, list[tuple[Choice, str]]] = {}
        for name, choices in mapping.phases.items():
            picked = [(c, key) for c in choices if (key := c.pick(have))]
            if picked:
                self.phase_keys[name] = picked
        self.constants = dict(mapping.constants)
        if (text := mapping.config.get("rollouts_per_step")) and (found := from_config([text], raw.config)):
            self.constants.setdefault("rollouts", found[0])
        self._reached: dict[str, float] = {}

    def value(self, block: Block, name: str, depth: int = 0) -> Array | None:
        """One of our quantities or metrics for a block: from its key, a constant or a derivation; None if not there."""
        held = self.keys.get(name) or self.metric_keys.get(name)
        if held is not None:
            choice, key = held
            return block.get(key) * choice.scale
        if name in self.constants:
            return np.full(len(block.step), self.constants[name])
        if name in self.mapping.derive and depth < 8:
            found = Expression(self.mapping.derive[name])(lambda n: self.value(block, n, depth + 1))
            return None if found is None else np.broadcast_to(np.asarray(found, dtype=float), block.step.shape)
        return None

    def known(self, name: str) -> bool:
        """Whether a quantity has a key, a constant or a derivation whose names are known."""
        if name in self.keys or name in self.metric_keys or name in self.constants:
            return True
        text = self.mapping.derive.get(name)
        return text is not None and all(n != name and self.known(n) for n in Expression(text).names)

    def phase(self, block: Block, name: str) -> Array:
        """Seconds of a phase, 0 where the log has none."""
        total = np.zeros(len(block.step))
        for choice, key in self.phase_keys.get(name, []):
            total += np.nan_to_num(block.get(key)) * choice.scale
        return total

    def steps_covered(self, block: Block) -> Array:
        """Optimiser steps that each row stands for, where rows are averages over the steps since the last row."""
        timed = self.value(block, "step_seconds")
        out = np.ones(len(block.step))
        if timed is None:
            return out
        last = self._reached.get("step", 0.0) if block.segment[0] == self._reached.get("segment", -1) else None
        segment = self._reached.get("segment", -1)
        for i in range(len(out)):
            if not np.isfinite(timed[i]):
                continue
            if block.segment[i] != segment:
                segment = int(block.segment[i])
                last = self.raw.rows.resumed_from[segment] or 0
            out[i] = max(1.0, block.step[i] - (last or 0)) if block.step[i] > (last or 0) else 1.0
            last = float(block.step[i])
        self._reached |= {"step": last or 0.0, "segment": float(segment)}
        return out

    def growth(self, block: Block, name: str) -> Array:
        """Increments of a cumulative column; the first row of a segment counts from 0 if the column fell, else from before."""
        values = self.value(block, name)
        out = np.zeros(len(block.step))
        if values is None:
            return out
        last = self._reached.get(name, 0.0)
        for i, value in enumerate(values.tolist()):
            if not math.isfinite(value):
                continue
            out[i] = value - last if value >= last else value
            last = value
        self._reached[name] = last
        return out

    def reset(self) -> None:
        """Before another pass over the blocks: forget what cumulative columns had reached."""
        self._reached.clear()
