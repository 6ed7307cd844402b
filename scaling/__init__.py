"""RL scaling laws: account for compute, load runs, fit curves, forecast, compare, plan.

Everything here needs numpy, scipy and pandas only, and is imported on first use (PEP 562): ``import scaling`` loads no
torch, transformers, trl, wandb, hydra or plotly.

Example:
    >>> import numpy as np, scaling
    >>> law = scaling.Sigmoid(asymptote=0.6, efficiency_exponent=1.5, c_mid=100.0, r_0=0.2)
    >>> compute = np.geomspace(10, 2000, 40)
    >>> curve = scaling.Curve(compute=compute, performance=law(compute), axis="gpu_hours", metric="pass@1")
    >>> fit = scaling.fit([curve], law="sigmoid", draws=200, seed=0)
    >>> fit.identified
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module it lives in
_HOME = {
    "ComputeCost": "cost",
    "Curve": "curve",
    "Constant": "laws",
    "LinearLog": "laws",
    "LogLinear": "laws",
    "Power": "laws",
    "Sigmoid": "laws",
    "Weibull": "laws",
    "Fit": "fitting",
    "fit": "fitting",
    "load_fit": "fitting",
    "Forecast": "forecast",
    "backtest": "backtest",
    "compare": "compare",
    "fit_loss": "pretraining",
    "fit_joint": "pretraining",
    "fit_surface": "pretraining",
    "ModelShape": "flops",
    "Recorder": "recorder",
    "RunTable": "runs",
    "load_runs": "runs",
    "ScalingError": "errors",
}
_MODULES = {
    "architectures", "backtest", "bundled", "cli", "collapse", "compare", "conventions", "cost", "curve", "errors", "fitting",
    "flops", "forecast", "hardware", "importers", "laws", "ledger_table", "metrics", "plan", "plot", "pretraining",
    "ratio", "records", "recorder", "reference", "report", "rise", "run_table", "runs", "schema", "shapes", "study", "throughput",
    "workload",
}  # fmt: skip

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from scaling.backtest import backtest as backtest
    from scaling.compare import compare as compare
    from scaling.cost import ComputeCost as ComputeCost
    from scaling.curve import Curve as Curve
    from scaling.errors import ScalingError as ScalingError
    from scaling.fitting import Fit as Fit
    from scaling.fitting import fit as fit
    from scaling.fitting import load_fit as load_fit
    from scaling.flops import ModelShape as ModelShape
    from scaling.forecast import Forecast as Forecast
    from scaling.laws import Constant as Constant
    from scaling.laws import LinearLog as LinearLog
    from scaling.laws import LogLinear as LogLinear
    from scaling.laws import Power as Power
    from scaling.laws import Sigmoid as Sigmoid
    from scaling.laws import Weibull as Weibull
    from scaling.pretraining import fit_joint as fit_joint
    from scaling.pretraining import fit_loss as fit_loss
    from scaling.pretraining import fit_surface as fit_surface
    from scaling.recorder import Recorder as Recorder
    from scaling.runs import RunTable as RunTable
    from scaling.runs import load_runs as load_runs


def __getattr__(name: str) -> Any:
    if name in _HOME:
        # a function may share its module's name (scaling.compare, scaling.backtest): the function wins
        value = getattr(importlib.import_module(f"scaling.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"scaling.{name}")
    raise AttributeError(f"module 'scaling' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
