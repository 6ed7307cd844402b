"""Reading and checking a study file; see `scaling.study` for what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from scaling.curve import AXES
from scaling.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where runs are from: a folder of run directories, or a foreign log and its importer.

    Example:
        >>> Source(path="runs/ladder", where="params > 1e8").where
        'params > 1e8'
    """

    path: str = ""
    where: str = ""
    import_: str = ""
    source: str = ""
    mapping: str = ""
    gpus: float | None = None


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A run that is left out, with the reason that the paper gives.

    Example:
        >>> Exclusion(run="0.5B-seed3", reason="a node failed at step 40").reason
        'a node failed at step 40'
    """

    run: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study file, checked.

    Attributes:
        title: of the study.
        runs: where the runs are from.
        exclude: runs left out, each with its reason.
        benchmark: held-out benchmark; may be left out when there is one only.
        metric: ``pass@1``, or another that `RunTable.curves` knows.
        axis: one of `scaling.curve.AXES`.
        fit_after: evaluations before this compute are not fitted [unit of the axis].
        factors: columns of the runs table; runs that agree in them are seeds of one law.
        law: as for `scaling.fit`.
        level: of intervals [0 to 1].
        draws: behind the intervals [1].
        seed: of the draws.
        folder: of the file; paths are relative to it.

    Example:
        >>> study = Study(title="Three sizes", runs=(Source(path="runs"),), factors=("model",), law="sigmoid")
        >>> study.axis, study.draws > 0
        ('total_flops', True)
    """

    title: str
    runs: tuple[Source, ...]
    exclude: tuple[Exclusion, ...] = ()
    benchmark: str | None = None
    metric: str = "pass@1"
    axis: str = "total_flops"
    fit_after: float | None = None
    factors: tuple[str, ...] = ("model", "recipe_hash")
    law: str = "ensemble"
    level: float = 0.9
    draws: int = 1000
    seed: int = 0
    folder: Path = field(default_factory=Path)

    def settings(self) -> dict[str, Any]:
        """What affects the numbers, as plain values."""
        keys = ("benchmark", "metric", "axis", "fit_after", "factors", "law", "level", "draws", "seed")
        return {k: list(v) if isinstance(v := getattr(self, k), tuple) else v for k in keys} | {
            "exclude": [{"run": e.run, "reason": e.reason} for e in self.exclude]
        }


def load_study(path: str | Path) -> Study:
    r"""Read and check a study file.

    Raises:
        ConfigError: it is not there, is not YAML, or a key is unknown, missing or of the wrong type.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "study.yaml"
        >>> _ = path.write_text("title: Three sizes\nruns: [{path: runs/ladder}]\nfit_after: 1e11\n")
        >>> load_study(path).fit_after
        100000000000.0
    """
    import yaml

    target = Path(path)
    try:
        body = yaml.safe_load(target.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"study file {target} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"study file {target} must be YAML: {told}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"study file {target} must hold keys such as 'title' and 'runs', got {type(body).__name__}")
    known = {f.name for f in fields(Study)} - {"folder"}
    _only(body, known, str(target))
    for key in ("title", "runs"):
        if not body.get(key):
            raise ConfigError(f"{target}: '{key}' is missing")
    values = dict(body)
    values["runs"] = tuple(
        _source(entry, f"{target}: runs[{i}]") for i, entry in enumerate(_list(body, "runs", target))
    )
    excluded = enumerate(_list(body, "exclude", target))
    values["exclude"] = tuple(_exclusion(entry, f"{target}: exclude[{i}]") for i, entry in excluded)
    if "factors" in body:
        values["factors"] = tuple(str(f) for f in _list(body, "factors", target))
    for key, kinds in (("fit_after", (int, float)), ("draws", (int,)), ("seed", (int,)), ("level", (float,))):
        values[key] = _number(values.get(key), kinds, f"{target}: {key}", getattr(Study, key))
    if values.get("axis", "total_flops") not in AXES:
        raise ConfigError(f"{target}: axis must be one of {', '.join(AXES)}, got {values['axis']!r}")
    return Study(**values, folder=target.parent)


def _source(entry: Any, where: str) -> Source:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must have keys such as 'path', got {entry!r}")
    _only(entry, {"path", "where", "import", "source", "mapping", "gpus"}, where)
    if bool(entry.get("path")) == bool(entry.get("import")):
        raise ConfigError(f"{where} must have either 'path' (run folders) or 'import' (a foreign log)")
    if entry.get("import") and not entry.get("source"):
        raise ConfigError(f"{where}: 'import' needs 'source', the importer: wandb, verl, trl, table, ...")
    values = {("import_" if k == "import" else k): str(v) for k, v in entry.items() if k != "gpus"}
    return Source(**values, gpus=_number(entry.get("gpus"), (int, float), f"{where}: gpus", None))


def _exclusion(entry: Any, where: str) -> Exclusion:
    if not isinstance(entry, dict) or not entry.get("run") or not entry.get("reason"):
        raise ConfigError(
            f"{where} must have 'run' and 'reason', got {entry!r}: a run is never left out without a reason"
        )
    _only(entry, {"run", "reason"}, where)
    return Exclusion(run=str(entry["run"]), reason=str(entry["reason"]))


def _only(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(k) for k in entry if k not in known)
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _list(body: Mapping[str, Any], key: str, target: Path) -> list[Any]:
    value = body.get(key) or []
    if not isinstance(value, list):
        raise ConfigError(f"{target}: '{key}' must be a list, got {value!r}")
    return value


def _number(value: Any, kinds: tuple[type, ...], where: str, default: Any) -> Any:
    if value is None:
        return default
    if isinstance(value, str):  # YAML 1.1 reads 1e11 as text
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where} must be a number, got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigError(f"{where} must be {' or '.join(k.__name__ for k in kinds)}, got {value!r}")
    return value
