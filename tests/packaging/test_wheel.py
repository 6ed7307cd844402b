"""A wheel built from the checkout works where it is installed: commands, configuration, entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Site folder with the wheel unpacked by pip, beside the environment's own packages."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("scaling", "sweeps", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True, capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    (wheel,) = folder.glob("rl_scaling-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "sweeps/conf/config.yaml" in names
    assert any(name.startswith("sweeps/conf/model/") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)
    site = folder / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
    )
    return site


def run(site: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with the wheel's packages first and the checkout nowhere on the path."""
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_every_package_of_the_checkout_is_in_the_wheel(installed):
    for top in ("scaling", "sweeps", "hydra_plugins"):
        for path in (ROOT / top).rglob("*.py"):
            assert (installed / path.relative_to(ROOT)).is_file(), path


def test_modules_come_from_the_wheel(installed, tmp_path):
    done = run(
        installed,
        "-c",
        "import scaling, sweeps, sweeps.config as c; print(scaling.__file__); print(c.conf_dir())",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    where, conf = done.stdout.split()
    assert where.startswith(str(installed)) and conf == str(installed / "sweeps" / "conf")


@pytest.mark.train
def test_train_teaches(installed, tmp_path):
    done = run(installed, "-m", "sweeps.train", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("model", "budget", "launch.dry_run=true", "pretraining_gpu_hours_ratio=0.0375"):
        assert word in done.stdout, word


@pytest.mark.train
def test_a_dry_run_composes_from_the_wheel(installed, tmp_path):
    done = run(installed, "-m", "sweeps.train", "-m", "experiment=demo", "launch.dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs" in done.stdout


def test_commands_of_the_core_and_of_the_training_packages(installed, tmp_path):
    done = run(installed, "-m", "scaling", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "fit", "report", "ledger", "import", "check", "sweep", "doctor"):
        assert f"  {command} " in done.stdout, command


def test_the_bundled_study_is_in_the_wheel(installed, tmp_path):
    program = "from scaling import bundled; print(len(bundled.bundled_runs().runs), len(bundled.bundled_arms()))"
    done = run(installed, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs, arms = map(int, done.stdout.split())
    assert runs >= 30 and arms > runs


def test_unknown_group_option_is_one_line(installed, tmp_path):
    done = run(installed, "-m", "sweeps.train", "model=nope", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "nope" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_key_is_one_line_and_names_what_is_allowed(installed, tmp_path):
    done = run(installed, "-m", "sweeps.train", "grpo.group_sise=4", cwd=tmp_path)
    assert done.returncode != 0
    assert "group_sise" in done.stderr and "group_size" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
