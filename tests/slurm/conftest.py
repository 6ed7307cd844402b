"""The session's Slurm cluster: installed if it can be, started once, taken down at the end."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.launching.running import Shell  # noqa: E402
from tests.slurm.cluster import Cluster, Unavailable, install  # noqa: E402

SETTINGS = (
    "cluster=slurm",
    "cluster.slurm.cpus_per_gpu=1",
    "cluster.slurm.grace_seconds=10",
    "cluster.slurm.time_minutes=10",
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:  # sockets need a short path
        try:
            install()
            found = Cluster(Path(folder))
            try:
                found.up()
            except Unavailable:  # once more: a busy machine may have missed a deadline
                found = Cluster(Path(folder) / "again")
                found.up()
        except Unavailable as error:
            pytest.skip(f"no Slurm here: {error}")
        yield found
        found.down()


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(tmp_path / "runs", env=cluster.env, overrides=SETTINGS)
