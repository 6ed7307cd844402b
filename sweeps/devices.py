"""The device a run is on: its name as `scaling.hardware` knows it."""

from __future__ import annotations

__all__ = ["accelerator_name"]


def accelerator_name() -> str:
    """``cpu``, or the name that the driver gives the first accelerator."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
