"""The plans of the ladder study, and forecasts written before a run against the run."""

from __future__ import annotations

import json
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


def test_arms_start_from_bases_within_the_range_of_the_plan(benchmarks) -> None:
    from _ladder_plans import PLANS
    from ladder import left_to_do

    job = next(PLANS["large"]())
    assert job.base_between == (0.2, 0.85) and left_to_do(job, {}) == len(job.arms) == 3
    for sampled, left in ((0.1, 0), (0.5, 3), (0.9, 0)):
        assert left_to_do(job, {(job.key, "base"): {"sampled": sampled}}) == left
    assert left_to_do(job, {(job.key, "base"): {"sampled": 0.5}, (job.key, "grpo"): {}}) == 2


def test_runs_can_be_added_to_a_collected_study(benchmarks, tmp_path: Path, capsys) -> None:
    from types import SimpleNamespace

    from ladder import _collect

    earlier = ROOT / "docs" / "results" / "gpu_ladder"
    arms = pd.read_csv(earlier / "arms.csv")
    key = "chain_acquisition-scratch_128x3-d300-s2"  # of which there is a base
    assert list(arms.loc[arms["key"] == key, "arm"]) == ["base"]
    (tmp_path / "new").mkdir()
    lines = [{"key": key, "arm": arm, "piece": "grid", "sampled": 0.123} for arm in ("base", "grpo")]
    lines.append({"key": "chain_acquisition-scratch_96x3-d300-s0", "arm": "base", "piece": "grid", "sampled": 0.123})
    (tmp_path / "new" / "arms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _collect(SimpleNamespace(plan="gpu", work=[earlier, tmp_path / "new"], out=tmp_path / "out"))
    after = pd.read_csv(tmp_path / "out" / "arms.csv")
    assert len(after) == len(arms) + 1 and set(after["key"]) == set(arms["key"])
    assert list(after.loc[after["key"] == key, "sampled"]) == [0.123, 0.123]  # whole from the one that has more of it
    assert 0.123 not in set(after.loc[after["key"] != key, "sampled"])
    for name in ("runs", "steps", "evals"):
        before, now = (pd.read_parquet(folder / f"{name}.parquet") for folder in (earlier, tmp_path / "out"))
        pd.testing.assert_frame_equal(before.reset_index(drop=True), now.reset_index(drop=True), check_like=True)
    assert "left out, as they did not end: 0 runs" in capsys.readouterr().out


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
