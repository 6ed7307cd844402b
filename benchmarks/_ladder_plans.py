"""Which jobs the plans of the ladder study have, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ARMS = ("grpo", "random_reward", "continued", "rejection")


@dataclass(frozen=True)
class Job:
    """One base and its arms."""

    piece: str
    task: str
    model: str
    pretrain_steps: int
    seed: int
    rl_steps: int
    arms: tuple[str, ...] = ARMS
    batch: int = 128
    group_size: int = 8
    prompts: int = 32
    slip_rate: float | None = None
    recipe: str = "dapo"
    eval_every: int = 15
    rate_factor: float = 1.0
    eval_early: tuple[int, ...] = ()
    dtype: str | None = "float32"  # None: the model's own
    base_between: tuple[float, float] = (
        0.0,
        1.0,
    )  # arms start from bases that sample within; others get their line alone

    @property
    def key(self) -> str:
        """Name of the job, unique in a plan."""
        slip = "" if self.slip_rate is None else f"-slip{self.slip_rate:g}"
        recipe = "" if self.recipe == "dapo" else f"-{self.recipe}"
        steps = f"-t{self.rl_steps}" if self.piece == "beyond" else ""
        rate = "" if self.rate_factor == 1 else f"-lr{self.rate_factor:g}x"
        return f"{self.task}{slip}-{self.model}-d{self.pretrain_steps}{recipe}{steps}{rate}-s{self.seed}"


BEYOND = ((300, 0), (300, 1), (200, 1), (450, 1))  # pretraining steps and seed: slow, fast, dead, near the ceiling
WIDTHS = ("scratch_16", "scratch_24", "scratch_32", "scratch_48", "scratch_64")


def cpu_plan() -> Iterator[Job]:
    """Five widths x three pretraining budgets x three seeds, in both kinds; the slip rate as a factor at one width."""
    for seed in range(3):
        for steps in (300, 150, 600):
            for model in WIDTHS:
                yield Job("acquisition", "chain", model, steps, seed, 150)
    for seed in range(3):
        for steps in (300, 150, 600):
            for model in WIDTHS:
                yield Job("elicitation", "chain_elicitation", model, steps, seed, 90, eval_every=10)
    for seed in range(3):
        for slip in (0.0, 0.3):
            yield Job(
                "slips", "chain_elicitation", "scratch_48", 300, seed, 90, ("grpo",), slip_rate=slip, eval_every=10
            )


def gpu_plan() -> Iterator[Job]:
    """Chains of up to twelve operands, 12,167 answers: sizes x pretraining budgets, learning rates, ten times the compute.

    In the order in which pieces are worth having: one size whole, a second and third size, rates, further seeds, a fourth size.
    """
    common: dict[str, Any] = {"batch": 512, "group_size": 16, "eval_every": 40}
    arms = ("grpo", "continued", "rejection")

    def grid(model: str, budgets: Sequence[int], seed: int) -> Iterator[Job]:
        for steps in budgets:
            yield Job("grid", "chain_acquisition", model, steps, seed, 400, arms, **common)

    for steps, seed in BEYOND:
        yield Job("beyond", "chain_acquisition", "scratch_96x3", steps, seed, 2000, ("grpo",), **common)
    for seed in (2, 0, 1):  # the third seed is the one that an earlier study lacks
        yield from grid("scratch_96x3", (300, 450, 200, 675), seed)
    crossed = ("scratch_64x3", "scratch_128x3")
    for model in crossed:
        yield from grid(model, (300, 450, 675), 0)
    for model in crossed:
        for factor in (0.5, 2.0):
            yield Job("rates", "chain_acquisition", model, 300, 0, 400, ("grpo",), rate_factor=factor, **common)
    for seed in (1, 2):
        for model in crossed:
            yield from grid(model, (300, 450, 675), seed)
    for seed in range(3):
        yield from grid("scratch_48x3", (300, 450, 675), seed)


WINDOW = 160  # steps that the forecasts of `beyond_plan` see


def beyond_plan() -> Iterator[Job]:
    """One size and budget, four seeds, to more than ten times the compute of the window that is forecast from."""
    for seed in range(4):
        yield Job(
            "beyond", "chain_acquisition", "scratch_96x3", 300, seed, 1720, ("grpo",), batch=512, group_size=16,
            eval_every=40, eval_early=tuple(range(10, WINDOW + 1, 10)),
        )  # fmt: skip


LARGE = ("scratch_128x3", "scratch_256x3", "scratch_448x3")


def large_plan() -> Iterator[Job]:
    """0.8, 3 and 10 million parameters on longer chains of a larger modulus (`chain_long`), with controls and learning rates.

    Which budget leaves a base in the middle is not known before, and GRPO has nothing to reinforce in a base that solves nothing:
    more budgets are pretrained than are gone on from.
    """
    common: dict[str, Any] = {
        "batch": 512, "group_size": 16, "eval_every": 30, "dtype": None, "base_between": (0.2, 0.85),
    }  # fmt: skip
    budgets = (225, 340, 510, 770, 1150)
    for seed in range(3):
        for steps in budgets:
            for model in LARGE:
                yield Job("grid", "chain_long", model, steps, seed, 300, ("grpo", "continued", "rejection"), **common)
        if seed == 1:
            for factor in (0.5, 2.0):
                for steps in budgets:
                    for model in LARGE[1:]:
                        yield Job("rates", "chain_long", model, steps, 0, 300, ("grpo",), rate_factor=factor, **common)


RECIPES = ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "gspo", "sapo", "scalerl")


def recipes_plan() -> Iterator[Job]:
    """Every recipe from the same three bases: does each learn?"""
    for seed in range(3):
        for recipe in RECIPES:
            yield Job("recipes", "chain", "scratch_48", 300, seed, 150, ("grpo",), recipe=recipe)


def trial_plan() -> Iterator[Job]:
    """A minute of everything: whether the program works."""
    small: dict[str, Any] = {"batch": 32, "group_size": 8, "prompts": 8, "eval_every": 5}
    yield Job("beyond", "chain", "scratch_16", 30, 0, 40, ("grpo",), **small)
    for model in ("scratch_16", "scratch_24"):
        yield Job("grid", "chain", model, 30, 0, 20, ("grpo", "continued", "rejection"), **small)
    yield Job("rates", "chain", "scratch_16", 30, 0, 20, ("grpo",), rate_factor=2.0, **small)


PLANS = {
    "cpu": cpu_plan,
    "gpu": gpu_plan,
    "beyond": beyond_plan,
    "large": large_plan,
    "recipes": recipes_plan,
    "trial": trial_plan,
}
