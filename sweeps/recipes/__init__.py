"""Pieces of training recipes that TRL lacks, each a switch of its own: small subclasses, no copied code.

ScaleRL (arXiv:2510.13786, section 3) is CISPO, FP32 logits and batch-level advantage normalisation, which TRL has, and the
four switches here.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from scaling.errors import ConfigError
from sweeps.schema import Strict

__all__ = ["RecipeSwitches", "trainer_class"]


class RecipeSwitches(Strict):
    """Which pieces are on; all off is plain TRL."""

    prompt_average: bool = Field(
        False, description="the loss is a mean over prompts of the mean over a prompt's tokens"
    )
    filter_zero_variance: bool = Field(
        False, description="prompts whose rollouts all have one reward leave the loss's normaliser"
    )
    no_positive_resampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="prompts solved at this rate or more are not drawn in later epochs (ScaleRL: 0.9); 0 is off",
    )
    solved_at: float = Field(1.0, description="with no_positive_resampling: the total reward that counts as solved")
    interrupt_after: int = Field(
        0, ge=0, description="completions still open after so many tokens are told to answer [token]; 0 is off"
    )
    interruption: str = Field(
        "\nTime is up. The final answer is ", description="the text that tells them; it is not trained on"
    )

    @model_validator(mode="after")
    def _check(self) -> RecipeSwitches:
        if self.interrupt_after and not self.interruption:
            raise ValueError("grpo.recipe.interruption must not be empty where interrupt_after is set")
        return self

    @property
    def any(self) -> bool:
        """Whether a switch is on."""
        return bool(
            self.prompt_average or self.filter_zero_variance or self.no_positive_resampling or self.interrupt_after
        )


def trainer_class(base: type, switches: RecipeSwitches) -> type:
    """A subclass of ``base`` (a `GRPOTrainer`) with the pieces that are on; ``base`` itself where none is.

    The class keeps the switches as ``recipe``; a trainer checks them against its own settings when it is built.
    """
    if not switches.any:
        return base
    from sweeps.recipes.aggregation import AggregationMixin
    from sweeps.recipes.interruption import InterruptionMixin
    from sweeps.recipes.resampling import ResamplingMixin

    mixins: list[type] = []
    if switches.prompt_average or switches.filter_zero_variance:
        mixins.append(AggregationMixin)
    if switches.interrupt_after:
        mixins.append(InterruptionMixin)
    if switches.no_positive_resampling:
        mixins.append(ResamplingMixin)
    return type(f"Recipe{base.__name__}", (*mixins, base), {"recipe": switches})


def refuse(key: str, needs: str, got: Any) -> None:
    """One line for a switch that does not go with the rest of the settings."""
    raise ConfigError(f"grpo.recipe.{key} needs {needs}, got {got}")
