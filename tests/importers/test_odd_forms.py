"""Forms of logs that other versions, terminals and tools make: read, or counted, never lost in silence."""

from __future__ import annotations

import pytest

from scaling.importers import load, read_runs

from .verl_logs import reprs, step_data, three_decimals


def put(tmp_path, text, name):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_steps_that_a_terminal_printed_over_one_line(tmp_path):
    text = "\r".join(three_decimals(s, step_data(s)) for s in range(1, 6)) + "\n"
    table = load(put(tmp_path, text, "a.log"), "verl")
    assert table.steps["step"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("keys", "benchmark", "score"),
    [
        ({"val/test_score/openai/gsm8k": 0.5}, "openai/gsm8k", 0.5),
        ({"val/test_score/openai/gsm8k": 0.5, "val-core/openai/gsm8k/acc/mean@1": 0.6}, "openai/gsm8k", 0.6),
        ({"val-core/data[0]/{x: 1}/acc/mean@1": 0.25}, "data[0]/{x: 1}", 0.25),
        ({"val-core/(x) - y/acc/mean@1": 0.25}, "(x) - y", 0.25),
        ({"val-core/m/reward/mean@8": 0.2, "val-aux/m/reward/std@8": 0.4, "val-aux/m/reward/mean@8": 0.3}, "m", 0.2),
        ({"val-core/\x1b]0;x\x07/acc/mean@1": 0.25}, "\ufffd]0;x\ufffd", 0.25),
    ],
)
def test_evaluation_keys_of_all_versions(tmp_path, keys, benchmark, score):
    lines = [three_decimals(s, step_data(s) | keys) for s in range(1, 4)]
    table = load(put(tmp_path, "\n".join(lines) + "\n", "a.log"), "verl")
    assert table.evals["benchmark"].tolist() == [benchmark] * 3 and table.evals["pass@1"].tolist() == [score] * 3


def test_what_a_terminal_obeys_is_not_printed(tmp_path):
    lines = [reprs(s, step_data(s) | {"x/\x1b[2J": 1.0, "val-core/\x1b[2Jb/acc/mean@1": float("nan")}) for s in (1, 2)]
    run = read_runs(put(tmp_path, "\n".join(lines) + "\n", "a.log"), "verl")[0]
    assert "\x1b" not in str(run.explanation) and "\x1b" not in "".join(s.reason for s in run.skipped)


def test_lines_of_forty_thousand_keys(tmp_path):
    more = {f"extra/{i}/long_key_of_a_metric": 1.0 for i in range(40_000)}
    lines = [three_decimals(s, step_data(s) | more) for s in range(1, 4)]
    assert load(put(tmp_path, "\n".join(lines) + "\n", "a.log"), "verl").steps["step"].tolist() == [1, 2, 3]


def test_negative_times_are_named(tmp_path):
    wrong = {"timing_s/step": -5.0, "perf/time_per_step": -5.0}
    lines = [reprs(s, step_data(s) | (wrong if s == 2 else {})) for s in range(1, 6)]
    run = read_runs(put(tmp_path, "\n".join(lines) + "\n", "a.log"), "verl", gpus=8)[0]
    assert "1 row with negative step_seconds: counted as 0" in run.record.provenance["notes"]


def global_step(step, **more):
    return f"Global step {step}: " + str(
        {"reward": 0.25 * step, "policy_loss": 0.1, "timing/step_total": 2.0}
        | {k.replace("__", "/"): v for k, v in more.items()}
    )


def test_openrlhf_tensors_two_steps_in_a_line_and_values_that_are_none(tmp_path):
    first = global_step(1).replace("0.25", "tensor(0.2500, device='cuda:0')")
    text = "\n".join([first + "(PPO pid=3) " + global_step(2), global_step(3).replace("0.75", "None"), global_step(4)])
    table = load(put(tmp_path, text + "\n", "a.log"), "openrlhf", gpus=1)
    assert table.steps["step"].tolist() == [1, 2, 3, 4]
    assert table.steps["reward"].fillna(-1).tolist() == [0.25, 0.5, -1, 1.0]
    assert [s.reason for s in table.skipped] == ["1 value(s) of reward that are no number"]


def test_cells_of_a_wandb_export_that_are_odd_are_counted(tmp_path):
    text = '"Step","a - critic/rewards/mean"\n1,0.5\n2,abc\n3,NaN\n4,0.6\n4,0.7\n5,0.7\n5,0.7\n'
    table = load(put(tmp_path, text, "a.csv"), "wandb", gpus=1)
    assert table.steps.set_index("step")["reward"].dropna().to_dict() == {1: 0.5, 4: 0.7, 5: 0.7}
    assert sorted(s.reason for s in table.skipped) == [
        "1 value(s) of a step that had another one before: the last is kept",
        "1 value(s) of critic/rewards/mean that are not finite",
        "1 value(s) that are no number",
    ]
