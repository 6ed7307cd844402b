"""Fixtures of the training tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tests_train_shared import bases, small  # noqa: F401
