"""A fit in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.fitting.result import Fit

__all__ = ["summarise"]


def summarise(fit: Fit, *, full: bool = False) -> str:
    """Lines of text; see `Fit.summary`."""
    return repr(fit)
