"""Records survive kills, full disks and foreign lines; cost adds up however a run was cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scaling
from scaling import records
from scaling.cost import COST_FIELDS, ComputeCost
from scaling.errors import RecordError, ScalingError, UnknownName
from scaling.metrics import blind_guess_pass_at_k, pass_at_k, sampling_error

amounts = st.floats(0, 1e20, allow_nan=False)
costs = st.builds(ComputeCost, **dict.fromkeys(COST_FIELDS, amounts))


def write(path: Path, *, steps, segments=({},), evals=(), **fields) -> Path:
    records.write_run(
        path, records.RunRecord(run_id=fields.pop("run_id", path.name), segments=tuple(segments), **fields)
    )
    with records.Appender(path / records.STEPS) as out:
        for row in steps:
            out.write(row)
    with records.Appender(path / records.EVALS) as out:
        for row in evals:
            out.write(row)
    return path


def step(n, segment=0, **cost):
    return {
        "segment": segment,
        "step": n,
        "cost": cost or {"training_flops": 10.0, "training_gpu_seconds": 1.0},
        "metrics": {"reward": n},
    }


@given(costs, costs, costs)
def test_costs_add(a, b, c):
    assert (a + b).total_flops == pytest.approx(a.total_flops + b.total_flops)
    assert ((a + b) + c).gpu_hours_paid == pytest.approx((a + (b + c)).gpu_hours_paid)
    assert sum([a, b]) == a + b
    assert ComputeCost.from_dict(json.loads(json.dumps(a.to_dict()))) == a
    assert a.gpu_hours <= a.gpu_hours_paid


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "3", True])
def test_costs_refuse_what_is_no_amount(value):
    with pytest.raises(ScalingError, match="training_flops"):
        ComputeCost(training_flops=value)
    with pytest.raises(ScalingError, match="nonsense"):
        ComputeCost.from_dict({"nonsense": 1.0})


def test_utilisation_above_one_is_an_error():
    cost = ComputeCost(training_flops=1e15, training_gpu_seconds=1.0)
    assert cost.mfu(2e15) == 0.5
    with pytest.raises(ScalingError, match=r"\[0, 1\]"):
        cost.mfu(1e14)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=12), st.data())
def test_totals_do_not_depend_on_how_a_run_was_cut_into_segments(tmp_path_factory, increments, data):
    folder = tmp_path_factory.mktemp("cut")
    cut = data.draw(st.integers(0, len(increments)))
    rows = [step(i + 1, training_flops=f, training_gpu_seconds=s) for i, (f, s) in enumerate(increments)]
    whole = write(folder / "whole", steps=rows)
    halves = write(
        folder / "halves",
        steps=[{**row, "segment": int(i >= cut)} for i, row in enumerate(rows)],
        segments=({}, {"resumed_from": cut}),
    )
    a, b = (scaling.load_runs(p).runs.iloc[0] for p in (whole, halves))
    for column in ("total_flops", "gpu_hours", "gpu_hours_paid", "steps"):
        assert a[column] == pytest.approx(b[column])


def test_redone_steps_are_paid_once_more_and_counted_once(tmp_path):
    rows = [*(step(n) for n in (1, 2, 3)), *(step(n, segment=1) for n in (3, 4))]
    evals = [
        {
            "segment": s,
            "step": n,
            "benchmark": "b",
            "k": 2,
            "successes": [n % 3, 1],
            "cost": {"training_flops": 10.0 * n},
        }
        for s, n in ((0, 2), (0, 3), (1, 3))
    ]
    table = scaling.load_runs(write(tmp_path / "r", steps=rows, evals=evals, segments=({}, {"resumed_from": 2})))
    row = table.runs.iloc[0]
    assert table.steps["step"].tolist() == [1, 2, 3, 4]
    assert row["total_flops"] == 40
    assert row["gpu_hours"] == pytest.approx(4 / 3600)
    assert row["gpu_hours_paid"] == pytest.approx(5 / 3600)
    assert row["redone_gpu_hours"] == pytest.approx(1 / 3600)
    assert table.evals[["step", "segment"]].values.tolist() == [[2, 0], [3, 1]]


def test_a_torn_last_line_and_foreign_lines_are_counted_and_cost_nothing(tmp_path):
    path = write(tmp_path / "r", steps=[step(1), step(2)])
    with (path / records.STEPS).open("a") as f:
        f.write('[1, 2]\n{"step": -1}\nnot json\n{"step": 3, "cost": {"training_flops": -5}}\n{"step": 4, "co')
    table = scaling.load_runs(path)
    assert table.steps["step"].tolist() == [1, 2]
    assert [s.line for s in table.skipped] == [3, 5, 7, 4, 6] or sorted(s.line for s in table.skipped) == [
        3,
        4,
        5,
        6,
        7,
    ]
    assert "torn last line" in [s.reason for s in table.skipped]
    assert "5 lines skipped" in repr(table)
    with pytest.raises(RecordError, match=r"steps\.jsonl"):
        scaling.load_runs(path, strict=True)
    with records.Appender(path / records.STEPS) as out:  # the next writer ends the torn line and goes on
        out.write(step(5))
    assert scaling.load_runs(path).steps["step"].tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    "damage",
    [
        {"sampling": 3},
        {"metrics": [1]},
        {"sampling": {"decoding": ["greedy"]}},
        {"sampling": {"temperature": "hot"}},
        {"k": "8"},
    ],
)
def test_an_evaluation_of_wrong_types_is_skipped_and_counted(tmp_path, damage):
    path = write(tmp_path / "r", steps=[step(1), step(2)])
    good = {"step": 1, "benchmark": "math", "score": 0.5, "cost": {}}
    with records.Appender(path / records.EVALS) as out:
        out.write(good)
        out.write({**good, "step": 2} | damage)
    table = scaling.load_runs(path)
    assert table.evals["step"].tolist() == [1]
    assert len(table.skipped) == 1
    assert "must be" in table.skipped[0].reason


def test_a_metric_named_like_a_column_does_not_replace_it(tmp_path):
    rows = [step(i) for i in (1, 2)]
    rows[1]["metrics"] |= {"step": "two", "training_flops": -1.0}
    table = scaling.load_runs(write(tmp_path / "r", steps=rows))
    assert table.steps["step"].tolist() == [1, 2]
    assert table.steps["training_flops"].tolist() == [10.0, 10.0]


def test_a_damaged_name_of_a_metric_does_not_stop_the_load(tmp_path):
    path = write(tmp_path / "r", steps=[step(i) for i in range(1, 2000)])
    whole = (path / records.STEPS).read_bytes()
    assert len(whole) > 64_000
    at = whole.index(b"training_flops", len(whole) // 2)
    (path / records.STEPS).write_bytes(whole[:at] + b"\x8a" + whole[at + 1 :])
    table = scaling.load_runs(path)
    assert len(table.steps) == 1998
    assert len(table.skipped) == 1


def test_kill_minus_nine_while_writing_loses_at_most_the_line_in_hand(tmp_path):
    program = (
        "from scaling.records import Appender; from pathlib import Path; import itertools\n"
        f"out = Appender(Path({str(tmp_path / 'steps.jsonl')!r}))\n"
        "for i in itertools.count(1):\n    out.write({'step': i, 'metrics': {'reward': 'x' * 300}})\n    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline() or 0) < 200:
        pass
    process.kill()
    said = [int(line) for line in process.stdout.read().split()] or [200]
    process.wait()
    rows, skipped = records.read_lines(tmp_path / "steps.jsonl")
    assert len(rows) >= said[-1]
    assert len(skipped) <= 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path):
    (tmp_path / "steps.jsonl").symlink_to("/dev/full")
    out = records.Appender(tmp_path / "steps.jsonl")
    with pytest.raises(RecordError, match=r"No space left.*earlier lines are kept"):
        out.write({"step": 1})
    out.close()


def test_run_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "r", steps=[step(1)])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        records.write_run(path, records.RunRecord(run_id="other"))
    assert records.read_run(path).run_id == "r"
    assert not list(path.glob("*.tmp")) and not list(path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must be JSON"),
        ("[]", "must be an object"),
        ('{"run_id": "x", "schema_version": 99}', "schema_version 1"),
        ('{"run_id": "x", "schema_version": 1, "model": "Qwen"}', "'model' must be an object"),
        ('{"run_id": "x", "schema_version": 1, "provenance": 3.5}', "'provenance' must be an object"),
        ('{"run_id": "x", "schema_version": 1, "stages": 3.5}', "'stages' must be a list of objects"),
        ('{"run_id": "x", "schema_version": 1, "segments": ["a"]}', "'segments' must be a list of objects"),
        ('{"run_id": "x", "schema_version": 1, "stages": [{"stage": "pretrain", "flops": {}}]}', "'flops' of stages"),
    ],
)
def test_a_broken_run_json_names_file_and_reason(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError, match=words):
        scaling.load_runs(tmp_path)


def test_nothing_found_and_duplicates(tmp_path):
    with pytest.raises(RecordError, match="no run directory"):
        scaling.load_runs(tmp_path)
    with pytest.raises(RecordError, match="must exist"):
        scaling.load_runs(tmp_path / "nope")
    write(tmp_path / "a", steps=[step(1)], run_id="same")
    write(tmp_path / "b", steps=[step(1)], run_id="same")
    with pytest.raises(RecordError, match="same"):
        scaling.load_runs(tmp_path)


def _two_runs(tmp_path, **fields):
    stages = ({"stage": "pretrain", "flops": 1000.0, "gpu_hours": 2.0},)
    for seed in (0, 1):
        evals = [
            {
                "step": n,
                "benchmark": "b",
                "k": 4,
                "successes": [n, 4, 0],
                "cost": {"training_flops": 10.0 * n, "training_gpu_seconds": 36.0 * n},
            }
            for n in (0, 1, 2)
        ]
        write(
            tmp_path / f"r{seed}", steps=[step(1), step(2)], evals=evals, stages=stages, recipe_hash="x",
            model={"name": "m", "params": 10.0}, config={"seed": seed}, **fields,
        )  # fmt: skip
    return scaling.load_runs(tmp_path)


def test_curves_on_every_axis(tmp_path):
    table = _two_runs(tmp_path)
    groups = table.curves(axis="gpu_hours", by="model")
    assert list(groups) == ["m"] and len(groups["m"]) == 2
    curve = groups["m"][0]
    assert curve.compute.tolist() == pytest.approx([0.0, 0.01, 0.02])
    assert curve.performance.tolist() == pytest.approx([4 / 12, 5 / 12, 6 / 12])
    assert curve.successes is not None and curve.samples_per_item == 4
    assert table.curves(axis="pretraining_flops_ratio")["r0"][0].compute.tolist() == pytest.approx([0, 0.01, 0.02])
    assert table.curves(axis="pretraining_gpu_hours_ratio")["r0"][0].compute.tolist() == pytest.approx([0, 0.005, 0.01])
    assert table.curves(metric="pass@2")["r0"][0].performance[0] == pytest.approx(1 / 3)
    assert table.curves(metric="reward", axis="total_flops")["r0"][0].performance.tolist() == [1, 2]


def test_what_cannot_be_an_axis_or_a_name_raises(tmp_path):
    table = _two_runs(tmp_path / "a")
    with pytest.raises(UnknownName, match="axis must be one of"):
        table.curves(axis="flops")
    with pytest.raises(UnknownName, match="benchmark must be one of b"):
        table.curves(benchmark="c")
    with pytest.raises(UnknownName, match="by must be a column"):
        table.curves(by="size")
    with pytest.raises(UnknownName, match="metric"):
        table.curves(metric="accuracy")
    with pytest.raises(ScalingError, match=r"k=9|1 <= k"):
        table.curves(metric="pass@9")
    shared = _two_runs(tmp_path / "b", shared=True)
    with pytest.raises(ScalingError, match="shared their device"):
        shared.curves(axis="gpu_hours")
    shared.curves(axis="total_flops")


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_success(n, data):
    from math import comb

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k([c], n, k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k))


def test_guessing_and_errors():
    assert blind_guess_pass_at_k(0.05, 16) == pytest.approx(1 - 0.95**16)
    assert sampling_error([0, 4], 4) == 0  # both items are certain: sampling adds nothing
    assert sampling_error([2, 2], 4) == pytest.approx((2 * 0.25 / 3) ** 0.5 / 2)


@pytest.mark.train
def test_two_processes_cannot_write_one_run(tmp_path):
    pytest.importorskip("filelock")
    from sweeps.run_dir import RunDirectory

    program = (
        "import sys, time; from pathlib import Path; from sweeps.run_dir import RunDirectory\n"
        f"d = RunDirectory(Path({str(tmp_path / 'r')!r})); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
        with pytest.raises(RecordError, match=f"in use by process {holder.pid} on .* since"):
            RunDirectory(tmp_path / "r")
    finally:
        holder.kill()
        holder.wait()
    for _ in range(50):  # a killed holder holds nothing
        try:
            RunDirectory(tmp_path / "r").release()
            break
        except RecordError:
            time.sleep(0.1)
    else:
        pytest.fail("the lock outlived its holder")


@given(
    st.lists(st.one_of(st.integers(-1, 5), st.booleans(), st.floats(-1, 5), st.just(float("nan")), st.just("3"))),
    st.integers(1, 4),
)
def test_counts_are_judged_alike_whatever_their_types(counts, k):
    good = all(isinstance(c, (int, float)) and 0 <= c <= k for c in counts)
    line = {"step": 1, "benchmark": "b", "k": k, "successes": counts}
    assert (records.check_eval(line) is None) == good


def test_a_file_in_place_of_runs_is_told_so(tmp_path):
    (tmp_path / "curve.csv").write_text("gpu_hours,accuracy\n1,0.2\n")
    with pytest.raises(RecordError, match="must be a run directory .* got a file"):
        scaling.load_runs(tmp_path / "curve.csv")
