"""Imports point down, and the core stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "wandb",
    "hydra",
    "omegaconf",
    "plotly",
    "datasets",
    "accelerate",
    "matplotlib",
}


def loaded(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import scaling",
        "import scaling; scaling.fit, scaling.Curve, scaling.load_runs, scaling.Sigmoid, scaling.ModelShape",
        "import scaling.cli, scaling.cli.fit, scaling.cli.report, scaling.importers",
    ],
)
def test_the_core_loads_nothing_heavy(code):
    assert not loaded(code) & HEAVY


def test_import_scaling_is_lazy():
    assert not loaded("import scaling") & {"numpy", "scipy", "pandas", "pyarrow"}


def imports(path: Path) -> set[str]:
    out: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            out.add(node.module.split(".")[0])
    return out


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("scaling", {"sweeps", "hydra_plugins", "torch", "trl", "transformers", "hydra"}),
        ("sweeps", {"analysis", "tests"}),
    ],
)
def test_imports_point_down(package, above):
    for path in (ROOT / package).rglob("*.py"):
        assert not imports(path) & above, path


def test_public_names_exist_and_are_documented():
    import scaling

    for name in scaling.__all__:
        value = getattr(scaling, name)
        assert (value.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="public names"):
        scaling.nonsense  # noqa: B018
