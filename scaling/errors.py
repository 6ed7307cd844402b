"""The errors a user of this project sees: one line that says what must hold, what was got, where, and what to do.

    ScalingError (ValueError)
    |- RecordError    a run directory or one of its lines is not as the schema says
    |- ForeignLogError  a foreign log cannot be read
    |- ConfigError    a setting is unknown, of the wrong type or impossible
    `- UnknownName    hardware, model, column or law that is not known; never replaced by a guess

A *statistical* failure ("asymptote not identified") is not an error: it is a named result of a fit.
"""

from __future__ import annotations

__all__ = ["ConfigError", "ForeignLogError", "RecordError", "ScalingError", "UnknownName"]


class ScalingError(ValueError):
    """Base of all errors raised on purpose by this project; its message is one line fit for a user.

    Example:
        >>> import scaling
        >>> try:
        ...     scaling.Curve(compute=[-1.0], performance=[0.5])
        ... except scaling.ScalingError as error:
        ...     print(error)
        compute must be >= 0, got -1: is it cumulative, and from the run's start?
    """


class RecordError(ScalingError):
    """A run directory, or a line in it, is not what the records' schema says.

    Example:
        >>> import scaling, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         scaling.load_runs(folder)
        ...     except scaling.ScalingError as error:
        ...         print(type(error).__name__)
        RecordError
    """


class ForeignLogError(ScalingError):
    """A log of another tool cannot be read or lacks what is needed to place it on a compute axis.

    Example:
        >>> from scaling.importers import load
        >>> try:
        ...     load("no/such/console.log", "verl")
        ... except ForeignLogError as error:
        ...     print(error)
        no/such/console.log must exist
    """


class ConfigError(ScalingError):
    r"""A setting is unknown, of the wrong type, or impossible in combination.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from scaling.study import load_study
        >>> path = Path(tempfile.mkdtemp()) / "study.yaml"
        >>> _ = path.write_text("title: No runs\n")
        >>> try:
        ...     load_study(path)
        ... except ConfigError as error:
        ...     print("runs" in str(error))
        True
    """


class UnknownName(ScalingError, KeyError):
    """A name (hardware, model, column, law, axis) is not known. Nothing is ever guessed in its place.

    Example:
        >>> from scaling import hardware
        >>> try:
        ...     hardware.peak_flops("H100", "int3")
        ... except UnknownName as error:
        ...     print(error)
        precision must be one of bf16, fp8 for H100-SXM, got 'int3': no dense peak with a source is known
    """

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""
