"""The bundled study: consistent with itself, readable without torch, and reported by one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling.bundled import KINDS, PIECES, arm_differences, bundled_arms, bundled_runs
from scaling.errors import UnknownName
from scaling.metrics import mean_interval
from scaling.pretraining import study_runs


def test_runs_are_finished_and_their_pretraining_is_known():
    table = bundled_runs(None, reward=None)
    runs = table.runs
    assert set(runs["sweep"]) == set(PIECES) and set(runs["reward"]) == {"correct", "random"}
    assert (runs["status"] == "finished").all() and (runs["path"] == "").all()
    assert runs[["pretraining_flops", "pretraining_tokens", "pretraining_loss"]].gt(0).all().all()
    assert set(table.steps["run_id"]) == set(table.evals["run_id"]) == set(runs["run_id"])


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_budgets_are_crossed_with_seeds(kind: str):
    runs = bundled_runs(kind).runs
    budget = runs["name"].str.extract(r"-d(\d+)-")[0]
    counts = runs.groupby(["params", budget])["seed"].nunique()
    assert len(counts) == 15 and counts.min() == 3


def test_arms_agree_with_the_records_and_controls_spend_what_grpo_spent():
    arms, table = bundled_arms(), bundled_runs(None, reward=None)
    spent = table.steps.groupby("run_id")[["generation_flops", "scoring_flops", "training_flops"]].sum().sum(axis=1)
    own = arms.dropna(subset=["run_id"])
    assert np.allclose(own["flops"], own["run_id"].map(spent), rtol=1e-5)
    grpo = arms[arms["arm"] == "grpo"].set_index("key")["flops"]
    controls = arms[arms["arm"].isin(["continued", "rejection"])]
    ratio = controls["flops"] / controls["key"].map(grpo)
    assert ratio.between(0.97, 1.03).all()


def test_every_base_has_every_arm_and_the_slip_rate_is_a_factor():
    arms = bundled_arms()
    for kind in KINDS:
        gain = arm_differences(arms[arms["piece"] == kind])
        assert len(gain) == 45 and gain.notna().all().all()
    slips = arms[(arms["piece"] == "slips") & (arms["arm"] == "grpo")]
    assert slips.groupby("slip_rate")["seed"].nunique().to_dict() == {0.0: 3, 0.3: 3}
    assert set(bundled_runs("slips").runs["run_id"]) == set(slips["run_id"])


def test_controls_decide_what_a_gain_says():
    """What docs/results/ladder.md, the README and the notebook say in words."""
    arms = bundled_arms()
    low, high = {}, {}
    for kind in KINDS:
        for name, values in arm_differences(arms[arms["piece"] == kind]).items():
            low[kind, name], high[kind, name] = mean_interval(values)
    assert low["acquisition", "base's best decoding"] > 0.04 and high["elicitation", "base's best decoding"] < 0.0
    assert high["acquisition", "continued pretraining"] < 0 < low["elicitation", "continued pretraining"]
    assert high["acquisition", "rejection SFT"] < 0 < low["elicitation", "rejection SFT"]


def test_feeds_the_relation_to_pretraining():
    study = study_runs(bundled_runs("acquisition"))
    assert len({run.params for run in study}) == 5
    assert all(run.base_best is not None and run.base_sampled is not None for run in study)


def test_unknown_kind_is_named():
    with pytest.raises(UnknownName, match="kind must be one of acquisition"):
        bundled_runs("emergent")


def test_demo_command_writes_a_report_without_torch(tmp_path: Path):
    program = (
        "import sys; from scaling.cli import cli\n"
        f"try: cli(['demo', '--out', {str(tmp_path / 'r')!r}, '--draws', '50'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'trl', 'transformers', 'wandb', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing about the asymptotes of large models" in done.stdout and "make demo" in done.stdout
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "Bundled ladder study" in page and "pretraining FLOPs" in page


def test_seeds_of_one_pretraining_budget_are_one_group_of_a_report():
    """Their texts differ, so their token counts and FLOPs do too, by a few in ten thousand."""
    from scaling.report.groups import group_runs

    groups = group_runs(bundled_runs("acquisition"))
    assert len(groups) == 15 and {len(group.run_ids) for group in groups} == {3}
