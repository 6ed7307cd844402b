"""The documentation: every code block runs, every command exists, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from scaling.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> list[list[str]]:
    """Lines of shell blocks that call rl-scaling; continued lines are joined, comments and options in [] are dropped."""
    out = []
    for text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split(" #")[0], comments=True)
            if words[:1] == ["rl-scaling"]:
                out.append(words[1:])
    return out


@pytest.fixture(scope="session")
def example_runs():
    spec = importlib.util.spec_from_file_location("example_runs", ROOT / "analysis" / "example_runs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_runs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workplace(example_runs, tmp_path, monkeypatch):
    """A folder as the pages assume it: runs/demo, a ladder, a curve, a study file."""
    ladder = example_runs.write_ladder(tmp_path / "runs" / "demo", steps=150)
    shutil.copytree(ladder, tmp_path / "runs" / "qwen_ladder")
    hours = [2.0 * i for i in range(1, 30)]
    rows = [f"{h},{0.2 + 0.4 / (1 + (10 / h) ** 1.5):.5f}" for h in hours]
    (tmp_path / "curve.csv").write_text("gpu_hours,accuracy\n" + "\n".join(rows) + "\n")
    study = blocks(DOCS / "howto" / "study.md", "yaml")[0]
    (tmp_path / "study.yaml").write_text(study.replace("draws: 1000", "draws: 100").replace('"*-s7"', '"*-3B-*-s1"'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# pages whose blocks need what a test has not: compiled, not run
NOT_RUN = {"importing.md": "logs of other trainers", "tracking.md": "Trackio and a W&B run"}

WITH_PYTHON = [p for p in PAGES if blocks(p, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: str(p.relative_to(DOCS)))
def test_python_blocks_run_in_order(page, workplace):
    scope: dict[str, object] = {"__name__": "__docs__"}
    for number, text in enumerate(blocks(page, "python")):
        if text.startswith("# skip:"):  # says why in the page itself
            continue
        if str(page.relative_to(DOCS)) in NOT_RUN:
            compile(text, f"{page.name}[{number}]", "exec")
            continue
        exec(compile(text, f"{page.name}[{number}]", "exec"), scope)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_commands_and_their_options_exist(page):
    context = click.Context(cli)
    for words in commands(page):
        command: click.Command | None = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            name = rest.pop(0)
            command = command.get_command(context, name)
            assert command is not None, f"{page.name}: no command {' '.join(words)}"
        assert isinstance(command, click.Command), f"{' '.join(words)} resolves to {command!r}, which is no command"
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
        unknown = [w.split("=")[0] for w in rest if w.startswith("--") and w.split("=")[0] not in options]
        assert not unknown, f"{page.name}: {' '.join(words)} has no option {unknown}"


@pytest.mark.parametrize("name", ["quickstart.md", "records.md", "howto/study.md"])
def test_commands_run(name, workplace):
    runner = CliRunner()
    for words in commands(DOCS / name):
        result = runner.invoke(cli, words)
        assert result.exit_code == 0, f"rl-scaling {' '.join(words)}: {result.output}"


def test_study_files_in_the_pages_are_valid(tmp_path):
    from scaling.study import load_study

    whole, part = blocks(DOCS / "howto" / "study.md", "yaml")
    (tmp_path / "study.yaml").write_text(whole)
    assert load_study(tmp_path / "study.yaml").factors == ("model", "recipe_hash")
    (tmp_path / "part.yaml").write_text("title: t\n" + part)
    assert load_study(tmp_path / "part.yaml").runs[0].source == "verl"


def test_links_and_navigation_lead_somewhere():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    made = {"gallery.md", *(f"notebooks/{p.stem}.md" for p in (ROOT / "analysis").glob("*.ipynb"))}

    def pages(entry):
        if isinstance(entry, str):
            yield entry
        for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(value)

    for target in pages(config["nav"]):
        assert target in made or (DOCS / target).is_file(), f"mkdocs.yml: nav names {target}, which is not there"
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" in link or link.startswith("mailto:"):
                continue
            target = (page.parent / link).resolve()
            generated = target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in made
            assert generated or target.exists(), f"{page.relative_to(DOCS)}: link to {link} leads nowhere"


def test_every_metric_of_the_meter_is_in_the_table():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name in ("reward", "completion_length", "truncation_rate", "entropy", "kl", "zero_variance_fraction", "learning_rate",
                 "epoch", "unique_prompts", "updates_per_rollout"):  # fmt: skip
        assert f"`{name}`" in text
