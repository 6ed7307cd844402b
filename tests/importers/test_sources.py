"""TRL, OpenRLHF, TensorBoard, MLflow and tables: real files where the library is here, its format where it is not."""

from __future__ import annotations

import json
import sqlite3
import struct

import numpy as np
import pytest

from scaling.errors import ConfigError, ForeignLogError, ScalingError, UnknownName
from scaling.importers import load, load_mapping, read_runs, shipped, to_table
from scaling.importers.tensorboard import _masked_crc

from .verl_logs import CONFIG, step_data

HOURS = 8 * 42.0

# -- TRL -----------------------------------------------------------------------------------------------------------------


def state(history, step, **more):
    return json.dumps({"global_step": step, "max_steps": 10, "log_history": history, "logging_steps": 2} | more)


def test_trainer_state_rows_stand_for_the_steps_since_the_last(tmp_path):
    history = []
    for step in range(2, 11, 2):
        history.append({"step": step, "epoch": step / 10, "loss": 0.1, "reward": step / 10, "completions/mean_length": 50.0,
                        "completions/clipped_ratio": 0.1, "frac_reward_zero_std": 0.25, "num_tokens": 1000.0 * step,
                        "step_time": 3.0, "entropy": 0.5})  # fmt: skip
        if step % 4 == 0:
            history.append({"step": step, "epoch": step / 10, "eval_reward": 0.5 + step / 100, "eval_runtime": 7.0,
                            "eval_rewards/accuracy/mean": 0.4, "eval_loss": 0.0})  # fmt: skip
    history.append({"step": 10, "train_runtime": 99.0, "total_flos": 1e12, "train_loss": 0.1})
    for name, kept, reached in (("checkpoint-4", 3, 4), ("checkpoint-10", None, 10)):
        (tmp_path / "grpo" / name).mkdir(parents=True)
        (tmp_path / "grpo" / name / "trainer_state.json").write_text(state(history[:kept], reached))
        (tmp_path / "grpo" / name / "training_args.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    blind = load(tmp_path, "trl")  # no trainer state says how many GPUs there were: no hours, and a note
    assert blind.runs["gpu_hours"].isna().item() and blind.runs["tokens"].item() == 10_000
    assert "--gpus" in str(read_runs(tmp_path, "trl")[0].explanation)
    run = read_runs(tmp_path, "trl", gpus=4)[0]
    table = to_table([run])
    assert table.runs[["name", "confidence", "status"]].iloc[0].tolist() == ["grpo", "assumed", "finished"]
    assert table.steps["step"].tolist() == [2, 4, 6, 8, 10]
    assert table.steps["gpu_seconds"].tolist() == [2 * 3.0 * 4] * 5  # step_time is a mean over two steps
    assert table.steps["evaluation_gpu_seconds"].tolist() == [0, 28.0, 0, 28.0, 0]
    assert table.runs["tokens"].item() == 10_000
    assert table.steps["zero_variance_fraction"].tolist() == [0.25] * 5
    assert sorted(table.evals["benchmark"].unique()) == ["accuracy", "eval"]
    assert table.evals.loc[table.evals["benchmark"] == "eval", "pass@1"].tolist() == [0.54, 0.58]


def test_trainer_state_written_by_transformers(tmp_path):
    callback = pytest.importorskip("transformers.trainer_callback")
    held = callback.TrainerState(max_steps=2, global_step=2)
    held.log_history = [{"loss": 0.1, "reward": float(s) / 2, "num_tokens": 100.0 * s, "step_time": 1.5, "step": s, "epoch": 0.1 * s}
                        for s in (1, 2)]  # fmt: skip
    held.save_to_json(str(tmp_path / "trainer_state.json"))
    table = load(tmp_path, "trl", gpus=1)
    assert table.steps["reward"].tolist() == [0.5, 1.0] and table.steps["gpu_seconds"].tolist() == [1.5, 1.5]


# -- OpenRLHF ------------------------------------------------------------------------------------------------------------


def test_openrlhf_console(tmp_path):
    lines = ["noise", "Episode [1/1]:   0%|          | 0/8"]
    for step in range(1, 5):
        status = {"policy_loss": 0.1, "reward": 0.25 * step, "response_length": 80.0, "total_length": 100.0, "kl": 0.01,
                  "timing/generation": 10.0, "timing/ppo_train": 5.0, "timing/step_total": 20.0, "dynamic_filtering_pass_rate": 0.75}  # fmt: skip
        text = str(status).replace("0.01", "np.float64(0.01)")
        lines.append(
            f"\x1b[36m(PPOTrainer pid=3)\x1b[0m INFO 01-02 03:04:05 [ppo_trainer.py:1] ✨ Global step {step}: {text}"
        )
    scores = {"eval_aime_pass4": 0.5, "eval_aime_pass1": 0.25}
    lines.append(f"(PPOTrainer pid=3) ✨ Evaluation completed in 00:01:40, global_step 4, eval_metrics: {scores}")
    path = tmp_path / "run.log"
    path.write_text("\n".join(lines) + "\n")
    table = load(path, "openrlhf", gpus=8)
    assert table.steps["reward"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert table.steps["prompt_length"].tolist() == [20.0] * 4
    assert table.steps["zero_variance_fraction"].tolist() == [0.25] * 4
    assert table.steps["kl"].tolist() == [0.01] * 4
    assert table.steps["gpu_seconds"].tolist() == [160.0] * 4
    assert table.evals[["step", "benchmark", "pass@1", "any@4", "k"]].iloc[0].tolist() == [4, "aime", 0.25, 0.5, 1]


# -- TensorBoard ---------------------------------------------------------------------------------------------------------


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def event(step, values, wall=0.0):
    """An event record by the published format."""
    summary = b""
    for tag, value in values.items():
        item = b"\x0a" + varint(len(tag)) + tag.encode() + b"\x15" + struct.pack("<f", value)
        summary += b"\x0a" + varint(len(item)) + item
    body = b"\x09" + struct.pack("<d", wall) + b"\x10" + varint(step) + b"\x2a" + varint(len(summary)) + summary
    size = struct.pack("<Q", len(body))
    return size + struct.pack("<I", _masked_crc(size)) + body + struct.pack("<I", _masked_crc(body))


def test_event_files_are_read_whole_and_restarts_found(tmp_path):
    for part, steps in enumerate((range(1, 5), range(4, 8))):
        data = b"".join(event(s, step_data(s, evaluated=s == 6)) for s in steps)
        (tmp_path / f"events.out.tfevents.{100 + part}.host").write_bytes(data)
    table = load(tmp_path, "tensorboard")
    run = table.runs.iloc[0]
    assert table.steps["step"].unique().tolist() == list(range(1, 8)) and run["trainer"] == "verl"
    assert run["gpu_hours"] == pytest.approx(7 * HOURS / 3600, rel=1e-3)
    assert run["redone_gpu_hours"] == pytest.approx(HOURS / 3600, rel=1e-3)
    assert table.evals["pass@1"].tolist() == pytest.approx([0.46])
    many = b"".join(event(s, {"critic/rewards/mean": s}) for s in range(20_000))
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "events.out.tfevents.1.x").write_bytes(many[:-3])
    table = load(tmp_path / "many", "tensorboard", gpus=1)
    assert len(table.steps) == 19_999 and any("torn" in s.reason for s in table.skipped)


def test_event_files_of_the_real_library(tmp_path):
    writer_of = pytest.importorskip(
        "tensorboard.summary.writer.event_file_writer", reason="tensorboard is not installed"
    )
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = writer_of.EventFileWriter(str(tmp_path))
    for step in range(1, 4):
        for i, (key, value) in enumerate(step_data(step).items()):
            kind = {"simple_value": value} if i % 2 else {"tensor": make_tensor_proto(float(value))}
            writer.add_event(Event(wall_time=1.0, step=step, summary=Summary(value=[Summary.Value(tag=key, **kind)])))
    writer.close()
    assert load(tmp_path, "tensorboard").steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(3, HOURS), rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"text, no events", event(1, {"a/b": 1.0})])
def test_what_is_no_event_file_of_a_trainer_is_refused(tmp_path, content):
    (tmp_path / "events.out.tfevents.1.x").write_bytes(content)
    with pytest.raises(ForeignLogError) as caught:
        load(tmp_path, "tensorboard")
    assert "\n" not in str(caught.value)


# -- MLflow --------------------------------------------------------------------------------------------------------------


def test_mlflow_folder_and_database(tmp_path):
    folder = tmp_path / "mlruns" / "0" / "abc"
    for name in ("metrics", "params"):
        (folder / name).mkdir(parents=True)
    (folder / "meta.yaml").write_text("run_id: abc\nrun_name: a run\nstatus: 3\n")
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\n")
    rows = {s: step_data(s, evaluated=s == 2) for s in range(1, 5)}
    points = [(k.replace("@", "_at_"), s, float(v)) for s, row in rows.items() for k, v in row.items()]
    for key, step, value in points:
        file = folder / "metrics" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as f:
            f.write(f"{1000 * step} {value} {step}\n")
    for key, value in (("trainer/n_gpus_per_node", "4"), ("trainer/nnodes", "2")):
        file = folder / "params" / key
        file.parent.mkdir(exist_ok=True)
        file.write_text(value)
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("create table runs (run_uuid text, name text, status text, start_time int)")
        db.execute("create table metrics (key text, value real, timestamp int, run_uuid text, step int, is_nan int)")
        db.execute("create table params (key text, value text, run_uuid text)")
        db.execute("insert into runs values ('abc', 'a run', 'FINISHED', 1)")
        db.executemany("insert into metrics values (?, ?, ?, 'abc', ?, 0)", [(k, v, 1000 * s, s) for k, s, v in points])
    for path in (tmp_path / "mlruns", tmp_path / "mlflow.db"):
        table = load(path, "mlflow")
        assert table.runs[["name", "status", "trainer", "devices"]].iloc[0].tolist() == ["a run", "finished", "verl", 8]
        assert table.steps["gpu_seconds"].to_numpy() == pytest.approx(np.full(4, HOURS), rel=1e-3)
        assert table.evals[["step", "k", "pass@1"]].iloc[0].tolist() == pytest.approx([2, 2, 0.42])
    (tmp_path / "bad.db").write_bytes(b"SQLite format 3\x00" + b"\x01" * 100)
    with pytest.raises(ForeignLogError, match="SQLite"):
        load(tmp_path / "bad.db", "mlflow")


# -- tables --------------------------------------------------------------------------------------------------------------

BOOK = {
    "trainer": "reasoning-from-scratch",
    "metrics": {
        "reward": "reward_avg",
        "completion_length": "avg_response_len",
        "entropy": "entropy_avg",
        "loss": "loss",
    },
    "quantities": {"tokens_per_second": "tokens_per_sec"},
    "constants": {"rollouts": 8},
    "derive": {"completion_tokens": "rollouts * completion_length"},
    "evals": {"math500": {"key": "eval_acc", "scale": 0.01, "k": 1}},
    "semantics": {"tokens": "completion"},
}


def test_public_csv_runs_by_mapping(shared_data):
    folder = shared_data / "qwen3_0.6b_grpo_csv"
    table = load(folder, "table", BOOK, gpus=1)
    assert sorted(table.runs["steps"]) == [258, 500]
    long = table.select(table.runs.loc[table.runs["steps"] == 500, "run_id"])
    assert long.evals["step"].tolist() == list(range(50, 501, 50))
    assert long.evals["pass@1"].iloc[[0, -1]].tolist() == pytest.approx([0.462, 0.33])
    # 13 steps of a first try, then 500: the first try is paid, the curve is the second
    assert long.runs["segments"].item() == 2 and long.runs["redone_gpu_hours"].item() == pytest.approx(0.0233, abs=1e-3)
    first = long.steps.iloc[0]
    assert first["gpu_seconds"] == pytest.approx(8 * 6.375 / 19.2, rel=0.01)
    assert first["completion_tokens"] == 8 * 6.375


@pytest.mark.parametrize("flipped", [False, True])
def test_a_flat_mapping_either_way_round(tmp_path, flipped):
    (tmp_path / "a.csv").write_text("iteration,r,tok,acc\n1,0.5,100,\n2,NaN,200,0.25\n3,Infinity,x,\n4,0.75\n")
    flat = {"step": "iteration", "reward": "r", "total_tokens": "tok", "eval/math": "acc"}
    mapping = {v: k for k, v in flat.items()} if flipped else flat
    table = load(tmp_path / "a.csv", "table", mapping)
    assert table.steps["reward"].dropna().tolist() == [0.5]
    assert table.runs["tokens"].item() == 300 and table.runs["gpu_hours"].isna().item()
    assert table.evals[["step", "benchmark", "pass@1"]].iloc[0].tolist() == [2, "math", 0.25]
    assert any("4 columns" in s.reason for s in table.skipped)
    with pytest.raises(ScalingError, match="gpu_hours"):
        table.curves(metric="reward", axis="gpu_hours")
    assert table.curves(metric="reward", axis="tokens")


def test_tables_of_every_kind_give_the_same(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(
        {"step": [1, 2], "reward": [0.1, 0.2], "step_seconds": [5.0, 6.0], "run": ["a", "a"], "eval/math": [None, 0.5]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    tables = [load(tmp_path / f"t.{kind}", "table", gpus=2) for kind in ("csv", "parquet", "jsonl")]
    for table in tables:
        assert table.steps["gpu_seconds"].tolist() == [10.0, 12.0] and table.evals["pass@1"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"reward\n1\n", "step column"),
        ("a.csv", b"step,step\n1,2\n", "once"),
        ("a.csv", b"steps,reward\n1,2\n", "did you mean 'steps'"),
        ("a.csv", b"step,reward\n", "no"),
        ("a.csv", bytes(range(256)), "binary"),
        ("a.parquet", b"PAR1 and then nothing", "whole parquet"),
        ("a.jsonl", b"[1]\n3\n", "object"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ForeignLogError, match=match) as caught:
        load(tmp_path / name, "table")
    assert "\n" not in str(caught.value)


# -- mappings ------------------------------------------------------------------------------------------------------------


def test_every_shipped_mapping_loads_and_says_where_it_is_from():
    assert {"verl", "trl", "openrlhf", "prime-rl", "nemo-rl", "slime", "skyrl", "tinker-cookbook", "table"} <= set(
        shipped()
    )
    for name in shipped():
        assert load_mapping(name).evidence
    for name in ("prime-rl", "nemo-rl", "slime", "skyrl", "tinker-cookbook"):
        assert load_mapping(name).evidence == "from the documentation, not from a log"


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("metrics:\n  reward: a\n  reward: b\n", ConfigError, "given twice"),
        ("metrics: {reward: a, entropy: a}\n", ConfigError, "one meaning"),
        ("metrics: {reward: 3}\n", ConfigError, "must name a key"),
        ("quantities: {seconds: a}\n", UnknownName, "quantities"),
        ("phases: {rolling: a}\n", UnknownName, "phases"),
        ("semantics: {pass_at_k: maybe}\n", ConfigError, "pass_at_k"),
        ("derive: {a: \"__import__('os').system('x')\"}\n", ConfigError, "names and numbers"),
        ('derive: {a: "b ** 9"}\n', ConfigError, "names and numbers"),
        ("a: !!python/object/apply:os.system ['x']\n", ConfigError, "YAML"),
        ("- a\n", ConfigError, "mapping of names"),
        ("rewards: r\n", UnknownName, "names must be among"),
        ("evals: [{key: acc}]\n", ConfigError, "benchmark"),
    ],
)
def test_a_mapping_that_is_wrong_is_refused_in_one_line(tmp_path, text, error, match):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(error, match=match) as caught:
        load_mapping(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


def test_two_keys_mapped_to_one_name_are_refused():
    with pytest.raises(ConfigError, match="both mapped to reward"):
        load_mapping({"a": "reward", "b": "reward", "s": "step"})


def test_explain_lists_every_key_with_its_reason(tmp_path):
    from .verl_logs import three_decimals

    path = tmp_path / "x.log"
    path.write_text("\n".join(three_decimals(s, step_data(s, evaluated=True)) for s in (1, 2)) + "\n")
    explanation = read_runs(path, "verl")[0].explanation
    named = {key for _, key, _ in explanation.matched} | {key for key, _ in explanation.unmatched}
    assert named == set(step_data(1, evaluated=True)) - {"training/global_step"}
    reasons = dict(explanation.unmatched)
    assert reasons["critic/score/mean"] == "another key is preferred for reward"
    assert reasons["val-aux/openai/gsm8k/reward/mean@2"] == "another key is preferred for this score"
    assert "measured" in dict(explanation.derived)["gpu_seconds"]


# -- pooling -------------------------------------------------------------------------------------------------------------


def test_runs_measured_differently_are_not_pooled_unless_forced(tmp_path):
    rows = {}
    for name, low, k in (("a", 0.0, 2), ("b", -1.0, 2), ("c", 0.0, 4)):
        data = step_data(1, evaluated=True) | {"critic/rewards/min": low}
        data = {key.replace("@2", f"@{k}"): v for key, v in data.items()}
        rows[name] = tmp_path / f"{name}.jsonl"
        rows[name].write_text("".join(json.dumps({"step": s, "data": data}) + "\n" for s in (1, 2)))

    def pooled(names, **more):
        return load([rows[n] for n in names], "verl", model="m").curves(by="model", axis="tokens", **more)

    assert len(pooled("ac", metric="reward")["m"]) == 2
    with pytest.raises(ScalingError, match="reward range"):
        pooled("ab", metric="reward")
    assert len(pooled("ab")["m"]) == 2
    with pytest.raises(ScalingError, match="k, temperature, decoding"):
        pooled("ac")
    assert len(pooled("ac", force=True)["m"]) == 2
    assert CONFIG  # the configuration is not needed where the log has its throughput


def test_our_own_mirror_comes_back_with_its_ledger(tmp_path):
    lines = []
    for step in range(1, 5):
        row = {"train/global_step": step, "gpu_hours": step / 100, "train/reward": step / 10, "train/completion_length": 50.0,
               "compute/training_gpu_seconds": 20.0, "compute/generation_gpu_seconds": 16.0, "compute/training_flops": 3e12,
               "compute/rollouts": 8, "compute/completion_tokens": 400, "eval/chain/pass@1": 0.5, "eval/chain/pass@4": 0.75,
               "eval/chain/stderr": 0.1}  # fmt: skip
        lines.append(f"{step}," + ",".join(str(v) for v in row.values()))
    names = ",".join(f'"a run - {key}"' for key in row)
    (tmp_path / "export.csv").write_text(f'"Step",{names}\n' + "\n".join(lines))
    table = load(tmp_path, "wandb")
    assert table.runs[["trainer", "confidence", "rollouts", "tokens"]].iloc[0].tolist() == [
        "rl-scaling",
        "measured",
        32,
        1600,
    ]
    assert table.runs["gpu_hours"].item() == pytest.approx(4 * 36 / 3600)
    assert table.runs["total_flops"].item() == 1.2e13
    assert table.evals["pass@1"].tolist() == [0.5] * 4 and table.evals["pass@4"].tolist() == [0.75] * 4
