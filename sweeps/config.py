"""The typed schema of a run, its validation in one line an error, and the three hashes.

Hydra composes YAML; `resolve` turns the result into a frozen `RunConfig` or raises `ConfigError` before anything starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from scaling.errors import ConfigError
from sweeps.cluster import ClusterConfig, LaunchConfig
from sweeps.devices import COMPILED_NEEDS_FLOAT32
from sweeps.models import ModelConfig, ScratchModel
from sweeps.pretrain import PretrainConfig, base_hash
from sweeps.recipes import RecipeSwitches
from sweeps.schema import Strict
from sweeps.sft import SftConfig, stage_hash
from sweeps.tasks import TaskConfig

__all__ = [
    "BenchmarkConfig", "BudgetConfig", "CheckpointConfig", "EvalConfig", "GrpoConfig", "RunConfig", "TrackingConfig",
    "composed", "conf_dir", "resolve",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class GrpoConfig(Strict):
    """Settings of GRPO; each name says what TRL calls it where the two differ."""

    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo"] = "dapo"
    importance_sampling: Literal["token", "sequence"] = "token"
    """``sequence`` with ``loss: grpo`` is GSPO (arXiv:2507.18071)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    learning_rate: Positive = 1e-6
    lr_schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    group_size: int = Field(default=8, ge=2)
    """Rollouts a prompt (TRL: num_generations)."""
    prompts_per_step: Count = 32
    """Prompts an optimiser step; rollouts a step = prompts_per_step x group_size."""
    micro_batch: int = Field(default=0, ge=0)
    """Rollouts a forward-backward pass; 0 means the whole step at once."""
    steps_per_generation: Count = 1
    """Optimiser steps fed by one round of generation."""
    updates_per_rollout: Count = 1
    """Passes over each rollout, mu (TRL: num_iterations)."""
    epsilon_low: Positive = 0.2
    epsilon_high: Positive = 0.2
    """Upper clip of the ratio, 1 + epsilon_high; for ``loss: cispo`` the absolute cap on the weight (ScaleRL: 5)."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL term to the base model; 0 computes no reference log-probabilities."""
    temperature: Positive = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_completion_length: int = Field(default=0, ge=0)
    """Completions are cut here [token]; 0 means the task's own length."""
    mask_truncated: bool = False
    training_prompts: Count = 4096
    """Distinct prompts drawn from the task; a run that needs more starts a new epoch."""
    max_grad_norm: Positive = 1.0
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    dtype: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """``auto``: bfloat16 autocast on an accelerator that has it, float32 on CPU. ``tf32``: float32, with matrix products in TF32
    on an accelerator."""
    gradient_checkpointing: bool = False
    fp32_head: bool = False
    """Language-model head in float32 (ScaleRL)."""
    generation: Literal["auto", "plain", "continuous_batching", "compiled"] = "auto"
    """``compiled``: a static cache and, on an accelerator, ``torch.compile`` of the decoding step; float32 and tf32 only.
    ``auto``: compiled where that was measured to be quicker (`sweeps.devices.compiled_generation`), else plain."""
    vllm: Literal["off", "colocate", "server"] = "off"
    recipe: RecipeSwitches = Field(default_factory=lambda: RecipeSwitches.model_validate({}))
    """Pieces of published recipes that TRL lacks, each a switch."""

    @model_validator(mode="after")
    def _combination(self) -> GrpoConfig:
        if self.loss == "cispo" and self.epsilon_high < 1:
            raise ValueError(
                f"epsilon_high is CISPO's absolute cap and must be >= 1 (ScaleRL uses 5), got {self.epsilon_high}: "
                "below 1 it scales every gradient down"
            )
        if self.micro_batch and self.rollouts_per_step % self.micro_batch:
            raise ValueError(
                f"micro_batch must divide the {self.rollouts_per_step} rollouts a step, got {self.micro_batch}"
            )
        if self.training_prompts < self.prompts_per_step * self.steps_per_generation:
            raise ValueError(
                f"training_prompts must be at least prompts_per_step x steps_per_generation = "
                f"{self.prompts_per_step * self.steps_per_generation}, got {self.training_prompts}"
            )
        if self.generation not in ("auto", "plain") and self.vllm != "off":
            raise ValueError(
                f"generation={self.generation} is transformers' own and has no effect under vLLM, got vllm={self.vllm}: "
                "set grpo.generation=plain, or grpo.vllm=off"
            )
        if self.generation == "compiled" and self.dtype == "bfloat16":
            raise ValueError(f"{COMPILED_NEEDS_FLOAT32}, got dtype=bfloat16: set grpo.dtype=float32")
        if self.generation == "compiled" and self.recipe.interrupt_after:
            raise ValueError(
                "generation=compiled needs batches of one size, and recipe.interrupt_after generates the second part for "
                f"some of the rollouts only, got {self.recipe.interrupt_after}: set grpo.generation=plain"
            )
        return self

    @property
    def half(self) -> bool:
        """Whether an accelerator computes under bfloat16 autocast (``auto``: where it has it)."""
        return self.dtype in ("auto", "bfloat16")

    @property
    def rollouts_per_step(self) -> int:
        """Rollouts one optimiser step is trained on [1]."""
        return self.prompts_per_step * self.group_size

    @property
    def optimiser_steps_per_generation(self) -> int:
        """Optimiser steps from one generation boundary to the next; checkpoints lie on these [step]."""
        return self.steps_per_generation * self.updates_per_rollout


class BudgetConfig(Strict):
    """When a run stops: whichever comes first, over all segments, at most one step over."""

    steps: Count | None = None
    gpu_hours: Positive | None = None
    flops: Positive | None = None
    """Model FLOPs of generation, scoring and training (``total_flops``) [FLOP]."""
    pretraining_flops_ratio: Positive | None = None
    pretraining_gpu_hours_ratio: Positive | None = None
    """DeepSeek-R1-Zero's RL took 0.0375 of its base's pretraining GPU-hours."""
    convert: Literal["none", "peak"] = "none"
    """``peak``: allow a GPU-hour ratio across accelerators, converted by dense peak and labelled so."""
    default_steps: Count | None = None
    """Steps where none of the limits above is set."""

    @model_validator(mode="before")
    @classmethod
    def _default(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or any(given.get(name) is not None for name in BUDGETS):
            return given
        return {**given, "steps": given.get("default_steps")}

    @model_validator(mode="after")
    def _some(self) -> BudgetConfig:
        if not self.limits():
            raise ValueError(f"at least one of {', '.join(BUDGETS)} must be set")
        return self

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}


BUDGETS = ("steps", "gpu_hours", "flops", "pretraining_flops_ratio", "pretraining_gpu_hours_ratio")


class BenchmarkConfig(Strict):
    """How one benchmark is sampled."""

    k: Count = 1
    """Samples a problem at ``temperature``."""
    temperature: Positive = 1.0
    max_completion_length: int = Field(default=0, ge=0)
    """0 means the task's own length [token]."""
    problems: int = Field(default=0, ge=0)
    """First so many problems only; 0 means all."""
    thin: Count = 1
    """Evaluate at every n-th evaluation point only."""
    greedy: bool = True
    pass_k: tuple[int, ...] | list[int] = ()
    """Which pass@k to report beside pass@1, each at most ``k``."""


class EvalConfig(Strict):
    """When and how a run is evaluated on held-out problems."""

    early: list[int] = [0, 2, 4, 8, 12, 20, 30, 45]
    """Steps evaluated while the curve rises fastest."""
    every: Count = 20
    """Then every so many steps."""
    max_share: float = Field(default=0.25, gt=0, lt=1)
    """Evaluation's share of the run's planned FLOPs; points are thinned to stay below it."""
    batch: Count = 512
    """Completions sampled at once."""
    seed: int = 0
    best_decoding_k: int = Field(default=16, ge=0)
    """Samples a problem for maj@k of the base at step 0; 0 leaves it out."""
    benchmarks: dict[str, BenchmarkConfig] = {}
    """Settings by benchmark name; a benchmark of the task that is not named takes the defaults."""


class CheckpointConfig(Strict):
    """Which checkpoints are written and kept."""

    every: Count = 50
    """Optimiser steps between resumable checkpoints, rounded up to a generation boundary."""
    keep: Count = 2
    """Resumable checkpoints kept."""
    snapshots: Literal["none", "log"] = "none"
    """``log``: weights-only snapshots at log-spaced steps, for evaluation after the fact."""


class TrackingConfig(Strict):
    """The W&B mirror."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "rl-scaling"
    entity: str | None = None
    tags: list[str] = []
    completions: int = Field(default=8, ge=0)
    """Sampled completions shown at each evaluation."""


class RunConfig(Strict):
    """Everything about one run."""

    name: str = ""
    """Shown to people; no part of the identity."""
    sweep: str = "default"
    runs_dir: str = "runs"
    bases_dir: str = "bases"
    seed: int = Field(default=0, ge=0)
    """Seed of reinforcement learning; ``pretrain.seed`` is the base's own."""
    model: ModelConfig
    task: TaskConfig
    pretrain: PretrainConfig
    sft: SftConfig | None = None
    """A supervised stage between pretraining and reinforcement learning."""
    grpo: GrpoConfig
    budget: BudgetConfig
    milestones: list[BudgetConfig] = []
    """Smaller budgets of the same run: each gets an evaluation and a kept checkpoint."""
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _combination(self) -> RunConfig:
        if self.grpo.lr_schedule in ("linear", "cosine") and self.budget.steps is None:
            raise ValueError(
                f"grpo.lr_schedule={self.grpo.lr_schedule} decays to the last step and needs budget.steps; "
                "set it, or use constant"
            )
        if self.grpo.generation == "compiled" and self.cluster.accelerate_config:
            raise ValueError(
                "grpo.generation=compiled needs the whole model on each device, got cluster.accelerate_config="
                f"{self.cluster.accelerate_config} (FSDP or DeepSpeed): set grpo.generation=plain"
            )
        return self

    @property
    def base_hash(self) -> str:
        """Identity of the base model: the pretraining, or the public model's name and revision."""
        base = self._base()
        return base["pretrained_here"] if list(base) == ["pretrained_here"] else _digest(base)

    @property
    def pretraining_hash(self) -> str:
        """Identity of the pretraining alone, whatever supervised stage follows it."""
        base = self._pretraining()
        return base.get("pretrained_here") or _digest(base)

    @property
    def recipe_hash(self) -> str:
        """Identity of the recipe: all that affects the weights less model, seeds and accelerator.

        A learning rate that is the model's own counts as "the size's own rate", so that a ladder is one recipe.
        """
        grpo = self._grpo_identity()
        if grpo["learning_rate"] == self.model.hyperparameters.learning_rate:
            grpo["learning_rate"] = "of the model"
        if grpo["dtype"] == "tf32":  # the larger sizes of a float32 ladder
            grpo["dtype"] = "float32"
        return _digest({"task": self.task.model_dump(), "grpo": grpo})

    @property
    def run_id(self) -> str:
        """Identity of the run: all that affects the weights. Budget, cluster, tracking and evaluation are no part."""
        return _digest(
            {"base": self._base(), "task": self.task.model_dump(), "grpo": self._grpo_identity(), "seed": self.seed}
        )

    @property
    def run_dir(self) -> Path:
        """Directory of the run's records and checkpoints."""
        return Path(self.runs_dir) / self.sweep / self.run_id

    def _base(self) -> dict[str, Any]:
        base = self._pretraining()
        return base if self.sft is None else base | {"sft": stage_hash(self.sft, self.pretraining_hash)}

    def _pretraining(self) -> dict[str, Any]:
        if isinstance(self.model, ScratchModel):
            return {"pretrained_here": base_hash(self.model, self.task, self.pretrain)}
        return {"model": self.model.identity()}

    def _grpo_identity(self) -> dict[str, Any]:
        # how a step is cut to fit into memory does not change its gradient (nor, but for rounding, the weights)
        out = self.grpo.model_dump(exclude={"micro_batch", "gradient_checkpointing"})
        if out["generation"] == "auto":  # depends on the device, and is plain but for rounding
            out["generation"] = "plain"
        if self.grpo.lr_schedule in ("linear", "cosine"):  # the schedule's length shapes the weights
            out["schedule_steps"] = self.budget.steps
        return out


def resolve(composed: Mapping[str, Any]) -> RunConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: one line an error, each naming the key, what was got and what is allowed.
    """
    body = {k: v for k, v in dict(composed).items() if k not in ("hydra", "experiment")}
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e) for e in error.errors())) from error


def composed(overrides: Sequence[str]) -> RunConfig:
    """What ``conf/`` says with these overrides, for commands that Hydra does not run.

    Raises:
        ConfigError: a setting is wrong; Hydra's own errors where a key or an option is not known.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from hydra_plugins.rl_scaling_launcher import register

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        body: Any = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    return resolve(body)


def conf_dir() -> Path:
    """Folder of the YAML groups: ``sweeps/conf`` of an installed wheel, ``conf`` of the checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"conf/config.yaml must lie in {here} or {here.parent}: reinstall rl-scaling")


def _explain(error: Any) -> str:
    loc = error["loc"]
    tagged = len(loc) > 1 and loc[0] in ("model", "task") and loc[1] not in ("kind", "name")
    key = ".".join(str(p) for i, p in enumerate(loc) if not (tagged and i == 1)) or "config"
    got = error.get("input")
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(error["loc"])
        return f"{key}: unknown key" + (f"; allowed here: {', '.join(allowed)}" if allowed else "")
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(got, (dict, Strict)) or error["type"] == "missing" else f", got {got!r}"
    return f"{key}: {message[0].lower() + message[1:]}{shown}"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Field names of the settings class that the last element of ``loc`` was looked up in."""
    found: Any = RunConfig
    for part in loc[:-1]:
        classes = _classes(found)
        tagged = [c for c in classes if isinstance(part, str) and part in _tags(c)]
        if tagged:
            found = tagged[0]
            continue
        named = [c.model_fields[part].annotation for c in classes if part in c.model_fields]
        found = named[0] if named else None
    return sorted({name for c in _classes(found) for name in c.model_fields})


def _tags(settings: type[Strict]) -> set[Any]:
    """Values that tell this class from its siblings in a union: the alternatives of its literal fields."""
    fields = settings.model_fields
    literals = [fields[name].annotation for name in ("kind", "name") if name in fields]
    return {value for annotation in literals for value in getattr(annotation, "__args__", ())}


def _classes(annotation: Any) -> list[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [c for arg in getattr(annotation, "__args__", ()) for c in _classes(arg)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
