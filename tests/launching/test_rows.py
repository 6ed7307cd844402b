"""Rows to runs: errors first, merging, labels; quick composition equals Hydra's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from scaling.errors import ConfigError
from sweeps.config import BudgetConfig, conf_dir
from sweeps.launching.rows import covers, merge, resolve_rows


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config"), resolve=True)  # type: ignore[return-value]


def rows_of(base: dict[str, Any], *changes: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    out = []
    for change in changes:
        body = copy.deepcopy(base)
        for key, value in change.items():
            node = body
            *path, last = key.split(".")
            for part in path:
                node = node[part]
            node[last] = value
        out.append(([f"{k}={v}" for k, v in change.items()], body))
    return out


def test_rows_that_differ_in_the_budget_are_one_run_trained_to_the_largest(base: dict[str, Any]) -> None:
    grid = [{"seed": s, "budget.steps": b} for s in (0, 1, 2) for b in (10, 40, 20)]
    runs = merge(resolve_rows(rows_of(base, *grid)))
    assert len(runs) == 3
    assert [r.config.budget.steps for r in runs] == [40] * 3
    assert [[m.steps for m in r.config.milestones] for r in runs] == [[10, 20]] * 3
    assert [r.rows for r in runs] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert [r.label for r in runs] == ["seed=0", "seed=1", "seed=2"]
    assert len({r.run_id for r in runs}) == 3


def test_a_schedule_that_depends_on_the_budget_makes_different_runs(base: dict[str, Any]) -> None:
    grid = [{"budget.steps": b, "grpo.lr_schedule": "linear"} for b in (10, 20)]
    assert len(merge(resolve_rows(rows_of(base, *grid)))) == 2


def test_budgets_without_a_largest_are_refused(base: dict[str, Any]) -> None:
    grid = rows_of(base, {"budget.steps": 10, "budget.flops": 1e12}, {"budget.steps": 20, "budget.flops": 1e11})
    with pytest.raises(ConfigError, match="largest in every limit, got steps=10 flops=1e\\+12 | steps=20"):
        merge(resolve_rows(grid))


def test_one_run_cannot_be_evaluated_in_two_ways(base: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="eval.every: rows 1 and 0 are one run"):
        merge(resolve_rows(rows_of(base, {"eval.every": 10}, {"eval.every": 20})))


def test_all_errors_of_all_rows_come_first_one_line_each(base: dict[str, Any]) -> None:
    grid = rows_of(
        base, {"seed": 0, "grpo.beta": -1.0}, {"seed": -1, "grpo.beta": -1.0}, {"seed": 2, "grpo.beta": -1.0}
    )
    with pytest.raises(ConfigError) as error:
        resolve_rows(grid)
    head, *lines = str(error.value).splitlines()
    assert head == "nothing was started, 2 setting(s) to correct:"
    assert any(line.startswith("grpo.beta: ") and line.endswith("[every row]") for line in lines)
    assert any(line.startswith("seed: ") and "row 1 (seed=-1" in line for line in lines)


limit = st.one_of(st.none(), st.integers(1, 5))


@given(a=st.tuples(limit, limit), b=st.tuples(limit, limit))
def test_a_budget_covers_another_when_no_run_could_outlast_it(
    a: tuple[int | None, int | None], b: tuple[int | None, int | None]
) -> None:
    if a == (None, None) or b == (None, None):
        return
    ours, theirs = (BudgetConfig(steps=x, flops=None if y is None else float(y)) for x, y in (a, b))
    inf = float("inf")
    larger = all((x or inf) >= (y or inf) for x, y in zip(a, b))
    assert covers(ours, theirs) == larger


def test_what_an_interpolation_may_read() -> None:
    from hydra_plugins.rl_scaling_launcher.compose import _references

    assert _references({"a": "${model.x}", "b": ["${oc.select:model.y.z,1.0e-3}", "t ${c} ${d}"]}) == {
        "model.x",
        "model.y.z",
        "e",
        "c",
        "d",
    }
    assert _references("${.x}") == _references("${a.${b}}") == _references("${a[0]}") == {""}


class TestComposer:
    def test_a_seed_is_set_without_composing_anew(self) -> None:
        """The configuration that ships must stay on the quick way: a grid of thousands depends on it."""
        from hydra._internal.hydra import Hydra
        from hydra.core.global_hydra import GlobalHydra
        from hydra.types import RunMode

        from hydra_plugins.rl_scaling_launcher import register
        from hydra_plugins.rl_scaling_launcher.compose import Composer

        register()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            hydra: Hydra = GlobalHydra.instance().hydra  # type: ignore[assignment]
            composer = Composer(hydra.config_loader, hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN))
            full, calls = composer._full, []
            composer._full = lambda overrides: calls.append(overrides) or full(overrides)  # type: ignore[method-assign]
            for i in range(5):
                assert composer.compose([f"seed={i}", "model=scratch_16", f"budget.steps={i + 1}"])["seed"] == i
            assert len(calls) == 1

    KEYS = (
        "seed=3", "model=scratch_16", "model=scratch_64", "budget.steps=7", "budget=r1", "grpo.group_size=4", "grpo=cispo", "name=abc",
        "model.hyperparameters.learning_rate=0.5", "pretrain.learning_rate=0.1", "eval.early=[0,1]", "+task.zipf2=1", "++grpo.beta=0.1",
        "task.zipf=0.5", "tracking.tags=[a,b]", "cluster=slurm", "milestones=[{steps:5}]", "grpo.epsilon_high=null",
    )  # fmt: skip

    @settings(max_examples=12, deadline=None, phases=[Phase.generate])  # Hydra takes a tenth of a second a row
    @given(chosen=st.lists(st.sampled_from(KEYS), max_size=5, unique_by=lambda o: o.split("=")[0].lstrip("+")))
    def test_quick_composition_equals_hydras(self, chosen: list[str]) -> None:
        from hydra._internal.hydra import Hydra
        from hydra.core.global_hydra import GlobalHydra
        from hydra.types import RunMode

        from hydra_plugins.rl_scaling_launcher import register
        from hydra_plugins.rl_scaling_launcher.compose import Composer

        register()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            hydra: Hydra = GlobalHydra.instance().hydra  # type: ignore[assignment]
            master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN)
            composer = Composer(hydra.config_loader, master)
            first, expected = composer.compose(chosen), composer._full(chosen)[0]
            assert first == expected
            assert composer.compose(chosen) == expected, "from the cache, which the first time must not have changed"
