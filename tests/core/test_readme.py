"""What README.md shows runs and says what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_fifteen_lines_run(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0.6" in done.stdout
    assert "asymptote not identified" in done.stdout


def test_what_it_links_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_no_placeholder_is_left():
    assert "@@" not in TEXT


def test_no_file_names_the_machine_it_was_made_on():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return  # not a repository: an unpacked archive
    pattern = re.compile(rb"(?<![\w.])/(work|root|farm)/")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix not in {".png", ".svg", ".npz", ".parquet"}
            and name != "tests/core/test_readme.py"
        ):
            assert not pattern.search(path.read_bytes()), name
