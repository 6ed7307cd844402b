"""Where the posterior of a law's search coordinates lives: a grid of cells that adapts to its ridge.

With two coordinates the frame is a line of outer nodes, each with its own interval of the inner coordinate, so that a long bent
ridge is followed at its own width. Every zoom step keeps what is within `KEEP` of the highest log density.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.marginal import Problem, cells, log_sum_exp
from scaling.fitting.prior import Noises

__all__ = ["Frame", "find_frame"]

Array = NDArray[np.float64]
KEEP = 13.0  # log density below the maximum that is still integrated
INSIDE = 9.0  # the same across the ridge
_RHOS, _DRIFTS = (0.0, 0.4, 0.7, 0.9, 0.97), (0.5, 10.0)  # enough to find the place


@dataclass(frozen=True, eq=False)
class Frame:
    """Cells of the integral.

    Attributes:
        nodes: cell centres, shape ``(g, q)``.
        log_area: log size of each cell, shape ``(g,)``.
        outer: outer nodes (q = 2), else the cells' edges (q = 1).
        low: lower ends of the inner intervals.
        high: upper ends of the inner intervals.
        inner: cells of an inner interval.
        at_edge: cells in the outermost column or row that touches the search box.
    """

    nodes: Array
    log_area: Array
    outer: Array
    low: Array
    high: Array
    inner: int
    at_edge: NDArray[np.bool_]

    def jitter(self, g: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Array]:
        """Points uniform in the cells ``g`` and the log size of the cell each was drawn from."""
        k, q = g.size, self.nodes.shape[1]
        if q == 0:
            return np.zeros((k, 0)), np.zeros(k)
        if q == 1:
            return self.nodes[g] + (self.outer[1] - self.outer[0]) * (rng.random((k, 1)) - 0.5), self.log_area[g]
        column, row = np.divmod(g, self.inner)
        step = self.outer[1] - self.outer[0]
        outer = np.clip(self.outer[column] + step * (rng.random(k) - 0.5), self.outer[0], self.outer[-1])
        low, high = np.interp(outer, self.outer, self.low), np.interp(outer, self.outer, self.high)
        inner = low + (row + rng.random(k)) / self.inner * (high - low)
        return np.stack([inner, outer], -1), np.log(step) + np.log((high - low) / self.inner)


def find_frame(problem: Problem, *, outer_nodes: int = 40, inner_nodes: int = 13) -> Frame:
    """The frame of a problem with 0, 1 or 2 search coordinates."""
    search = problem.law.search_box(problem.bounds)
    if not search:
        return Frame(np.zeros((1, 0)), np.zeros(1), np.zeros(0), np.zeros(0), np.zeros(0), 1, np.zeros(1, bool))
    rhos = problem.prior.rhos if len(problem.prior.rhos) == 1 else _RHOS
    drifts = _DRIFTS if problem.prior.drift else ()
    rho, drift = np.zeros((2, len(rhos) + len(drifts)))
    rho[: len(rhos)], drift[len(rhos) :] = rhos, drifts
    noises = Noises(rho, drift, np.zeros(rho.size))
    return (
        _one(problem, search[0], noises, inner_nodes * 5)
        if len(search) == 1
        else _two(problem, search, noises, outer_nodes, inner_nodes)
    )


def _density(problem: Problem, nodes: Array, noises: Noises) -> Array:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # far corners of the box; they become -inf
        values = log_sum_exp(cells(problem, nodes, noises).log_post)
    return values if np.isfinite(values).any() else np.zeros(values.shape)


def _one(problem: Problem, box: tuple[float, float], noises: Noises, count: int) -> Frame:
    low, high = box
    for _ in range(14):
        edges = np.linspace(low, high, count + 1)
        nodes = (edges[1:] + edges[:-1]) / 2
        values = _density(problem, nodes[:, None], noises)
        kept = np.flatnonzero(values > values.max() - KEEP)
        if kept.size >= 0.4 * count:
            break
        step = edges[1] - edges[0]
        low, high = max(box[0], nodes[kept[0]] - 1.5 * step), min(box[1], nodes[kept[-1]] + 1.5 * step)
    at_edge = np.zeros(count, bool)
    at_edge[0], at_edge[-1] = edges[0] <= box[0], edges[-1] >= box[1]
    return Frame(
        nodes[:, None], np.full(count, np.log(edges[1] - edges[0])), edges, edges[:1], edges[-1:], count, at_edge
    )


def _two(
    problem: Problem, box: tuple[tuple[float, float], ...], noises: Noises, outer_nodes: int, inner_nodes: int
) -> Frame:
    (inner_low, inner_high), (outer_low, outer_high) = box
    outer = np.linspace(outer_low, outer_high, 28)
    low, high, count = np.full(28, inner_low), np.full(28, inner_high), 20
    for step in range(14):
        nodes = _nodes(outer, low, high, count)
        values = _density(problem, nodes, noises).reshape(outer.size, count)
        profile = values.max(1)
        kept = np.flatnonzero(profile > profile.max() - KEEP)
        inside = values > profile[:, None] - INSIDE
        first, last = inside.argmax(1), count - 1 - inside[:, ::-1].argmax(1)
        settled = np.median((last - first + 1)[kept]) >= 0.45 * count and kept.size >= 0.45 * outer.size
        width = (high - low) / count
        low, high = (
            np.clip(low + (first - 1.0) * width, inner_low, inner_high),
            np.clip(low + (last + 2.0) * width, inner_low, inner_high),
        )
        # the interval of a new outer node is interpolated from its neighbours, margins included
        near = slice(max(kept[0] - 1, 0), kept[-1] + 2)
        spacing = outer[1] - outer[0]
        new = np.linspace(
            max(outer_low, outer[kept[0]] - spacing), min(outer_high, outer[kept[-1]] + spacing), outer_nodes
        )
        low, high = np.interp(new, outer[near], low[near]), np.interp(new, outer[near], high[near])
        outer, count = new, inner_nodes
        if step >= 1 and settled:
            break
    area = np.log(outer[1] - outer[0]) + np.log(np.repeat((high - low) / count, count))
    at_edge = np.zeros((outer.size, count), bool)
    at_edge[0], at_edge[-1] = outer[0] <= outer_low, outer[-1] >= outer_high
    at_edge[low <= inner_low, 0] = at_edge[high >= inner_high, -1] = True
    return Frame(_nodes(outer, low, high, count), area, outer, low, high, count, at_edge.ravel())


def _nodes(outer: Array, low: Array, high: Array, count: int) -> Array:
    inner = low[:, None] + (np.arange(count) + 0.5) / count * (high - low)[:, None]
    return np.stack([inner, np.broadcast_to(outer[:, None], inner.shape)], -1).reshape(-1, 2)
