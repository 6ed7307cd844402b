"""Named outcomes of a fit."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """What a fit can say about the asymptote."""

    IDENTIFIED = "identified"
    NOT_IDENTIFIED = "asymptote not identified"
    NO_TREND = "no trend"
    NO_ASYMPTOTE = "law has no asymptote"
    CONSTANT = "constant curve"
    TOO_FEW = "too few evaluations"
