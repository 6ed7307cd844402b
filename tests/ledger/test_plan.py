"""Plans: costs of a grid, rates measured and stated, the next run, stop or continue, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import scaling
from scaling.cli import cli
from scaling.curve import Curve
from scaling.errors import ScalingError, UnknownName
from scaling.flops import generation_flops, scoring_flops, training_flops
from scaling.hardware import peak_flops
from scaling.plan import buys, next_run, next_size, plan_grid, stop_or_continue
from scaling.pretraining import fit_joint
from scaling.reference import pretrained_model, public_shape, rl_run
from scaling.throughput import check_hours, measured_throughput, stated_throughput
from scaling.workload import Workload

STEP = Workload(prompts_per_step=32, group_size=16, prompt_length=200, completion_length=1000)
SHAPES = {name: public_shape(name) for name in ("Qwen2.5-0.5B", "Qwen2.5-7B")}


def test_a_step_costs_its_phases():
    shape = SHAPES["Qwen2.5-0.5B"]
    full = Workload(
        prompts_per_step=4, group_size=2, prompt_length=10, completion_length=20, updates_per_rollout=2,
        reference_model=True, old_log_probabilities=True,
    )  # fmt: skip
    cost = full.step_cost(shape)
    assert cost.generation_flops == 8 * generation_flops(shape, 10, 20)
    assert cost.scoring_flops == 16 * scoring_flops(shape, 10, 20)
    assert cost.training_flops == 16 * training_flops(shape, 10, 20)
    assert (cost.prompt_tokens, cost.completion_tokens, cost.rollouts) == (80, 160, 8)
    for bad in ({"group_size": 0}, {"completion_length": float("nan")}, {"prompts_per_step": True}):
        with pytest.raises(ScalingError, match=next(iter(bad))):
            Workload(**{**vars(STEP), **bad})


def test_grid_of_sizes_and_budgets():
    rates = stated_throughput("H100")
    pretraining = {"Qwen2.5-7B": pretrained_model("Qwen2.5-7B").flops}
    grid = plan_grid(
        SHAPES,
        STEP,
        rates,
        gpu_hours=[100, 500],
        flops=[1e20],
        steps=[7],
        usd_per_hour=2,
        pretraining_flops=pretraining,
    )
    assert len(grid) == 8
    for run in grid:
        low, central, high = run.gpu_hours
        assert low < central < high and run.usd == (2 * low, 2 * central, 2 * high)
        assert run.cost.rollouts == run.steps * 512
        assert run.score is None
    by = {(run.model, i % 4): run for i, run in enumerate(grid)}
    small, large = by["Qwen2.5-0.5B", 1], by["Qwen2.5-7B", 1]
    assert small.steps > 8 * large.steps
    for run in (small, large):  # a budget in GPU-hours is kept, to within one step
        step = rates.gpu_hours(STEP.step_cost(SHAPES[run.model]), run.params)[1]
        assert 500 - step < run.gpu_hours[1] <= 500
    assert by["Qwen2.5-7B", 2].cost.total_flops <= 1e20 < by["Qwen2.5-7B", 2].cost.total_flops * 1.01
    assert by["Qwen2.5-7B", 3].steps == 7
    share = by["Qwen2.5-7B", 2].cost.total_flops / pretraining["Qwen2.5-7B"]
    assert by["Qwen2.5-7B", 2].pretraining_flops_ratio == pytest.approx(share)
    assert by["Qwen2.5-0.5B", 2].pretraining_flops_ratio is None
    assert buys(500, SHAPES, STEP, rates)["Qwen2.5-7B"].steps == large.steps


@pytest.mark.parametrize(
    ("run", "model", "prompt", "reference_model"),
    [
        ("DeepSeek-R1-Zero", "DeepSeek-V3-Base", 150, True),
        ("JustRL-DeepSeek-1.5B", "Qwen2.5-1.5B", 250, False),
    ],
)
def test_stated_rates_bracket_published_hours(run, model, prompt, reference_model):
    """Hours that were published, from tokens that were published: within the stated range, and the centre within 2.5 times."""
    row = rl_run(run)
    rollouts = {"DeepSeek-R1-Zero": 10_400 * 512, "JustRL-DeepSeek-1.5B": 4_380 * 2_048}[run]
    step = Workload(
        prompts_per_step=1,
        group_size=1,
        prompt_length=prompt,
        completion_length=row.tokens / rollouts - prompt,
        reference_model=reference_model,
    )
    shape = public_shape(model)
    one = stated_throughput(row.chip).gpu_hours(step.step_cost(shape), shape.params)
    low, central, high = (hours * rollouts for hours in one)
    assert low < row.gpu_hours < high
    assert 1 / 2.5 < central / row.gpu_hours < 2.5


def test_grid_refuses_what_it_cannot_plan():
    rates = stated_throughput("H100")
    for kind in (
        {},
        {"gpu_hours": [0]},
        {"flops": [float("nan")]},
        {"steps": [-3]},
        {"steps": [1], "usd_per_hour": -1},
    ):
        with pytest.raises(ScalingError):
            plan_grid(SHAPES, STEP, rates, **kind)
    with pytest.raises(ScalingError, match="at least one size"):
        plan_grid({}, STEP, rates, steps=[1])
    with pytest.raises(UnknownName):
        stated_throughput("H1000")


def write_runs(folder, *, rates=(1e12, 4e12), sizes=(1e6, 4e6, 1.6e7), noise=0.0, shared=False, seeds=1, scores=True):
    """Run directories whose phases ran at known rates (which grow as the square root of the size)."""
    rng = np.random.default_rng(0)
    for size in sizes:
        for seed in range(seeds):
            path = folder / f"r{size:g}-{seed}"
            path.mkdir(parents=True)
            shape = {
                "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": int(size / 1e4),
                "vocab_size": 100, "tied": True, "windows": [],
            }  # fmt: skip
            record = {
                "run_id": path.name, "schema_version": 1, "name": path.name, "accelerator": "H100", "devices": 1,
                "shared": shared, "model": {"name": f"m{size:g}", "params": size, "shape": shape},
                "stages": [{"stage": "pretrain", "flops": 1e17, "gpu_hours": 10.0}],
            }  # fmt: skip
            (path / "run.json").write_text(json.dumps(record))
            factor = np.sqrt(size / 4e6)
            lines, evals, done = [], [], 0.0
            for step in range(1, 41):
                cost = {"generation_flops": 2e6 * size, "training_flops": 6e6 * size, "rollouts": 64}
                cost |= {"prompt_tokens": 64 * 20, "completion_tokens": 64 * 30, "idle_gpu_seconds": 0.0}
                for phase, rate in zip(("generation", "training"), rates, strict=True):
                    wobble = np.exp(noise * rng.normal())
                    cost[f"{phase}_gpu_seconds"] = cost[f"{phase}_flops"] / (rate * factor) * wobble
                cost["idle_gpu_seconds"] = 0.25 * (cost["generation_gpu_seconds"] + cost["training_gpu_seconds"])
                done += cost["generation_flops"] + cost["training_flops"]
                lines.append({"segment": 0, "step": step, "cost": cost, "metrics": {"reward": 0.1}})
                if scores and step in (1, 2, 3, 5, 8, 12, 17, 23, 30, 40):
                    loss = 0.9 * (size / 1e6) ** -0.1 * (done / 8e12) ** (-0.3 / (1 + 5e6 / size))
                    good = int(round(1000 * (1 - loss) + 3 * rng.normal()))
                    evals.append(
                        {
                            "segment": 0, "step": step, "benchmark": "held-out", "k": 1,
                            "successes": [1] * good + [0] * (1000 - good), "cost": {"training_flops": done},
                            "sampling": {"decoding": "sampled", "temperature": 1.0},
                        }
                    )  # fmt: skip
            (path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evals))
    return folder


def test_measured_rates_and_their_check(tmp_path):
    table = scaling.load_runs(write_runs(tmp_path / "a", noise=0.05, seeds=2))
    rates = measured_throughput(table)
    assert rates.measured and rates.accelerator == "H100"
    assert rates.rates["generation"][1] == pytest.approx(1e12, rel=0.1)
    assert rates.rates["training"][1] == pytest.approx(4e12, rel=0.1)
    assert rates.exponent == pytest.approx(0.5, abs=0.05) and rates.idle == pytest.approx(0.2, abs=0.01)
    check = check_hours(table)
    assert len(check.errors) == 6 and check.median_error < 0.1
    assert "median error" in str(check)
    with pytest.raises(ScalingError, match="no rate is known for scoring"):
        cost = Workload(**{**vars(STEP), "reference_model": True}).step_cost(SHAPES["Qwen2.5-0.5B"])
        rates.gpu_hours(cost, 1e6)


def test_hours_of_shared_devices_are_no_measurement(tmp_path):
    table = scaling.load_runs(write_runs(tmp_path / "b", shared=True))
    with pytest.raises(ScalingError, match="its device was shared"):
        measured_throughput(table)
    check = check_hours(table)
    assert not check.errors and check.skipped == {"its device was shared with other runs": 3}
    assert "could not be checked" in str(check)


def curve(rng, *, reach, evals=30, noise=0.008):
    law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.3, c_mid=100.0, r_0=0.2)
    compute = np.geomspace(5, reach, evals)
    score = law(compute) + noise * rng.normal(size=evals)
    return Curve(compute=compute, performance=score, axis="gpu_hours")


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    return {name: scaling.fit([curve(rng, reach=reach)], draws=400) for name, reach in (("young", 200), ("old", 3000))}


def test_the_next_run_is_the_one_that_narrows_most(fits):
    ranked = next_run(fits)
    assert ranked[0].name == "young"
    young = {c.until: c for c in ranked if c.name == "young"}
    widths = [young[until].width_after for until in sorted(young)]
    assert widths == sorted(widths, reverse=True)  # going further narrows more, and costs more
    assert all(c.width_after < c.width_now for c in young.values())
    refit = scaling.fit([curve(np.random.default_rng(8), reach=600, evals=38)], draws=400).interval("asymptote")
    expected = young[600.0].width_after
    assert 0.2 < (refit[1] - refit[0]) / expected < 5
    at = next_run(fits, target=1000.0)
    assert at[0].name == "young" and at[0].width_after < at[0].width_now
    with pytest.raises(ScalingError, match="no fit has draws"):
        next_run({})
    with pytest.raises(ScalingError, match="factors must be > 1"):
        next_run(fits, factors=(0.5,))
    with pytest.raises(ScalingError, match="factors must be > 1"):
        next_run(fits, factors=(float("nan"),))
    for target in ("plateau", -1.0, float("nan")):
        with pytest.raises(ScalingError, match="target must be"):
            next_run(fits, target=target)


def test_stop_or_continue(fits):
    assert stop_or_continue(fits["young"], by=400).decision == "continue"
    assert stop_or_continue(fits["old"], by=6000).decision == "stop"
    assert "probability" in stop_or_continue(fits["old"], by=6000).reason
    with pytest.raises(ScalingError, match="beyond the run's compute"):
        stop_or_continue(fits["old"], by=10)
    with pytest.raises(ScalingError, match="more_than"):
        stop_or_continue(fits["old"], by=6000, more_than=float("nan"))


def test_the_next_size_is_informative_about_the_target():
    rng, curves = np.random.default_rng(0), {}
    for params in np.geomspace(5e8, 1e10, 5):
        compute = np.geomspace(1e17, 1e19, 30)
        loss = 0.95 * (params / 5e8) ** -0.1 * (compute / 1e17) ** -(0.15 / (1 + 15e9 / params))
        curves[float(params)] = [
            Curve(compute=compute, performance=1 - loss + 0.01 * rng.normal(size=30), axis="total_flops")
        ]
    study = fit_joint(curves, draws=200, held_out=False)
    ranked = next_size(study, target=(7e10, 1e20), sizes=(5e8, 2e10), budgets=(1e19, 1e20))
    assert len(ranked) == 4 and all(c.width_after <= c.width_now for c in ranked)
    best = {c.name: c.width_after for c in ranked if c.until == 1e20}
    assert best["2e+10 parameters"] < best["5e+08 parameters"]
    grid = plan_grid({"x": SHAPES["Qwen2.5-7B"]}, STEP, stated_throughput("H100"), flops=[1e20], study=study)
    assert grid[0].score is not None and grid[0].score[1] < grid[0].score[0] < grid[0].score[2]


def run_cli(*args):
    return CliRunner().invoke(cli, ["plan", *args])


def test_plan_command():
    result = run_cli("--model", "Qwen2.5-7B", "--accelerator", "H100", "--gpu-hours", "500")
    assert result.exit_code == 0, result.output
    for text in ("500 (", "2 USD a GPU-hour", "stated utilisation", "not predicted without measured runs", "% "):
        assert text in result.output
    rows = json.loads(
        run_cli("--model", "Qwen2.5-7B", "--steps", "10", "--completion-length", "100", "--format", "json").output
    )
    assert rows[0]["steps"] == 10 and rows[0]["gpu_hours"] is None  # no device was named


def test_plan_command_from_measured_runs(tmp_path):
    folder = str(write_runs(tmp_path / "c", noise=0.05, sizes=(1e6, 2e6, 4e6, 8e6, 1.6e7)))
    result = run_cli("--runs", folder, "--gpu-hours", "0.5", "--next", "asymptote")
    assert result.exit_code == 0, result.output
    for text in (
        "measured on 5 runs on H100", "means of the runs", "joint fit of 5 sizes", "GPU-hours against 5 measured runs",
        "leaving one size out", "next run", "stop or continue",
    ):  # fmt: skip
        assert text in result.output, text
    rows = json.loads(run_cli("--runs", folder, "--flops", "1e15", "--format", "json").output)
    assert len(rows) == 5 and all(row["score_low"] < row["score"] < row["score_high"] for row in rows)
    own = tmp_path / "mine" / "config.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
                               "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 30}))  # fmt: skip
    assert json.loads(run_cli("--config", str(own), "--steps", "3", "--format", "json").output)[0]["model"] == "mine"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "a plan needs sizes"),
        (["--model", "Qwen2.5-7B"], "a plan needs a budget"),
        (["--model", "Qwen9-7B", "--steps", "1"], "must be a name of the ledger"),
        (["--model", "Qwen2.5-7B", "--gpu-hours", "5"], "name an --accelerator"),
        (["--model", "Qwen2.5-7B", "--gpu-hours", "5", "--accelerator", "V100"], "accelerator must be one of"),
        (["--model", "Qwen2.5-7B", "--steps", "0"], "must be finite and > 0, got 0"),
        (["--config", "no/config.json", "--steps", "1"], "cannot be read"),
        (["--config", "bytes.json", "--steps", "1"], "must be a config.json"),
        (["--model", "Qwen2.5-7B", "--steps", "1", "--next", "asymptote"], "--next needs measured runs"),
        (["--model", "Qwen2.5-7B", "--steps", "1", "--group-size", "0"], "group_size must be a number >= 1"),
    ],
)
def test_plan_command_says_what_is_missing(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bytes.json").write_bytes(b"\xff\xfe")
    result = run_cli(*args)
    assert result.exit_code == 1 and says in result.output
    assert result.output.count("\n") == 1


def test_utilisation_of_the_stated_rates_is_what_published_runs_reach():
    """End to end between 3 and 10 % of the peak, as the source says."""
    rates = stated_throughput("H100")
    cost = STEP.step_cost(SHAPES["Qwen2.5-7B"])
    low, central, high = rates.gpu_hours(cost, SHAPES["Qwen2.5-7B"].params)
    for hours in (low, central, high):
        utilisation = cost.total_flops / (hours * 3600 * peak_flops("H100"))
        assert 0.025 < utilisation < 0.15
    assert 0.03 < cost.total_flops / (central * 3600 * peak_flops("H100")) < 0.1


def test_plan_command_splits_a_budget(tmp_path):
    """From run directories of bases of several sizes and budgets: headline, surface, both splits, worth."""
    rng = np.random.default_rng(0)
    for size in (1e6, 3e6, 1e7, 3e7, 1e8):
        for tokens in (size * 10, size * 40):
            path = tmp_path / f"{size:g}-{tokens:g}"
            path.mkdir()
            loss = 0.4 + 30 * size**-0.4 + 900 * tokens**-0.45
            pretraining = 6 * size * tokens
            record = {
                "run_id": path.name, "schema_version": 1, "name": path.name, "accelerator": "H100", "base_hash": path.name,
                "model": {"name": f"m{size:g}", "params": size},
                "config": {"model": {"hyperparameters": {"tuned": False}}},
                "stages": [
                    {"stage": "pretrain", "flops": pretraining, "tokens": tokens, "validation_loss": loss, "comparable": True}
                ],
            }  # fmt: skip
            (path / "run.json").write_text(json.dumps(record))
            level = 0.03 + 20 * np.exp(-8 * loss)
            steps, evals = [], []
            for step, compute in enumerate(pretraining * np.geomspace(0.01, 0.5, 10), start=1):
                cost = {"training_flops": compute - sum(s["cost"]["training_flops"] for s in steps), "rollouts": 8}
                steps.append({"segment": 0, "step": step, "cost": cost, "metrics": {"reward": 0.1}})
                score = level + 0.04 * np.log10(compute / 1e13) + 0.005 * rng.normal()
                good = int(np.clip(round(2000 * score), 0, 2000))
                evals.append((step, "sampled", good, compute))
            evals += [(0, "sampled", int(2000 * 0.4 * level), 0), (0, "greedy", int(2000 * 0.7 * level), 0)]
            lines = [
                {
                    "segment": 0, "step": step, "benchmark": "held-out", "k": 1, "cost": {"training_flops": compute},
                    "successes": [1] * good + [0] * (2000 - good), "sampling": {"decoding": decoding, "temperature": 1.0},
                }
                for step, decoding, good, compute in evals
            ]  # fmt: skip
            (path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
            (path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run_cli("--runs", str(tmp_path), "--split", "1e15")
    assert result.exit_code == 0, result.output
    for text in (
        "exchange rate", "leaving one base out", "the base paid by this run", "the base shared by 10 runs", "FLOPs of RL: ",
        "hyperparameters were not tuned",
    ):  # fmt: skip
        assert text in result.output, text
    assert "--split needs measured runs" in run_cli("--split", "1e15").output
