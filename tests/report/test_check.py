"""The published schema, its validator, the readers' own checks and the command agree."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaling import records
from scaling.cli import cli
from scaling.cost import COST_FIELDS
from scaling.schema import EVAL_SCHEMA, RUN_SCHEMA, SCHEMAS, STEP_SCHEMA, violation, write_schemas

ROOT = Path(__file__).resolve().parents[2]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.floats(-2, 5), st.sampled_from(["", "a", "sampled", "1"])
)
anything = st.one_of(
    scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from(["a", "b"]), scalars, max_size=2)
)
costs = st.one_of(st.dictionaries(st.sampled_from([*COST_FIELDS[:4], "unknown_flops"]), scalars, max_size=3), scalars)


def rows(**parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=parts)


step_rows = rows(step=scalars, segment=scalars, cost=costs, metrics=anything, extra=anything)
eval_rows = rows(
    step=st.integers(-1, 3),
    segment=st.integers(0, 2),
    cost=costs,
    benchmark=scalars,
    score=scalars,
    k=st.one_of(st.integers(0, 3), scalars),
    successes=st.one_of(st.none(), st.lists(st.integers(0, 3), max_size=4), st.lists(scalars, max_size=2)),
    sampling=st.one_of(anything, rows(decoding=scalars, temperature=scalars)),
    metrics=anything,
    extra=anything,
)
run_rows = rows(
    run_id=scalars,
    schema_version=st.sampled_from([1, 1, 1, 2, "1", True]),
    devices=scalars,
    shared=st.one_of(st.booleans(), scalars),
    stages=st.one_of(
        scalars, st.lists(rows(stage=st.sampled_from(["rl", "pretrain", "x"]), flops=scalars), max_size=2)
    ),
    confidence=st.sampled_from(["measured", "guessed", 1]),
    model=rows(name=scalars, params=scalars),
)


@given(step_rows)
@settings(max_examples=500, deadline=None)
def test_step_lines_agree(row):
    ours = violation(row, STEP_SCHEMA) is None
    assert ours == jsonschema.Draft202012Validator(STEP_SCHEMA).is_valid(row)
    assert ours == (records.check_step(row) is None) or _integer_float(row)


@given(eval_rows)
@example({"step": 0, "benchmark": "a", "score": 0, "successes": None, "k": ""})
@example({"step": 0, "benchmark": "a", "score": 0, "sampling": {"decoding": 1}})
@example({"step": 0, "benchmark": "a", "score": 0, "metrics": ""})
@settings(max_examples=800, deadline=None)
def test_eval_lines_agree(row):
    ours = violation(row, EVAL_SCHEMA) is None
    assert ours == jsonschema.Draft202012Validator(EVAL_SCHEMA).is_valid(row)
    within = (
        not isinstance(row.get("successes"), list) or all(c <= row["k"] for c in row["successes"]) if ours else True
    )
    assert (ours and within) == (records.check_eval(row) is None) or _integer_float(row)


@given(run_rows)
@settings(max_examples=500, deadline=None)
def test_run_files_agree(row):
    assert (violation(row, RUN_SCHEMA) is None) == jsonschema.Draft202012Validator(RUN_SCHEMA).is_valid(row)


def _integer_float(row: dict) -> bool:
    """1.0 is an integer in JSON Schema and not for the readers, true a number for the readers and not in JSON Schema.

    No writer makes such a line.
    """
    counts = row.get("successes") if isinstance(row.get("successes"), list) else []
    floats = any(isinstance(row.get(key), float) for key in ("step", "segment", "k"))
    sampling = row.get("sampling") if isinstance(row.get("sampling"), dict) else {}
    numbers = (row.get("segment"), row.get("k"), row.get("score"), sampling.get("temperature"), *counts)
    return floats or any(isinstance(v, bool) for v in numbers)


def test_published_files_are_those_of_the_code(tmp_path):
    for path in write_schemas(tmp_path):
        published = ROOT / "docs" / "schema" / path.name
        assert published.read_text() == path.read_text(), "run: python -m scaling.schema docs/schema"
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
    assert set(SCHEMAS) == {p.name for p in (ROOT / "docs" / "schema").glob("*.json")}


def test_synthetic_runs_are_valid_and_their_cost_is_summed(study):
    result = CliRunner().invoke(cli, ["check", str(study)])
    assert result.exit_code == 0, result.output
    assert "6 runs, 1200 steps" in result.output and "0 errors" in result.output
    assert f"{2 * 200 * 2e5 * (1e5 + 3e5 + 1e6):.4g} RL model FLOPs" in result.output


def test_bad_lines_are_listed_with_number_and_reason(make_runs, tmp_path):
    run = make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", steps=20)
    steps = run / records.STEPS
    lines = steps.read_text().splitlines()
    lines[3] = '{"step": 4, "cost": {"flops": 1}}'
    lines[5] = "not json"
    steps.write_text("\n".join(lines) + '\n{"step": 21, "co')
    result = CliRunner().invoke(cli, ["check", str(run)])
    assert result.exit_code == 1
    assert "steps.jsonl:4: cost field 'flops' is not known" in result.output
    assert "steps.jsonl:6: not JSON" in result.output
    assert "torn   steps.jsonl:21" in result.output
    assert "2 errors" in result.output and "18 steps" in result.output


def test_a_torn_last_line_alone_is_no_error(make_runs, tmp_path):
    run = make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", steps=20)
    with (run / records.EVALS).open("a") as out:
        out.write('{"step": 2')
    assert CliRunner().invoke(cli, ["check", str(run)]).exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": "two"}, "devices: must be integer"),
        ({"confidence": "sure"}, "confidence: must be one of measured, derived, assumed"),
        ({"stages": [{"stage": "pretrain", "flops": -1}]}, "stages[0].flops: must be >= 0"),
        ({"schema_version": 9}, "schema_version: must be 1"),
    ],
)
def test_run_json_is_checked(make_runs, tmp_path, change, message):
    run = make_runs.write_run_dir(tmp_path / "r", make_runs.SIZES[0], run_id="r", steps=5)
    body = json.loads((run / records.RUN).read_text()) | change
    (run / records.RUN).write_text(json.dumps(body))
    result = CliRunner().invoke(cli, ["check", str(run)])
    assert result.exit_code == 1
    assert message in result.output


def test_flops_that_nobody_counted_are_unknown_not_zero(tmp_path):
    from scaling import Recorder

    recorder = Recorder(tmp_path / "a", gpus=8, accelerator="H100-SXM")
    recorder.step(seconds=30.0, prompt_tokens=5, completion_tokens=9)
    recorder.close()
    out = CliRunner().invoke(cli, ["check", str(tmp_path)]).output
    assert "1 run, 1 step, 0 evaluations" in out and "unknown RL model FLOPs: 0 errors" in out
    assert "0 RL model" not in out and "--model-config" in out
    counted = Recorder(tmp_path / "b", gpus=8, accelerator="H100-SXM")
    counted.step(seconds=30.0, prompt_tokens=5, completion_tokens=9, flops=1e12)
    counted.close()
    out = CliRunner().invoke(cli, ["check", str(tmp_path)]).output
    assert "2 runs, 2 steps" in out and "at least 1e+12 RL model FLOPs" in out and "RL model FLOPs of 1 run: " in out
