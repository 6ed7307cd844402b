"""The quick way of reading records gives what the line-by-line way gives; the cache never serves what has changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scaling import load_runs, records, run_cache, runs

number = st.one_of(st.integers(0, 10**6), st.floats(0, 1e25, allow_nan=False), st.just(0))
metric = st.one_of(
    number, st.floats(-1e3, 1e3, allow_nan=False), st.none(), st.sampled_from(["k1", "k3"]), st.booleans()
)
cost = st.dictionaries(
    st.sampled_from(
        [
            "training_flops",
            "generation_flops",
            "prompt_tokens",
            "rollouts",
            "idle_gpu_seconds",
            "evaluation_gpu_seconds",
        ]
    ),
    number,
    max_size=5,
)
line = st.fixed_dictionaries(
    {"step": st.integers(0, 12), "cost": cost},
    optional={
        "segment": st.integers(0, 2),
        "metrics": st.dictionaries(st.sampled_from(["reward", "loss", "kl_estimator", "done"]), metric, max_size=3),
        "time": st.floats(0, 1e9),
    },
)
plain = st.lists(
    st.fixed_dictionaries({"cost": cost, "metrics": st.fixed_dictionaries({"reward": st.floats(0, 1), "length": st.integers(0, 99)}, optional={"kl_estimator": st.just("k3")})}),
    max_size=12,
)  # fmt: skip


def write(
    folder: Path, lines: list[dict[str, Any]], *, segments: list[int | None], tail: str = "", name: str = "r"
) -> Path:
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    record = records.RunRecord(
        run_id=name,
        segments=tuple({"resumed_from": s} for s in segments),
        stages=({"stage": "pretrain", "flops": 1e15, "gpu_hours": 3.0},),
    )
    records.write_run(run, record)
    (run / "steps.jsonl").write_text("".join(json.dumps(x, separators=(",", ":")) + "\n" for x in lines) + tail)
    return run


def both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[runs.RunTable, runs.RunTable]:
    monkeypatch.setattr(runs, "QUICK_BYTES", 0)
    quick = load_runs(folder)
    monkeypatch.setattr(runs, "QUICK_BYTES", 1 << 60)
    return quick, load_runs(folder)


def same(a: runs.RunTable, b: runs.RunTable) -> None:
    assert [str(s) for s in a.skipped] == [str(s) for s in b.skipped]
    for x, y in ((a.runs, b.runs), (a.steps, b.steps), (a.evals, b.evals)):
        assert set(x.columns) - _void(x) == set(y.columns) - _void(y)
        names = [c for c in y.columns if c in x.columns]
        pd.testing.assert_frame_equal(x[names], y[names], check_dtype=False, rtol=1e-12)
    if len(b.steps):
        assert list(a.steps.columns[:24]) == list(b.steps.columns[:24])


def _void(frame: pd.DataFrame) -> set[str]:
    """Columns without any value: a metric that is null throughout says nothing."""
    return {c for c in frame.columns if frame[c].isna().all()}


FAST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FAST
@given(
    lines=st.lists(line, max_size=14),
    segments=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=1, max_size=3),
    tail=st.sampled_from(["", '{"step": 3, "cos', "[1]\n", "nonsense\n"]),
)
@example(
    lines=[
        {"step": 0, "cost": {}, "segment": 0, "metrics": {"loss": False}},
        {"step": 0, "cost": {}, "segment": 1, "metrics": {"reward": 0}},
    ],
    segments=[None],
    tail="",
)
def test_quick_equals_line_by_line_on_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Any, segments: Any, tail: str
) -> None:
    write(tmp_path, lines, segments=segments, tail=tail)
    same(*both(tmp_path, monkeypatch))


@FAST
@given(parts=st.lists(plain, min_size=1, max_size=3), back=st.integers(0, 4), more=plain)
def test_quick_equals_line_by_line_on_real_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Any, back: int, more: Any
) -> None:
    """Steps in order, restarts from an earlier checkpoint, pure cost before and after; a second run with other columns."""
    lines, segments, step = [], [], 0
    for number, part in enumerate(parts):
        segments.append(max(0, step - back) if number else None)
        step = segments[-1] or 0
        lines.append({"segment": number, "step": step, "cost": {"overhead_gpu_seconds": 3.0}, "metrics": {}})
        for row in part:
            step += 1
            lines.append({"segment": number, "step": step, **row})
        lines.append(
            {"segment": number, "step": step, "cost": {"evaluation_gpu_seconds": 1.5, "evaluation_flops": 10**9}}
        )
    write(tmp_path, lines, segments=segments)
    write(
        tmp_path,
        [{"step": i + 1, **row, "metrics": {**row["metrics"], "own": i}} for i, row in enumerate(more)],
        segments=[None],
        name="s",
    )
    quick, slow = both(tmp_path, monkeypatch)
    same(quick, slow)


def test_the_quick_way_is_taken_by_an_ordinary_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"segment": 0, "step": 0, "cost": {"overhead_gpu_seconds": 2.0}, "metrics": {}}]
    lines += [
        {
            "segment": 0,
            "step": i,
            "cost": {"training_flops": 1e9},
            "metrics": {"reward": i / 10, "kl": None if i == 1 else 0.1},
        }
        for i in range(1, 9)
    ]
    run = write(tmp_path, lines, segments=[None])
    monkeypatch.setattr(runs, "QUICK_BYTES", 0)
    assert runs._quick_steps(records.read_run(run), run / "steps.jsonl") is not None
    same(*both(tmp_path, monkeypatch))


def test_integers_beyond_64_bits_and_infinities_keep_their_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"step": i, "cost": {"training_flops": 4 * 10**18 + i, "prompt_tokens": 2**40}, "metrics": {"reward": 1.0}}
        for i in range(1, 30)
    ]
    write(tmp_path, lines, segments=[None])
    same(*both(tmp_path, monkeypatch))
    write(tmp_path, [{"step": 1, "cost": {"training_flops": 10**30}, "metrics": {"reward": 1}}], segments=[None])
    quick, slow = both(tmp_path, monkeypatch)
    same(quick, slow)
    assert math.isclose(slow.runs["total_flops"][0], 1e30)


class TestCache:
    @pytest.fixture(autouse=True)
    def _small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RL_SCALING_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(run_cache, "LEAST_BYTES", 0)

    def lines(self, n: int) -> list[dict[str, Any]]:
        return [{"step": i, "cost": {"training_flops": 1e9}, "metrics": {"reward": 0.5}} for i in range(1, n + 1)]

    def test_a_hit_is_equal_and_a_change_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sweep = tmp_path / "sweep"
        run = write(sweep, self.lines(3), segments=[None])
        first = load_runs(sweep)
        monkeypatch.setattr(runs, "_load_one", lambda path: pytest.fail("the cache was not used"))
        same(load_runs(sweep), first)
        monkeypatch.undo()
        monkeypatch.setenv("RL_SCALING_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(run_cache, "LEAST_BYTES", 0)
        with (run / "steps.jsonl").open("a") as f:
            f.write(json.dumps(self.lines(4)[-1]) + "\n")
        assert len(load_runs(sweep).steps) == 4
        write(sweep, self.lines(2), segments=[None], name="s")
        assert set(load_runs(sweep).runs["run_id"]) == {"r", "s"}

    def test_a_broken_or_unwritable_cache_is_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sweep = tmp_path / "sweep"
        write(sweep, self.lines(3), segments=[None])
        load_runs(sweep)
        (kept,) = (tmp_path / "cache").glob("*.pickle")
        kept.write_bytes(b"\x80garbage")
        assert len(load_runs(sweep).steps) == 3
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("RL_SCALING_CACHE", str(tmp_path / "file" / "below"))
        assert len(load_runs(sweep).steps) == 3

    def test_it_is_bounded(self, tmp_path: Path) -> None:
        for i in range(run_cache.KEPT + 3):
            write(tmp_path / f"sweep{i}", self.lines(1), segments=[None])
            load_runs(tmp_path / f"sweep{i}")
        assert len(list((tmp_path / "cache").glob("*"))) == run_cache.KEPT


def test_several_processes_give_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_SCALING_CACHE", "off")
    monkeypatch.setattr(runs, "QUICK_BYTES", 0)
    lines = [{"step": i, "cost": {"training_flops": 1e9}, "metrics": {"reward": 0.1 * i}} for i in range(1, 5)]
    for i in range(6):
        tail = '{"step": 9' if i == 3 else ""  # one run has a torn line
        write(tmp_path, lines[: 2 + i % 3], segments=[None], name=f"r{i}", tail=tail)
    alone = load_runs(tmp_path)
    monkeypatch.setattr(runs, "MUCH_BYTES", 0)
    monkeypatch.setattr(runs, "ThreadPoolExecutor", lambda *_: pytest.fail("processes were asked for"))
    together = load_runs(tmp_path, processes=2)
    same(together, alone)
    assert together.skipped == alone.skipped and len(alone.skipped) == 1


def test_strict_raises_whatever_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [{"step": 1, "cost": {}, "metrics": {"a": np.pi}}], segments=[None], tail="torn")
    monkeypatch.setattr(runs, "QUICK_BYTES", 0)
    with pytest.raises(records.RecordError, match="torn last line"):
        load_runs(tmp_path, strict=True)
