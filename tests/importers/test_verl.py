"""verl's logs, of the versions that exist: what is read, what it costs, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scaling.errors import ForeignLogError
from scaling.importers import load, read_runs, to_table, write
from scaling.runs import load_runs

from .verl_logs import CONFIG, dump, ray, reprs, step_data, three_decimals

HOURS = 8 * 42.0  # GPU-seconds of a step of step_data, without evaluation


def put(tmp_path, lines, name="train.log", end="\n"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + end)
    return path


# -- the real log --------------------------------------------------------------------------------------------------------


def test_every_step_score_and_gpu_hour_of_a_public_run(shared_data):
    table = load(shared_data / "verl_qwen2_7b_gpg" / "qwen2-7b_math.log", source="verl")
    run, steps = table.runs.iloc[0], table.steps
    assert steps["step"].tolist() == list(range(211))
    trained = steps[steps["step"] > 0]
    assert trained["reward"].notna().all() and trained["completion_length"].notna().all()
    assert trained["reward"].iloc[[0, -1]].tolist() == [0.433, 0.937]
    assert trained["completion_length"].iloc[[0, -1]].tolist() == [308.049, 648.667]
    assert (trained["rollouts"] == 5120).all()  # 1024 prompts x 5: the configuration says so, the lengths agree
    assert trained["tokens" if "tokens" in trained else "cumulative_tokens"].iloc[-1] == pytest.approx(447_356_572)
    # all of it is 188.7, of which evaluation is apart; the progress bar's clock says 23:36:30 on 8 GPUs
    assert run["gpu_hours_paid"] == pytest.approx(188.748, abs=0.01)
    assert run["gpu_hours_paid"] == pytest.approx(8 * (23 + 36.5 / 60), rel=0.002)
    assert steps["evaluation_gpu_seconds"].sum() / 3600 == pytest.approx(12.768, abs=0.01)
    assert steps["overhead_gpu_seconds"].sum() == 0
    assert run["gpu_hours"] == pytest.approx(188.748 - 12.768, abs=0.02)
    assert steps["gpu_seconds"].sum() / 3600 == pytest.approx(run["gpu_hours"], abs=0.01)
    assert run["confidence"] == "measured" and run["devices"] == 8
    # one step hung for six hours in its checkpoint: kept in the paid hours, flagged
    assert steps.loc[steps["stalled"] == 1, "step"].tolist() == [160]
    scores = table.evals.pivot(index="step", columns="benchmark", values="pass@1")
    assert scores.index.tolist() == list(range(0, 211, 5))
    assert scores["openai/gsm8k"].iloc[[0, -1]].tolist() == [0.221, 0.879]
    assert scores["DigitalLearningGmbH/MATH-lighteval"].iloc[[0, -1]].tolist() == [0.514, 0.499]
    assert set(table.evals["decoding"]) == {"greedy"} and set(table.evals["k"]) == {1}
    assert run["model"] == "Qwen/Qwen2-7B-Instruct" and run["params"] == 7_615_616_512
    # 6 N T and a forward for old log-probabilities, give or take the attention and the head
    assert run["total_flops"] == pytest.approx((2 + 2 + 6) * 7.07e9 * 447_356_572, rel=0.05)


@pytest.mark.parametrize("many", [0, 20_000])  # text made by column, and line by line
def test_written_run_equals_the_table_in_memory(shared_data, tmp_path, monkeypatch, many):
    monkeypatch.setattr("scaling.importers.imported.MANY_ROWS", many)
    log = shared_data / "verl_qwen2_7b_gpg" / "qwen2-7b_math.log"
    run = read_runs(log, "verl")[0]
    memory = to_table([run])
    disk = load_runs(write(run, tmp_path).path)
    for name in ("steps", "evals"):
        a, b = getattr(memory, name), getattr(disk, name)
        assert list(a.columns) == list(b.columns)
        assert a.equals(b)
    assert memory.runs.drop(columns="path").equals(disk.runs.drop(columns="path"))


# -- versions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [three_decimals, reprs])
@pytest.mark.parametrize("inside", [True, False])
def test_evaluation_is_taken_out_of_the_step_where_this_version_times_it_inside(tmp_path, form, inside):
    lines = [*dump(CONFIG)]
    for step in range(1, 13):
        lines.append(ray(form(step, step_data(step, evaluated=step % 4 == 0, inside=inside, numpy=form is reprs))))
    table = load(put(tmp_path, lines), source="verl")
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(12, HOURS), rel=1e-3)
    assert table.steps["evaluation_gpu_seconds"].sum() == pytest.approx(3 * 25 * 8, rel=1e-3)
    assert table.steps["generation_gpu_seconds"].to_numpy() == pytest.approx(np.full(12, 160.0), rel=1e-3)
    assert table.steps["rollouts"].tolist() == [64.0] * 12
    assert table.steps["completion_tokens"].tolist() == pytest.approx([64.0 * (100 + s) for s in range(1, 13)], abs=1)
    assert table.evals["step"].tolist() == [4, 8, 12]
    assert table.evals["pass@1"].tolist() == pytest.approx([0.44, 0.48, 0.52])
    assert set(table.evals["k"]) == {2} and set(table.evals["temperature"]) == {0.6}
    assert table.evals["best@2"].tolist() == [0.5] * 3 and table.evals["maj@2"].tolist() == [0.45] * 3


@pytest.mark.parametrize(
    "prefix",
    [
        lambda line: line,
        lambda line: ray(line, colour=False),
        lambda line: ray(line, actor="main_task", ip="10.0.0.1"),
        lambda line: ray(line) + "\x1b[32m [repeated 3x across cluster]\x1b[0m",
        lambda line: "Training Progress:  5%|#  | 1/20 [00:12<03:00]\r" + ray(line),
        lambda line: ray(line) + "\r",
        lambda line: "2025-06-18 16:49:37,692 INFO " + line,
        lambda line: ray(line) + ray("Saved model to /x", actor="WorkerDict", pid=12),
    ],
)
def test_what_a_console_adds_is_taken_off(tmp_path, prefix):
    lines = [prefix(three_decimals(s, step_data(s))) for s in range(1, 6)]
    table = load(put(tmp_path, ["noise global_step:3 - a/b:1", "Step 3: prose", *lines]), source="verl")
    assert table.steps["step"].tolist() == [1, 2, 3, 4, 5]
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(5, HOURS), rel=1e-3)


@pytest.mark.parametrize(
    "form",
    [
        lambda v: f"np.float64({v!r})",
        lambda v: f"tensor({v!r}, device='cuda:0')",
        lambda v: f"numpy.float32({v!r})",
        lambda v: f"{v:.10e}",
        lambda v: f"{v}\x1b[0m",
    ],
)
def test_numbers_however_a_version_prints_them(tmp_path, form):
    lines = []
    for step in range(1, 8):
        pairs = [f"{k}:{form(v)}" for k, v in step_data(step, evaluated=step % 3 == 0).items()]
        lines.append(ray(" - ".join([f"step:{step}", *pairs])))
    table = load(put(tmp_path, lines), source="verl")
    plain_table = load(
        put(tmp_path, [reprs(s, step_data(s, evaluated=s % 3 == 0)) for s in range(1, 8)], "plain.log"), source="verl"
    )
    for name in ("steps", "evals"):
        a, b = (getattr(t, name).drop(columns="run_id") for t in (table, plain_table))
        pd.testing.assert_frame_equal(a, b, rtol=1e-9)
    assert not any("no number" in s.reason for s in table.skipped)


def test_a_hundred_layouts_and_windows_line_ends_lose_nothing(tmp_path):
    """Beyond the layouts that have an expression, and with line ends that none has, lines are read pair by pair."""
    data = {}
    for step in range(1, 301):
        data[step] = step_data(step, evaluated=step % 7 == 0) | {
            f"extra/{step % 100}/x": 1.0,
            f"extra/{step % 3} - y": 2,
        }
        if step % 50 == 0:
            data[step] |= {f"val-core/new_{step}/acc/mean@1": 0.5}  # a benchmark that comes later
    table = load(put(tmp_path, [ray(reprs(s, d)) + "\r" for s, d in data.items()]), source="verl")
    assert table.steps["reward"].tolist() == [d["critic/rewards/mean"] for d in data.values()]
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(300, HOURS), rel=1e-3)
    assert len(table.evals) == 42 + 6 and table.evals["benchmark"].nunique() == 7
    assert not any("no number" in s.reason for s in table.skipped)


def test_many_rows_give_what_few_do(tmp_path, monkeypatch):
    """Texts turned into numbers at once, with rows that only Python understands among them."""
    lines = [reprs(s, step_data(s, evaluated=s % 5 == 0)) for s in range(1, 41)]
    lines[20] = lines[20].replace("critic/rewards/mean:0.", "critic/rewards/mean:+0.")
    path = put(tmp_path, lines)
    few = load(path, source="verl")
    monkeypatch.setattr("scaling.importers.rows.MANY_TEXTS", 1)
    monkeypatch.setattr("scaling.importers.rows.BLOCK_ROWS", 7)
    many = load(path, source="verl")
    assert few.steps.equals(many.steps) and few.evals.equals(many.evals)
    assert few.steps["reward"].tolist() == [0.2 + s / 1000 for s in range(1, 41)]


def test_a_value_that_is_none_is_counted(tmp_path):
    lines = [reprs(s, step_data(s)) for s in range(1, 6)]
    lines[3] = lines[3].replace("actor/entropy:0.5", "actor/entropy:None")
    table = load(put(tmp_path, lines), source="verl")
    assert table.steps["entropy"].isna().tolist() == [False, False, False, True, False]
    assert [s.reason for s in table.skipped] == ["1 value(s) of actor/entropy that are not finite"]


def test_two_step_lines_printed_into_one(tmp_path):
    one = ray(three_decimals(1, step_data(1))) + ray(three_decimals(2, step_data(2)))
    table = load(put(tmp_path, [one, ray(three_decimals(3, step_data(3)))]), source="verl")
    assert table.steps["step"].tolist() == [1, 2, 3]
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, HOURS), rel=1e-3)


def test_missing_keys_leave_gaps_not_wrong_numbers(tmp_path):
    data = [step_data(s) for s in range(1, 5)]
    del data[1]["critic/rewards/mean"]
    del data[2]["perf/throughput"]
    table = load(put(tmp_path, [three_decimals(s, d) for s, d in enumerate(data, 1)]), source="verl")
    assert table.steps["reward"].isna().tolist() == [False, True, False, False]
    # a step without its throughput: its time x the GPUs that the others show
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(4, HOURS), rel=1e-3)


def old(step):
    data = step_data(step)
    timing = {k.replace("timing_s/", "timing/"): v for k, v in data.items() if k.startswith("timing_s/")}
    del timing["timing/step"]
    kept = {k: v for k, v in data.items() if not k.startswith(("timing", "perf/", "val"))}
    return kept | timing | {"timing/testing": 25.0, "val/test_score/openai/gsm8k": 0.3}


def test_old_logs_sum_their_phases_and_take_gpus_from_the_configuration(tmp_path):
    lines = [*dump(CONFIG), *(three_decimals(s, old(s)) for s in range(1, 4))]
    run = read_runs(put(tmp_path, lines), "verl")[0]
    table = to_table([run])
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, 8 * 40.0), rel=1e-3)
    assert table.steps["evaluation_gpu_seconds"].to_numpy() == pytest.approx(np.full(3, 8 * 25.0))
    assert run.record.confidence == "derived"
    assert "sum of generation" in run.record.provenance["accounting"]["gpu_seconds"]["rule"]
    assert table.evals["pass@1"].tolist() == [0.3] * 3 and table.evals["benchmark"].tolist() == ["openai/gsm8k"] * 3


def test_without_a_number_of_gpus_it_is_asked_for_and_then_assumed(tmp_path):
    path = put(tmp_path, [three_decimals(s, old(s)) for s in range(1, 4)])
    with pytest.raises(ForeignLogError, match="--gpus"):
        load(path, source="verl")
    run = read_runs(path, "verl", gpus=16)[0]
    assert run.record.confidence == "assumed"
    assert to_table([run]).steps["gpu_seconds"].sum() == pytest.approx(3 * 16 * 40.0)


def test_without_throughput_it_is_step_time_times_gpus(tmp_path):
    rows = [{k: v for k, v in step_data(s).items() if not k.startswith("perf/")} for s in range(1, 4)]
    run = read_runs(put(tmp_path, [*dump(CONFIG), *(three_decimals(s, d) for s, d in enumerate(rows, 1))]), "verl")[0]
    assert to_table([run]).steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, HOURS))
    assert run.record.confidence == "derived"


@pytest.mark.parametrize("kind", ["command line", "script", "yaml", "unparsable"])
def test_gpus_from_other_forms_of_the_configuration(tmp_path, kind):
    import yaml

    heads = {
        "command line": ["+ python3 -m verl.trainer.main_ppo actor_rollout_ref.rollout.n=4 trainer.n_gpus_per_node=4 trainer.nnodes=2"],
        "script": ["python3 -m verl.trainer.main_ppo \\", "    trainer.n_gpus_per_node=4 \\", "    trainer.nnodes=2 $@"],
        "yaml": [ray(line) for line in yaml.safe_dump(CONFIG).splitlines()] + [ray("done")],
        "unparsable": [ray("{'actor_rollout_ref': {'x': <Object at 1>},"), ray(" 'reward_model': {'n_gpus_per_node': 1, 'nnodes': 1},"),
                       ray(" 'trainer': {'n_gpus_per_node': 4, 'nnodes': 2}}")],
    }  # fmt: skip
    table = load(put(tmp_path, [*heads[kind], *(three_decimals(s, old(s)) for s in range(1, 4))]), source="verl")
    assert table.runs["devices"].tolist() == [8]


def test_a_shell_variable_is_no_number_of_gpus(tmp_path):
    head = "+ python3 -m verl.trainer.main_ppo trainer.n_gpus_per_node=4 trainer.nnodes=$NNODES"
    with pytest.raises(ForeignLogError, match="--gpus"):
        load(put(tmp_path, [head, *(three_decimals(s, old(s)) for s in range(1, 4))]), source="verl")


# -- restarts, several logs ----------------------------------------------------------------------------------------------


def test_a_restart_inside_one_file_keeps_the_cost_of_both_segments(tmp_path):
    first = [three_decimals(s, step_data(s)) for s in range(1, 9)]
    again = ["Setting global step to 5", three_decimals(5, {"val-core/openai/gsm8k/acc/mean@2": 0.5})]
    again += [three_decimals(s, step_data(s)) for s in range(6, 11)]
    table = load(put(tmp_path, [*first, *again]), source="verl")
    run = table.runs.iloc[0]
    assert run["segments"] == 2
    assert table.steps["step"].unique().tolist() == list(range(1, 11))
    assert run["gpu_hours"] == pytest.approx(10 * HOURS / 3600, rel=1e-3)
    assert run["redone_gpu_hours"] == pytest.approx(3 * HOURS / 3600, rel=1e-3)  # steps 6 to 8, done twice
    assert run["gpu_hours_paid"] == pytest.approx(13 * HOURS / 3600, rel=1e-3)
    # the score after the restart stands at the cost of step 5
    assert table.evals["gpu_hours"].tolist() == pytest.approx([5 * HOURS / 3600], rel=1e-3)


def test_a_restart_from_scratch_pays_for_both(tmp_path):
    lines = [three_decimals(s, step_data(s)) for s in (*range(1, 4), *range(1, 6))]
    run = load(put(tmp_path, lines), source="verl").runs.iloc[0]
    assert run["gpu_hours"] == pytest.approx(5 * HOURS / 3600, rel=1e-3)
    assert run["gpu_hours_paid"] == pytest.approx(8 * HOURS / 3600, rel=1e-3)


def test_a_line_printed_twice_is_paid_once(tmp_path):
    lines = [line for s in range(1, 4) for line in [three_decimals(s, step_data(s))] * 2]
    table = load(put(tmp_path, lines), source="verl")
    assert table.runs["gpu_hours"].item() == pytest.approx(3 * HOURS / 3600, rel=1e-3)
    assert any("repeat" in s.reason for s in table.skipped)


def test_several_logs_of_one_run_join_by_the_configuration(tmp_path):
    a = put(tmp_path, [*dump(CONFIG), *(three_decimals(s, step_data(s)) for s in range(1, 7))], "a.log")
    b = put(tmp_path, [*dump(CONFIG), *(three_decimals(s, step_data(s)) for s in range(5, 9))], "b.log")
    run = load([b, a], source="verl").runs.iloc[0]
    assert (run["name"], run["segments"], run["steps"]) == ("exp", 2, 8)
    assert run["gpu_hours"] == pytest.approx(8 * HOURS / 3600, rel=1e-3)
    assert run["redone_gpu_hours"] == pytest.approx(2 * HOURS / 3600, rel=1e-3)


def test_logs_that_both_begin_at_the_start_are_two_runs_unless_told(tmp_path):
    logs = [put(tmp_path, [*dump(CONFIG), three_decimals(1, step_data(s)), three_decimals(2, step_data(s + 1))], f"{s}.log")
            for s in (1, 2)]  # fmt: skip
    assert len(load(logs, source="verl").runs) == 2
    one = load(logs, source="verl", one_run=True).runs.iloc[0]
    assert one["gpu_hours_paid"] == pytest.approx(4 * HOURS / 3600, rel=1e-3)


def test_two_runs_that_alternate_in_one_file_are_refused(tmp_path):
    lines = [ray(three_decimals(s, step_data(s)), pid=p) for s in range(1, 4) for p in (1, 2)]
    with pytest.raises(ForeignLogError, match="alternate"):
        load(put(tmp_path, lines), source="verl")


# -- JSONL ---------------------------------------------------------------------------------------------------------------


def test_the_file_logger_gives_the_same_as_the_console(tmp_path):
    data = [step_data(s, evaluated=s == 2) for s in range(1, 5)]
    console = load(put(tmp_path, [reprs(s, d) for s, d in enumerate(data, 1)]), source="verl")
    lines = [json.dumps({"step": s, "data": d}) for s, d in enumerate(data, 1)]
    jsonl = load(put(tmp_path, [*lines, '{"step": 5, "data": {"critic/rew'], "metrics.jsonl", end=""), source="verl")
    assert jsonl.steps.drop(columns="run_id").equals(console.steps.drop(columns="run_id"))
    assert [s.reason for s in jsonl.skipped] == ["torn last line"]


# -- bad input -----------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_loses_its_last_value_and_says_so(tmp_path):
    lines = [three_decimals(s, step_data(s)) for s in range(1, 4)]
    table = load(put(tmp_path, [*lines[:2], lines[2][:-4]], end=""), source="verl")
    assert table.steps["step"].tolist() == [1, 2, 3]
    assert any("torn" in s.reason for s in table.skipped)
    assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, HOURS), rel=1e-3)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"  \n\n", "empty"),
        (bytes(range(256)) * 100, "binary"),
        (b"Hello\nworld\n", "step:N"),
        (b"step:3 - then we go\n", "step:N"),
        (b"x" * 100_000, "step:N"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(tmp_path, content, match):
    path = tmp_path / "x.log"
    path.write_bytes(content)
    with pytest.raises(ForeignLogError, match=match) as caught:
        load(path, source="verl")
    assert "\n" not in str(caught.value)


def test_nan_and_infinity_are_counted_never_recorded(tmp_path):
    data = [step_data(s) for s in range(1, 4)]
    data[1]["critic/rewards/mean"] = float("nan")
    data[2]["actor/grad_norm"] = float("inf")
    table = load(put(tmp_path, [reprs(s, d) for s, d in enumerate(data, 1)]), source="verl")
    assert table.steps["reward"].isna().tolist() == [False, True, False]
    assert sum("not finite" in s.reason for s in table.skipped) == 2


def test_a_hostile_configuration_is_not_executed(tmp_path):
    head = ray(
        "{'actor_rollout_ref': __import__('os').system('touch "
        + str(tmp_path / "pwned")
        + "'), 'trainer': {'n_gpus_per_node': 4, 'nnodes': 1}}"
    )
    load(put(tmp_path, [head, *(three_decimals(s, step_data(s)) for s in range(1, 3))]), source="verl")
    assert not (tmp_path / "pwned").exists()


def test_a_gzipped_log_is_read(tmp_path):
    import gzip

    path = tmp_path / "train.log.gz"
    with gzip.open(path, "wt") as f:
        f.write("\n".join(three_decimals(s, step_data(s)) for s in range(1, 4)))
    assert len(load(path, source="verl").steps) == 3


# -- accounting ----------------------------------------------------------------------------------------------------------


def test_the_users_gpus_win_over_the_log_and_are_an_assumption(tmp_path):
    path = put(tmp_path, [three_decimals(s, step_data(s)) for s in range(1, 4)])
    more = read_runs(path, "verl", gpus=12)[0]  # 8 train, 4 serve rollouts beside them
    assert to_table([more]).steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, 12 * 42.0), rel=1e-3)
    assert more.record.confidence == "assumed"
    assert read_runs(path, "verl", gpus=8)[0].record.confidence == "measured"


@pytest.mark.parametrize(
    ("seconds", "flagged"), [(9.5 * 42, False), (40 * 42, True), (23 * 42, True), (22 * 42, False)]
)
def test_a_stall_is_ten_medians_and_a_quarter_of_an_hour(tmp_path, seconds, flagged):
    data = [step_data(s) for s in range(1, 10)]
    more = seconds - 42.0
    data[4] |= {"timing_s/step": seconds, "perf/time_per_step": seconds, "timing_s/gen": 20.0 + more,
                "perf/throughput": data[4]["perf/total_num_tokens"] / (seconds * 8)}  # fmt: skip
    run = read_runs(put(tmp_path, [reprs(s, d) for s, d in enumerate(data, 1)]), "verl")[0]
    table = to_table([run])
    assert table.runs["gpu_hours_paid"].item() == pytest.approx((8 * HOURS + 8 * seconds) / 3600)
    assert [s["step"] for s in run.record.provenance["stalled"]] == ([5] if flagged else [])
    assert table.steps.get("stalled", np.zeros(9))[4] == flagged if flagged else "stalled" not in table.steps


def test_flops_are_those_of_the_rollouts_at_their_mean_lengths(tmp_path):
    from scaling.flops import ModelShape, generation_flops, scoring_flops, training_flops

    shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=256, vocab_size=300, tied=True)
    path = put(tmp_path, [reprs(s, step_data(s)) for s in range(1, 31)])
    table = load(path, "verl", shape=shape)
    assert load(path, "verl").runs["total_flops"].isna().item()  # never 0 where it is not known
    for step in (1, 30):
        row = table.steps.set_index("step").loc[step]
        lengths = np.full(64, 20), np.full(64, 100 + step)
        assert row["generation_flops"] == pytest.approx(generation_flops(shape, *lengths), rel=1e-9)
        assert row["training_flops"] == pytest.approx(training_flops(shape, *lengths), rel=1e-9)
        assert row["scoring_flops"] == pytest.approx(2 * scoring_flops(shape, *lengths), rel=1e-9)  # old and reference
    windowed = ModelShape(**{**vars(shape), "windows": (50, None)})
    assert load(path, "verl", shape=windowed).runs["total_flops"].item() < table.runs["total_flops"].item()


def test_sources_are_left_as_they_were(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    path = put(folder, [three_decimals(s, step_data(s)) for s in range(1, 4)])
    folder.chmod(0o555)
    before = path.stat()
    write(read_runs(folder, "verl")[0], tmp_path / "runs")
    folder.chmod(0o755)
    assert [p.name for p in folder.iterdir()] == ["train.log"] and path.stat().st_mtime_ns == before.st_mtime_ns
