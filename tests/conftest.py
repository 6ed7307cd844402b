"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the suite gives the same verdict each time; `make fuzz` looks at random
settings.register_profile("suite", derandomize=True)
settings.register_profile("fuzz", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of outside data: the variable SCALING_SHARED_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("SCALING_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"outside data not found at {folder}; set SCALING_SHARED_DATA")
    return folder
