"""W&B: local logs against wandb's own reader, CSV exports, pulls from the loopback stand-in with wandb's real client."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from scaling.errors import ForeignLogError
from scaling.importers import load, read_runs, to_table
from scaling.importers.walog import read_log

from .verl_logs import CONFIG, step_data

wandb = pytest.importorskip("wandb")

SCRIPT = """
import json, math, os, sys
import wandb
folder, rows, config, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
run = wandb.init(project="p", dir=folder, config=config, settings=wandb.Settings(x_disable_stats=True), **options)
for step, row in rows:
    run.log(row, step=step) if step is not None else run.log(row)
run.log({"odd/nan": math.nan, "odd/inf": -math.inf, "odd/text": "a.b", "odd/none": None, "odd/list": [1, 2.5],
         "odd/nested": {"x": {"y": 2.5}}, "odd/big": 10**20, "odd/small": 1e-12, "odd/histogram": wandb.Histogram([1, 2, 3])})
run.finish()
wandb.teardown()
"""


def record(folder, rows, config=None, **options):
    """An offline run by the real library, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    arguments = [str(folder), json.dumps(rows), json.dumps(config or {}), json.dumps(options)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def fragments(tmp_path_factory):
    """A run of 6 steps, resumed from step 4 under the same id; the second fragment redoes steps 5 and 6."""
    folder = tmp_path_factory.mktemp("wandb")
    config = {**CONFIG, "algorithm": {"adv_estimator": "grpo"}, "openai_api_key": "sk-abcdefghijklmnopqrstuvwxyz0123"}
    first = [[s, step_data(s, evaluated=s == 4)] for s in range(1, 7)]
    again = [[s, step_data(s)] for s in range(5, 9)]
    record(folder, first, config, id="run1", name="a run", resume="allow")
    return record(folder, again, config, id="run1", name="a run", resume="allow")


def spelled(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def test_rows_equal_those_of_wandbs_own_reader(fragments):
    for log in fragments:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        theirs = [r["history"]["item"] for r in map(json.loads, lines) if r["type"] == "history"]
        ours = [{k: spelled(v) for k, v in row.items()} for row in read_log(log).rows]
        assert ours == theirs
        assert len(ours) >= 4 and any("odd/nested.x.y" in row for row in ours)


def test_fragments_of_a_resumed_run_are_one_run_in_order(fragments, tmp_path):
    table = load([fragments[1], fragments[0]], "wandb", cache=False)
    run = table.runs.iloc[0]
    assert (len(table.runs), run["name"], run["segments"], run["steps"]) == (1, "a run", 2, 8)
    assert table.steps["step"].unique().tolist() == list(range(1, 9))
    assert run["gpu_hours"] == pytest.approx(8 * 8 * 42 / 3600, rel=1e-6)
    assert run["redone_gpu_hours"] == pytest.approx(2 * 8 * 42 / 3600, rel=1e-6)
    assert table.evals["step"].tolist() == [4]
    assert run["devices"] == 8 and run["model"] == "Qwen/Qwen2.5-0.5B"
    # a copied fragment is not counted twice
    copy = tmp_path / "copy.wandb"
    copy.write_bytes(fragments[0].read_bytes())
    assert load([*fragments, copy], "wandb", cache=False).runs["gpu_hours_paid"].item() == run["gpu_hours_paid"]


def test_no_key_of_an_account_reaches_the_record(fragments, tmp_path):
    run = read_runs(fragments, "wandb", cache=tmp_path)[0]
    from scaling.importers import write

    out = write(run, tmp_path / "runs").path
    for file in [*out.iterdir(), *tmp_path.glob("*.parquet")]:
        assert b"sk-abcdefghij" not in file.read_bytes()
    assert run.record.config["openai_api_key"] == "(redacted)"


def test_the_cache_gives_the_same_and_is_renewed_when_the_log_grew(fragments, tmp_path):
    log = tmp_path / "run-run1.wandb"
    whole = fragments[0].read_bytes()
    log.write_bytes(whole[: len(whole) * 2 // 3])
    cold = load(log, "wandb", cache=tmp_path / "cache", gpus=8)
    warm = load(log, "wandb", cache=tmp_path / "cache", gpus=8)
    assert warm.steps.equals(cold.steps) and warm.skipped == cold.skipped
    log.write_bytes(whole)
    assert len(load(log, "wandb", cache=tmp_path / "cache").steps) == 6 > len(cold.steps)
    (next((tmp_path / "cache").iterdir())).write_bytes(b"PAR1 damaged")
    assert len(load(log, "wandb", cache=tmp_path / "cache").steps) == 6


def test_a_log_torn_anywhere_gives_its_whole_rows_and_says_so(fragments, tmp_path):
    whole = fragments[0].read_bytes()
    complete = read_log(fragments[0]).rows
    for cut in np.linspace(8, len(whole) - 1, 40).astype(int):
        path = tmp_path / "torn.wandb"
        path.write_bytes(whole[:cut])
        log = read_log(path)
        assert log.rows == complete[: len(log.rows)] or any(map(has_nan, complete))
        assert [spelled_row(r) for r in log.rows] == [spelled_row(r) for r in complete[: len(log.rows)]]
    assert any("torn" in s.reason for s in log.skipped)


def has_nan(row):
    return any(isinstance(v, float) and math.isnan(v) for v in row.values())


def spelled_row(row):
    return {k: spelled(v) for k, v in row.items()}


def test_a_damaged_record_is_left_out_and_counted(fragments, tmp_path):
    damaged = bytearray(fragments[0].read_bytes())
    place = damaged.find(b"critic/rewards/mean", len(damaged) // 2)
    damaged[place] ^= 0xFF
    path = tmp_path / "damaged.wandb"
    path.write_bytes(bytes(damaged))
    log = read_log(path)
    assert [s.reason for s in log.skipped] == ["record with a wrong checksum"]


@pytest.mark.parametrize(
    ("content", "match"), [(b"", "empty"), (b"not a log at all", ":W&B"), (b":W&B\xe1\xbe\x07rest", "version 7")]
)
def test_other_files_and_versions_are_refused_in_one_line(tmp_path, content, match):
    path = tmp_path / "x.wandb"
    path.write_bytes(content)
    with pytest.raises(ForeignLogError, match=match) as caught:
        load(path, "wandb", cache=False)
    assert "\n" not in str(caught.value)


def test_ui_exports_of_several_charts_are_put_together_by_run(tmp_path):
    for name, keys in {
        "reward": ("critic/rewards/mean",),
        "cost": ("perf/total_num_tokens", "perf/throughput", "perf/time_per_step"),
    }.items():
        columns = [
            f'"{run} - {key}{side}"'
            for run in ("seed - 1", "seed - 2")
            for key in keys
            for side in ("", "__MIN", "__MAX")
        ]
        lines = [",".join(['"Step"', *columns])]
        for step in range(1, 5):
            cells = [step_data(step)[key] for _ in range(2) for key in keys for _ in range(3)]
            lines.append(",".join(map(str, [step, *cells])))
        lines.append(f"5,{'NaN,' * (len(columns) - 1)}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    table = load(tmp_path, "wandb")
    assert sorted(table.runs["name"]) == ["seed - 1", "seed - 2"]
    assert table.runs["gpu_hours"].tolist() == pytest.approx([4 * 8 * 42 / 3600] * 2, rel=1e-6)
    (tmp_path / "time.csv").write_text('"Relative Time (Wall)","a - loss"\n1,2\n')
    with pytest.raises(ForeignLogError, match="x axis"):
        load(tmp_path / "time.csv", "wandb")
    (tmp_path / "other.csv").write_text("step,reward\n1,2\n")
    with pytest.raises(ForeignLogError, match="source 'table'"):
        load(tmp_path / "other.csv", "wandb")


# -- online --------------------------------------------------------------------------------------------------------------

ONLINE = """
import json, os, sys, pathlib
sys.path[:0] = [{tests!r}, {root!r}]
from wandb_server import API_KEY, Fault, WandbServer
from importers.verl_logs import CONFIG, step_data
folder = pathlib.Path({folder!r})
config = CONFIG | {{"algorithm": {{"adv_estimator": "grpo"}}}}
out = {{}}
with WandbServer() as server:
    os.environ.update(server.environment(folder), WANDB_SILENT="true")
    for i in range(3):
        server.add_run("proj", f"run{{i}}", [{{**step_data(s), "_step": s}} for s in range(1, 1201)], config=config)
    server.export("proj", "run0")
    server.export("proj", "run1", parts=2)
    server.append_rows("proj", "run1", [])
    from scaling.importers import load
    from scaling.errors import ForeignLogError
    def look(table):
        return {{"steps": table.steps.groupby("run_id", sort=False).size().tolist(), "hours": table.runs["gpu_hours"].tolist(),
                "segments": table.runs["segments"].tolist()}}
    def ask():
        server.calls.clear()
        got = look(load("team/proj", "wandb", cache=folder / "pulls"))
        return got | {{"calls": dict(server.calls)}}
    out["cold"] = ask()
    out["warm"] = ask()
    run = server.runs["proj", "run1"]
    run.history.update({{1200 + i: json.dumps({{**step_data(1201 + i), "_step": 1201 + i}}) for i in range(30)}})
    out["grown"] = ask()
    server.fault = Fault(status=429, times=4, only="graphql")
    out["limited"] = look(load("team/proj", "wandb", cache=False, patience=60))
    server.fault = None
    for path in ("team/nothing", "team/proj/absent"):
        try:
            load(path, "wandb", cache=False, patience=3)
        except ForeignLogError as error:
            out[path] = str(error)
    out["one"] = look(load("team/proj/run2", "wandb", cache=False))
    server.fault = Fault(status=403, only="graphql")
    try:
        load("team/proj", "wandb", cache=False, patience=2)
    except ForeignLogError as error:
        out["refused"] = str(error)
    out["key"] = API_KEY
    out["cache"] = any(API_KEY.encode() in f.read_bytes() for f in (folder / "pulls").iterdir())
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = textwrap.dedent(ONLINE).format(
        tests=here, root=os.path.dirname(here), folder=str(tmp_path_factory.mktemp("online"))
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert "RESULT" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.split("RESULT")[1])


def test_a_pull_is_complete_never_sampled(pulled):
    assert pulled["cold"]["steps"] == [1200] * 3
    assert pulled["cold"]["hours"] == pytest.approx([1200 * 8 * 42 / 3600] * 3, rel=1e-6)
    assert pulled["cold"]["segments"] == [1] * 3
    assert pulled["one"]["steps"] == [1200]
    assert not any("Sampled" in call for call in pulled["cold"]["calls"])


def test_only_what_grew_is_asked_for_again(pulled):
    assert pulled["warm"]["steps"] == [1200] * 3
    assert not any("History" in call or call == "parquet" for call in pulled["warm"]["calls"])
    assert pulled["grown"]["steps"] == [1200, 1230, 1200]
    assert pulled["grown"]["calls"]["RunParquetHistory"] <= 2


def test_a_rate_limit_is_waited_out(pulled):
    assert pulled["limited"]["steps"] == [1200, 1230, 1200]


def test_failures_are_one_line_without_the_key(pulled):
    for name in ("team/nothing", "team/proj/absent", "refused"):
        assert pulled[name] and "\n" not in pulled[name] and pulled["key"] not in pulled[name]
    assert "absent" in pulled["team/proj/absent"]
    assert not pulled["cache"]


def test_a_path_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(ForeignLogError, match="must exist"):
        load(tmp_path / "nowhere" / "run.wandb", "wandb")
    with pytest.raises(ForeignLogError, match="neither"):
        load(tmp_path, "wandb")
    assert to_table  # the same door as all others


def test_trl_rows_of_wandb_are_placed_by_the_trainers_own_step():
    from scaling.importers.convert import convert
    from scaling.importers.series import History
    from scaling.importers.wandb_offline import to_raw

    rows, step = [], 0
    for trained in range(1, 5):
        rows += [{"_step": (step := step + 1), "profiling/Time taken: GRPOTrainer.vllm": 0.5} for _ in range(3)]
        rows.append({"_step": (step := step + 1), "train/global_step": trained, "train/reward": trained / 10, "train/step_time": 4.0,
                     "train/num_tokens": 100.0 * trained, "train/completions/mean_length": 20.0, "_runtime": 9.0 * trained})  # fmt: skip
        if trained == 4:
            rows.append({"_step": (step := step + 1), "train/global_step": 4, "eval/reward": 0.5, "eval/runtime": 6.0})
    config = {"num_generations": 8, "beta": 0.0, "model_name_or_path": "org/model", "learning_rate": 1e-6}
    raw = to_raw(
        [History.from_rows(rows)],
        name="r",
        source="W&B",
        files=[],
        config=config,
        gpus=2,
        gpu_type="H100",
        mapping=None,
    )
    table = to_table([convert(raw)])
    assert table.runs[["trainer", "model", "devices", "confidence"]].iloc[0].tolist() == [
        "trl",
        "org/model",
        2,
        "derived",
    ]
    assert table.steps["step"].tolist() == [1, 2, 3, 4] and table.steps["gpu_seconds"].tolist() == [8.0] * 4
    assert table.runs["tokens"].item() == 400
    assert table.evals[["step", "benchmark", "pass@1"]].iloc[0].tolist() == [4, "eval", 0.5]
    assert table.steps["evaluation_gpu_seconds"].tolist() == [0, 0, 0, 12.0]
