"""Griffe extension: our docstrings say ``Example:``, which Google's parser knows as ``Examples:``."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Renames the section when a docstring is loaded, so that doctests are shown as code."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for every object that has been loaded."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:\s*$", r"\1Examples:", obj.docstring.value, flags=re.M)
