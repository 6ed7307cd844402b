"""The plans of the ladder study, and forecasts written before a run against the run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import RunTable
from scaling.bundled import bundled_arms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def table(name: str, *, asymptote: float, steps: int) -> RunTable:
    """One run of a sigmoid, evaluated every ten steps; a step costs 1e9 FLOPs."""
    at = np.arange(0, steps + 1, 10)
    score = 0.2 + (asymptote - 0.2) / (1 + (80 / np.maximum(at, 1e-9)) ** 1.5)
    score = score + np.random.default_rng(0).normal(0, 0.004, at.size)
    evals = pd.DataFrame({
        "run_id": "r", "decoding": "sampled", "step": at, "total_flops": at * 1e9, "pass@1": score, "stderr": 0.004,
    })  # fmt: skip
    return RunTable(runs=pd.DataFrame({"run_id": ["r"], "name": [name]}), steps=pd.DataFrame(), evals=evals)


def test_jobs_of_a_plan_have_names_of_their_own_and_the_gpu_plan_crosses_sizes_and_budgets(benchmarks) -> None:
    from _ladder_plans import BEYOND, PLANS

    for plan in PLANS.values():
        keys = [job.key for job in plan()]
        assert len(keys) == len(set(keys))
    jobs = list(PLANS["gpu"]())
    for seed in range(3):
        grid = {(job.model, job.pretrain_steps) for job in jobs if job.piece == "grid" and job.seed == seed}
        assert {(f"scratch_{m}", d) for m in ("64x3", "96x3", "128x3") for d in (300, 450, 675)} <= grid
    for job in jobs:
        if job.piece == "rates":  # its neighbour at the model's own rate is in the grid, with the same base
            assert any(
                (g.piece, g.model, g.pretrain_steps, g.seed) == ("grid", job.model, job.pretrain_steps, job.seed)
                for g in jobs
            )
    far = {(job.pretrain_steps, job.seed): job for job in jobs if job.piece == "beyond"}
    assert set(far) == set(BEYOND) and all(job.rl_steps == 2000 for job in far.values())


def test_a_forecast_is_scored_on_the_longer_run_of_the_same_settings(benchmarks, tmp_path: Path) -> None:
    from _ladder_beyond import forecasts, read, scored

    short = table("task-m-d300-s1", asymptote=0.8, steps=400)
    for name in ("runs", "steps", "evals"):
        getattr(short, name).to_parquet(tmp_path / f"{name}.parquet")
    made = forecasts(read(tmp_path), ["task-m-d300-s1"])
    longer = table("task-m-d300-t2000-s1", asymptote=0.8, steps=2000)
    rows = {(row["window"], row["method"]): row for row in scored(made, longer)}
    ours = rows["200 steps", "ensemble"]
    assert ours["times"] == pytest.approx(10) and ours["points"] == 180
    assert ours["low"] <= ours["observed"] <= ours["high"] and ours["inside"] > 0.9
    assert ours["rmse"] < rows["200 steps", "last_value"]["rmse"]
    assert rows["400 steps", "ensemble"]["times"] == pytest.approx(5)

    other = table("task-m-d300-t2000-s1", asymptote=0.4, steps=2000)  # a forecast can fail
    wrong = {(row["window"], row["method"]): row for row in scored(made, other)}
    assert wrong["400 steps", "ensemble"]["inside"] < 0.2
    assert scored(made, table("task-m-d450-t2000-s1", asymptote=0.8, steps=2000)) == []  # of another base

    own = scored(forecasts(longer, ["task-m-d300-t2000-s1"]), longer)  # a long run on its own first part
    assert {row["window"] for row in own} == {"200 steps", "400 steps"} and own[0]["times"] == pytest.approx(10)


def test_a_row_of_arms_is_a_mean_over_the_bases_that_have_a_grpo_run(benchmarks) -> None:
    from _ladder_page import _arms, _gains

    rows = [
        ("base", 0, 0.2), ("grpo", 0, 0.6), ("continued", 0, 0.7), ("base", 1, 0.4), ("grpo", 1, 0.8), ("base", 2, 0.9),
    ]  # fmt: skip
    arms = pd.DataFrame([
        {"parameters": 1000, "pretrain_steps": 300, "seed": seed, "arm": arm, "sampled": score, "best_decoding": score}
        for arm, seed, score in rows
    ])  # fmt: skip
    text = "\n".join(_arms(arms))
    assert "| 1,000 | 300 | 2 | 0.300 | 0.300 | 0.700 | 0.700 (n=1) | not run | not run |" in text
    assert "1 further bases have no finished GRPO run" in text
    arms.loc[arms["arm"] == "grpo", "best_decoding"] += 0.1
    text = "\n".join(_gains(arms))
    for row in ("1,000 parameters", "300 pretraining steps", "all"):  # sampled after RL, and decoded at its best
        assert f"| {row} | 2 | +0.400 (n=2, no interval) | +0.500 (n=2, no interval) |" in text


def test_the_slip_rate_is_a_factor_of_three_levels(benchmarks) -> None:
    from _ladder_page import _slips

    rows = [line.split(" | ") for line in _slips(bundled_arms()) if line.startswith("| 0")]
    assert [row[:2] for row in rows] == [["| 0", "3"], ["| 0.1", "3"], ["| 0.3", "3"]]
    base, best, grpo = ([float(row[i]) for row in rows] for i in (2, 3, 4))
    assert all(a < c and b > a for a, b, c in zip(base, best, grpo)) and base == sorted(base, reverse=True)
