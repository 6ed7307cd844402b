"""Peaks, the reference ledger's published numbers, and the two ratio types that never mix."""

import json

import pytest
from click.testing import CliRunner

from scaling import hardware, ledger_table, reference
from scaling.cli import cli
from scaling.cost import ComputeCost
from scaling.errors import ScalingError, UnknownName
from scaling.ratio import FlopRatio, GpuHourRatio
from scaling.reference import flop_ratio, gpu_hour_ratio, pretrained_model, rl_run


@pytest.mark.parametrize(
    ("run", "base", "percent"),
    [
        ("DeepSeek-R1-Zero as ScaleRL rounds it", None, 3.754),  # 100,000 / 2,664,000
        ("DeepSeek-R1-Zero", None, 3.805),  # 101,376 / 2,664,000
        ("DeepSeek-R1 whole pipeline", None, 5.518),  # 147,000 / 2,664,000
        ("DeepSeek-R1-Zero as ScaleRL rounds it", "DeepSeek-V3-Base (full training)", 3.587),  # / 2,788,000
        ("DeepSeek-R1 whole pipeline", "DeepSeek-V3-Base (full training)", 5.273),
        ("Llama-Nemotron Ultra 253B", None, 0.454),
        ("OLMo 3 Think 32B, first RL", None, 2.589),
        ("OLMo 3 and 3.1 Think 32B, all RL", None, 13.462),
        ("OLMo 3 and 3.1 Think 32B, all RL", "OLMo-3-32B (stage 1)", 14.308),
    ],
)
def test_published_gpu_hour_ratios(run, base, percent):
    assert round(gpu_hour_ratio(run, base).percent, 3) == percent


def test_r1_zero_in_flops_is_about_two_to_five_per_mille():
    ratio = flop_ratio("DeepSeek-R1-Zero")
    assert isinstance(ratio, FlopRatio)
    assert round(100 * ratio.low, 1) == 0.2 and round(100 * ratio.high, 1) == 0.5
    assert ratio.percent == pytest.approx(0.387, abs=0.001)
    assert pretrained_model("DeepSeek-V3-Base").flops == pytest.approx(3.286e24, rel=1e-3)
    # 101,376 H800-hours at the BF16 peak bound what RL can have computed
    assert rl_run("DeepSeek-R1-Zero").flops < 101_376 * 3600 * hardware.peak_flops("H800")


def test_implied_utilisation_of_published_pretrainings_is_possible():
    seen = 0
    for model in reference.pretrained_models():
        if model.gpu_hours and model.tokens:
            utilisation = model.flops / (model.gpu_hours * 3600 * hardware.peak_flops(model.chip))
            assert 0.04 < utilisation < 0.6, model.name
            seen += 1
    assert seen >= 12
    v3 = pretrained_model("DeepSeek-V3-Base")
    assert v3.flops / (v3.gpu_hours * 3600 * hardware.peak_flops("H800")) == pytest.approx(0.346, abs=0.001)


def test_derived_hours_equal_devices_times_wall_time():
    checked = 0
    for run in reference.rl_runs():
        facts = run.facts
        if facts["gpu_hours_basis"] == "derived" and facts["gpus"] and facts["wall_hours"]:
            got, want = float(facts["gpu_hours"]), float(facts["gpus"]) * float(facts["wall_hours"])
            assert got == pytest.approx(want, rel=0.01), run.name
            checked += 1
    assert checked >= 15


def test_a_ratio_asked_for_where_only_the_other_is_known_says_so():
    with pytest.raises(ScalingError, match=r"only its GPU-hour ratio is known \(5\.518 %\)"):
        flop_ratio("DeepSeek-R1 whole pipeline")
    with pytest.raises(ScalingError, match="only its FLOPs are known"):
        gpu_hour_ratio("Open-Reasoner-Zero-32B")
    with pytest.raises(ScalingError, match="hours of different chips do not divide"):
        gpu_hour_ratio("DeepSeek-R1-Zero", "Llama-3.1-8B")
    with pytest.raises(ScalingError, match="unnamed 8B dense model"):
        gpu_hour_ratio("ScaleRL 8B, 100k run")
    with pytest.raises(ScalingError, match="pretraining GPU-hours of Qwen2.5-7B were not published"):
        gpu_hour_ratio("SimpleRL-Zoo 7B")
    with pytest.raises(UnknownName, match="DeepSeek-R1-Zero"):
        gpu_hour_ratio("DeepSeek-R1-Zer0")


@pytest.mark.parametrize(
    "mix",
    [
        lambda h, f: h + f,
        lambda h, f: f + h,
        lambda h, f: h < f,
        lambda h, f: f >= h,
        lambda h, f: max(h, f),
        lambda h, f: sum([f, f], start=h),
    ],
)
def test_gpu_hour_and_flop_ratios_do_not_mix(mix):
    hours, flops = gpu_hour_ratio("DeepSeek-R1-Zero"), flop_ratio("DeepSeek-R1-Zero")
    assert hours != flops
    with pytest.raises(ScalingError, match="different quantities"):
        mix(hours, flops)
    for ratio in (hours, flops):
        with pytest.raises(ScalingError, match="cannot add"):
            ratio + 0.1
        with pytest.raises(TypeError):
            float(ratio)


def test_ratios_add_over_one_pretraining():
    parts = ["DeepSeek-R1-Zero", "DeepSeek-R1 SFT data", "DeepSeek-R1 after R1-Zero"]
    total = gpu_hour_ratio(parts[0]) + gpu_hour_ratio(parts[1]) + gpu_hour_ratio(parts[2])
    assert total.rl == 101_376 + 5_000 + 40_960
    with pytest.raises(ScalingError, match="one pretraining"):
        total + gpu_hour_ratio("DeepSeek-R1-Zero", "DeepSeek-V3-Base (full training)")
    with pytest.raises(ScalingError, match="one chip"):
        total + GpuHourRatio(1, 2_664_000, chip="H200")
    for bad in ((-1, 10), (1, 0), (float("nan"), 1)):
        with pytest.raises(ScalingError, match="must be finite"):
            GpuHourRatio(*bad)


def test_no_cell_is_without_source_and_doubtful_cells_carry_a_mark():
    for run in reference.rl_runs():
        assert run.source and run.trust["row"], run.name
        assert run.gpu_hours is None or run.trust["gpu_hours"], run.name
        assert not run.base or pretrained_model(run.base)
    for model in reference.pretrained_models():
        assert model.source and model.trust["params"], model.name
        assert model.tokens is None or model.trust["tokens"]
        assert model.gpu_hours is None or (model.trust["gpu_hours"] and model.chip and model.gpu_hours_scope)
    lines = {line.name: line.cells() for line in ledger_table.published()}
    assert lines["DeepSeek-R1-Zero"][2] == "101,376~ H800" and lines["DeepSeek-R1-Zero"][4] == "3.805 %~"
    assert lines["DeepSeek-R1 whole pipeline"][4] == "5.518 %"
    assert lines["Llama-Nemotron Ultra 253B"][4].endswith("*")  # its base was pruned
    assert lines["JustRL-DeepSeek-1.5B"][7].endswith("?*")
    assert lines["DeepCoder-14B"][2] == "13,440' H100"


def test_peaks_are_dense_and_unknown_names_raise():
    assert hardware.peak_flops("H100") == 989e12
    assert hardware.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert hardware.peak_flops("h800", "fp8") == 1979e12
    assert hardware.accelerator("GB200").peak() == 2500e12
    for name in hardware.accelerators():
        item = hardware.accelerator(name)
        assert item.source and item.trust["bf16"] and 50e12 < item.peak() < 3000e12
        assert item.usd_per_hour is None or item.usd_source
    for name in ("H1000", "cpu", "", "V100", "H100 NVL"):
        with pytest.raises(UnknownName, match="accelerator must be one of"):
            hardware.peak_flops(name)
    with pytest.raises(UnknownName, match="precision must be one of bf16"):
        hardware.peak_flops("A100", "fp8")
    with pytest.raises(UnknownName, match="precision must be one of bf16, fp8"):
        hardware.peak_flops("H100", "fp4")


def test_utilisation_lies_in_zero_to_one():
    peak = hardware.peak_flops("H100")
    cost = ComputeCost(training_flops=0.4 * peak, training_gpu_seconds=1.0, idle_gpu_seconds=3.0)
    assert cost.mfu(peak) == pytest.approx(0.4)
    assert cost.utilisation(peak) == pytest.approx(0.1)
    with pytest.raises(ScalingError, match=r"\[0, 1\]"):
        ComputeCost(training_flops=2 * peak, training_gpu_seconds=1.0).mfu(peak)


def run_cli(*args):
    return CliRunner().invoke(cli, ["ledger", *args])


def test_ledger_command_prints_the_published_ratios():
    result = run_cli("--filter", "r1")
    assert result.exit_code == 0, result.output
    for text in ("3.754 %", "3.805 %~", "5.518 %", "0.2 to 0.5 %~", "unverified", "arXiv:2501.12948"):
        assert text in result.output
    everything = json.loads(run_cli("--format", "json").output)["published"]
    assert len(everything) == len(reference.rl_runs())
    zero = next(row for row in everything if row["run"] == "DeepSeek-R1-Zero")
    assert zero["gpu_hour_ratio"] == pytest.approx(101_376 / 2_664_000)
    assert zero["trust"]["gpu_hours"] == "derived"
    assert "run,base" in run_cli("--format", "csv", "--filter", "OLMo").output
    assert "OLMo-3-32B (stage 1)" in run_cli("--models", "--filter", "OLMo-3").output
    assert "6ND" in run_cli("--conventions", "--filter", "Qwen2.5-7B").output


def test_ledger_command_says_when_nothing_matches():
    result = run_cli("--filter", "no such thing")
    assert result.exit_code == 1 and "try a shorter text" in result.output
    result = run_cli("--runs", "no/such/folder")
    assert result.exit_code == 1 and "no/such/folder must exist" in result.output


def write_run(folder, *, model, shared=False, pretraining=None):
    folder.mkdir(parents=True)
    record = {
        "run_id": folder.name,
        "schema_version": 1,
        "model": {"name": model, "params": 494e6},
        "accelerator": "H100",
        "devices": 8,
        "shared": shared,
        "stages": [{"stage": "pretrain", **pretraining}] if pretraining else [],
    }
    (folder / "run.json").write_text(json.dumps(record))
    cost = {"generation_flops": 2e19, "training_flops": 6e19, "training_gpu_seconds": 3600.0 * 50, "rollouts": 512}
    line = {"segment": 0, "step": 1, "cost": cost, "metrics": {"reward": 0.5}}
    (folder / "steps.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "evals.jsonl").write_text("")


def test_ledger_command_places_the_users_runs(tmp_path):
    write_run(tmp_path / "known", model="scratch", pretraining={"flops": 8e21, "gpu_hours": 1000.0})
    write_run(tmp_path / "published", model="Qwen/Qwen2.5-0.5B")
    write_run(tmp_path / "shared", model="scratch", shared=True, pretraining={"flops": 8e21, "gpu_hours": 1000.0})
    write_run(tmp_path / "unknown", model="scratch")
    write_run(tmp_path / "distilled", model="Gemma-2-2B")
    result = run_cli("--runs", str(tmp_path), "--format", "json")
    assert result.exit_code == 0, result.output
    rows = {row["run"]: row for row in json.loads(result.output)["yours"]}
    assert rows["known"]["gpu_hour_ratio"] == pytest.approx(0.05)
    assert rows["known"]["flop_ratio"] == pytest.approx(0.01)
    assert rows["published"]["flop_ratio"] == pytest.approx(8e19 / (6 * 494032768 * 18e12))
    assert "6ND of the ledger's Qwen2.5-0.5B" in rows["published"]["notes"][0]
    assert rows["published"]["gpu_hour_ratio"] is None
    assert rows["shared"]["gpu_hour_ratio"] is None and rows["shared"]["flop_ratio"] == pytest.approx(0.01)
    assert "record them" in rows["unknown"]["no_flop_ratio_because"]
    assert not rows["distilled"]["comparable"]
    text = run_cli("--runs", str(tmp_path), "--filter", "R1").output
    assert "known: 1 % of the pretraining FLOPs, more than" in text
