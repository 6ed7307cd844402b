"""A copy of the code as it was at submission, so that a queued run does not change with the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["commit", "take"]

PACKAGES = ("scaling", "sweeps", "hydra_plugins")
SKIPPED = {"__pycache__", ".git", ".ruff_cache", ".pytest_cache"}


def take(folder: Path) -> Path:
    """Copy this project's packages into ``folder/<hash>`` and return it; the same code is copied once."""
    import sweeps
    from sweeps.config import conf_dir

    root = Path(sweeps.__file__).resolve().parent.parent
    sources = {Path(name): root / name for name in PACKAGES}
    sources[Path("sweeps") / "conf"] = conf_dir()
    files = {target / path.relative_to(source): path for target, source in sources.items() for path in _files(source)}
    digest = hashlib.sha256()
    for target in sorted(files):
        digest.update(str(target).encode() + b"\0" + files[target].read_bytes() + b"\0")
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    partial = folder / f".{copy.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    for target, path in files.items():
        (partial / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, partial / target)
    try:
        partial.rename(copy)
    except OSError:  # another launch has just made the same copy
        shutil.rmtree(partial, ignore_errors=True)
    return copy


def commit() -> str:
    """Commit of this project's checkout, with ``+`` where it has changes; empty outside a repository."""
    import sweeps

    root = Path(sweeps.__file__).resolve().parent.parent
    try:
        ours = subprocess.run(
            ["git", "ls-files", "--error-unmatch", "sweeps/launch.py"], cwd=root, capture_output=True, timeout=10
        )
        if ours.returncode:  # installed inside somebody else's repository
            return ""
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else ""


def _files(source: Path) -> list[Path]:
    return sorted(p for p in source.rglob("*") if p.is_file() and not SKIPPED & set(p.parts))
