"""The simple FLOP conventions of papers (6ND, 8NT, 10NT), by name, and how far each is off.

They multiply parameters by tokens: no attention, and the embedding counted as if it were a matrix product. Use them
to compare with papers; `scaling.flops` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling.errors import ScalingError, UnknownName
from scaling.flops import generation_flops, pretraining_flops, scoring_flops, training_flops
from scaling.shapes import ModelShape

__all__ = ["CONVENTIONS", "Convention", "convention_error", "convention_flops", "error_table"]


@dataclass(frozen=True)
class Convention:
    """FLOPs per parameter and token, and the passes that they stand for.

    Attributes:
        factor: FLOPs per parameter and token [FLOP].
        phases: what the factor covers.
        source: who uses it.

    Example:
        >>> CONVENTIONS["10NT"].factor, CONVENTIONS["10NT"].phases
        (10, ('generation', 'scoring', 'training'))
    """

    factor: float
    phases: tuple[str, ...]
    source: str


CONVENTIONS: Mapping[str, Convention] = {
    "6ND": Convention(6, ("pretraining",), "Kaplan et al. 2020, arXiv:2001.08361, section 2.1"),
    "6NT": Convention(6, ("training",), "Tan et al. 2025, arXiv:2509.25300: the update alone"),
    "8NT": Convention(8, ("generation", "training"), "the update and the rollout"),
    "10NT": Convention(10, ("generation", "scoring", "training"), "the update, the rollout and a reference model"),
}


def convention_flops(name: str, params: float, tokens: float) -> float:
    """FLOPs by a convention: its factor x parameters x tokens [FLOP].

    Args:
        name: one of `CONVENTIONS`.
        params: parameters that a token uses [1], as the paper counts them.
        tokens: prompt and completion tokens [token].

    Raises:
        UnknownName: no such convention.
        ScalingError: a negative number.

    Example:
        >>> convention_flops("6ND", 37e9, 14.8e12)
        3.2856e+24
    """
    if name not in CONVENTIONS:
        raise UnknownName(f"convention must be one of {', '.join(CONVENTIONS)}, got {name!r}")
    if not (params >= 0 and tokens >= 0):
        raise ScalingError(f"params and tokens must be >= 0, got {params!r} and {tokens!r}")
    return CONVENTIONS[name].factor * params * tokens


def convention_error(name: str, shape: ModelShape, *, prompt_length: int, completion_length: int) -> float:
    """How far a convention is off the counted model FLOPs of the same passes: convention / counted - 1.

    Args:
        name: one of `CONVENTIONS`.
        shape: the model; N is its `active_params`.
        prompt_length: tokens of each prompt [token].
        completion_length: tokens of each completion [token].

    Example:
        >>> from scaling.reference import public_shape
        >>> round(convention_error("8NT", public_shape("Qwen2.5-7B"), prompt_length=256, completion_length=16128), 2)
        -0.13
    """
    tokens = prompt_length + completion_length
    convention = convention_flops(name, shape.active_params, tokens)
    count = {
        "pretraining": lambda: pretraining_flops(shape, tokens),
        "generation": lambda: generation_flops(shape, prompt_length, completion_length),
        "scoring": lambda: scoring_flops(shape, prompt_length, completion_length),
        "training": lambda: training_flops(shape, prompt_length, completion_length),
    }
    return convention / sum(count[phase]() for phase in CONVENTIONS[name].phases) - 1


def error_table(
    shapes: Mapping[str, ModelShape],
    *,
    conventions: tuple[str, ...] = ("6ND", "8NT", "10NT"),
    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536),
    prompt_length: int = 256,
) -> list[tuple[str, str, tuple[float, ...]]]:
    """`convention_error` by model, convention and total length: rows ``(model, convention, errors at each length)``.

    Example:
        >>> from scaling.reference import public_shape
        >>> (model, name, errors), *_ = error_table({"Qwen2.5-7B": public_shape("Qwen2.5-7B")}, lengths=(1024, 16384))
        >>> name, [round(error, 3) for error in errors]
        ('6ND', [0.062, -0.126])
    """
    return [
        (
            model,
            name,
            tuple(
                convention_error(name, shape, prompt_length=prompt_length, completion_length=length - prompt_length)
                for length in lengths
            ),
        )
        for model, shape in shapes.items()
        for name in conventions
    ]
