"""Save and load a fit: one ``.npz`` of arrays with a JSON header, no pickle."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.curve import Curve
from scaling.errors import ScalingError
from scaling.laws import law_named

if TYPE_CHECKING:
    from scaling.fitting.result import Fit

__all__ = ["load_fit", "save_fit"]

FORMAT = 1
_CURVE_ARRAYS = ("compute", "performance", "stderr", "successes")


def save_fit(fit: Fit, path: str | Path) -> None:
    """Write a fit, atomically; see `Fit.save`."""
    arrays: dict[str, NDArray[Any]] = {}
    for table in ("draws", "new_seed"):
        values = getattr(fit, table)
        if values is not None:
            arrays.update({f"{table}/{name}": values[name] for name in values.dtype.names})
    for i, curve in enumerate(fit.curves):
        arrays.update({f"curve/{i}/{k}": getattr(curve, k) for k in _CURVE_ARRAYS if getattr(curve, k) is not None})
    header = {
        "format": FORMAT,
        "law": [fit.law.name, fit.law.parameters],
        "curves": [
            {"axis": c.axis, "metric": c.metric, "run_id": c.run_id, "samples_per_item": c.samples_per_item, "labels": c.labels}
            for c in fit.curves
        ],
        "verdict": [str(fit.status), fit.message, fit.verdict.wide],
        "form": fit.form, "weights": fit.weights, "axis": fit.axis, "metric": fit.metric, "window": fit.window, "seed": fit.seed,
        "skipped": fit.skipped, "notes": fit.notes, "n_items": fit.n_items, "fit_after": fit.fit_after, "options": fit.options,
        "certificate": None if fit.certificate is None else {k: np.asarray(v).tolist() for k, v in asdict(fit.certificate).items()},
    }  # fmt: skip
    arrays["header"] = np.array(json.dumps(header, default=str))
    target = Path(path)
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, target)


def load_fit(path: str | Path) -> Fit:
    """Read a fit written by `Fit.save`, draws included.

    Raises:
        ScalingError: the file is not a saved fit, or of a newer format.

    Example:
        >>> import scaling, tempfile
        >>> path = tempfile.mkdtemp() + "/fit.npz"
        >>> compute = np.geomspace(1.0, 100.0, 20)
        >>> fit = scaling.fit(Curve(compute=compute, performance=0.6 - 0.3 / (1 + compute / 10)), draws=50)
        >>> fit.save(path)
        >>> load_fit(path).interval("asymptote") == fit.interval("asymptote")
        True
    """
    from scaling.fitting.identify import Verdict
    from scaling.fitting.result import Fit
    from scaling.fitting.solver import Solution
    from scaling.fitting.status import Status

    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ScalingError(f"{path} is not a fit saved by Fit.save: {error}") from error
    if header.get("format") != FORMAT:
        raise ScalingError(
            f"{path} has format {header.get('format')}, this version reads {FORMAT}; upgrade rl-scaling or fit again"
        )
    curves = tuple(
        Curve(**facts, **{k: arrays[f"curve/{i}/{k}"] for k in _CURVE_ARRAYS if f"curve/{i}/{k}" in arrays})
        for i, facts in enumerate(header["curves"])
    )
    name, parameters = header["law"]
    options = header["options"]
    for key in ("limits", "bounds"):
        if options.get(key):
            options[key] = {k: tuple(v) for k, v in options[key].items()}
    certificate = header["certificate"]
    return Fit(
        law=law_named(name)(**parameters), draws=_table(arrays, "draws"), curves=curves, window=tuple(header["window"]),
        form=header["form"], weights=header["weights"], axis=header["axis"], metric=header["metric"], seed=header["seed"],
        skipped=header["skipped"], notes=tuple(header["notes"]), n_items=header["n_items"], fit_after=header["fit_after"],
        options=options, certificate=None if certificate is None else Solution(**{k: np.array(v) for k, v in certificate.items()}),
        new_seed=_table(arrays, "new_seed") if "new_seed/law" in arrays else None,
        given_verdict=Verdict(Status(header["verdict"][0]), *header["verdict"][1:]),
    )  # fmt: skip


def _table(arrays: dict[str, NDArray[Any]], prefix: str) -> NDArray[Any]:
    columns = {
        name.removeprefix(prefix + "/"): values for name, values in arrays.items() if name.startswith(prefix + "/")
    }
    out = np.zeros(columns["rho"].size, dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        out[name] = values
    return out
