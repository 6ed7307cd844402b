"""One run, top to bottom: base model, trainer, meter, evaluation, records. ``python -m sweeps.train --help`` teaches.

The same configuration again continues the run; a larger budget extends it.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from scaling.cost import ComputeCost
from scaling.errors import ConfigError, ScalingError
from scaling.records import RunRecord, read_run
from sweeps.config import RunConfig, conf_dir, resolve
from sweeps.ranks import world_size

__all__ = ["main", "one_line_each", "train", "train_stages"]


def train(config: RunConfig, *, prepared: Callable[[], None] = lambda: None) -> Path:
    """Train one run to its budget in this process, or find that it is there already.

    Args:
        config: the run.
        prepared: called once the base is there and reinforcement learning is about to start.

    Returns:
        The run's directory.

    Raises:
        ConfigError: a setting turns out to be impossible once model and task are known, or memory does not suffice.
        UnknownName: the accelerator is not known and ``cluster.accelerator`` does not name it.
        RecordError: the run directory is held by another process, or cannot be written.
    """
    start = time.perf_counter()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers
    from transformers import PrinterCallback

    from sweeps.budgets import already_reached, planned_run, resolve_limits
    from sweeps.devices import accelerator_name, bf16_autocast, stated_peak
    from sweeps.evaluator import Evaluator
    from sweeps.grpo import build_trainer
    from sweeps.memory import out_of_memory, ran_out
    from sweeps.meter import Meter
    from sweeps.models import ScratchModel, load, shape_of
    from sweeps.progress import Progress
    from sweeps.ranks import is_first
    from sweeps.run_dir import RunDirectory, git_commit, ledger_cost
    from sweeps.stop import requested
    from sweeps.tasks import build
    from sweeps.tasks.preflight import preflight
    from sweeps.tracking import open_tracker

    transformers.utils.logging.disable_progress_bar()
    # transformers warns about TRL's and its own use of an older name; nothing a user of this project could change
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    if not torch.cuda.is_available():
        torch.set_num_threads(config.cluster.threads)
    accelerator = accelerator_name(config.cluster.accelerator)
    task = build(config.task)
    directory = RunDirectory(config.run_dir, main=is_first())
    try:
        # 1. the base model, pretrained here or published; what the device forbids is refused before it is paid for
        bf16_autocast(dtype=config.grpo.dtype, generation=config.grpo.generation)
        stages, where = _before_rl(config, task, directory)
        stage = stages[0]
        # stages before RL have their own accounts; the start-up of the rest is this run's
        started = time.perf_counter() if isinstance(config.model, ScratchModel) or config.sft is not None else start

        # 2. where the run stands: a complete checkpoint, or nothing
        limits = resolve_limits(config.budget, stage, accelerator)
        milestones = tuple(resolve_limits(m, stage, accelerator) for m in config.milestones)
        found = directory.latest_checkpoint()
        before = ledger_cost(found[1]) if found else ComputeCost()
        step = found[1]["step"] if found else 0
        if reached := already_reached(directory.path, limits, step, before):
            print(f"{config.run_dir}: already at its budget ({reached}); nothing to do", flush=True)
            return directory.path

        # 3. model, trainer
        model, tokenizer = load(config.model, task, path=where)
        shape = shape_of(config.model, task)
        rows = task.training_rows(n=config.grpo.training_prompts, seed=config.seed)
        for note in preflight(
            task,
            tokenizer,
            rows=rows,
            max_completion_length=config.grpo.max_completion_length,
            positions=getattr(model.config, "max_position_embeddings", None),
        ):
            if is_first():
                print(note, flush=True)
        trainer = build_trainer(
            config, model=model, tokenizer=tokenizer, task=task,
            rows=rows, output_dir=directory.checkpoints,
            base=where if config.grpo.beta else None, world_size=world_size(),
        )  # fmt: skip

        # 4. records, mirror, meter, evaluation
        record = RunRecord(
            run_id=config.run_id, recipe_hash=config.recipe_hash, base_hash=config.base_hash,
            name=config.name or f"{config.model.name}-s{config.seed}", sweep=config.sweep, config=config.model_dump(),
            model={"name": config.model.name, "params": shape.params, "non_embedding_params": shape.non_embedding_params,
                   "revision": getattr(config.model, "revision", None), "shape": _plain(shape)},
            accelerator=accelerator, devices=config.cluster.devices, shared=config.cluster.shared, stages=tuple(stages),
            provenance={"trainer": "rl-scaling", "accounting": "counted by the meter, step by step"},
            benchmarks={n: {"guess_rate": b.guess_rate, "problems": len(b.prompts)} for n, b in task.benchmarks().items()},
        )  # fmt: skip
        segment = directory.open_segment(record, resumed_from=step if found else None, commit=git_commit(Path.cwd()))
        tracker = open_tracker(
            mode=config.tracking.mode, project=config.tracking.project, entity=config.tracking.entity,
            directory=directory.path, run_id=config.run_id, name=record.name, group=f"{config.recipe_hash}-{config.model.name}",
            tags=[config.model.name, config.task.name, f"grpo={config.grpo.loss}", *config.tracking.tags],
            config={**config.model_dump(), "params": shape.params, "recipe_hash": config.recipe_hash, "base_hash": config.base_hash,
                    "pretraining_flops": stage.get("flops")}, resume=found is not None,
        )  # fmt: skip
        meter = Meter(
            directory=directory.path, segment=segment, devices=config.cluster.devices, limits=limits,
            milestones=tuple(m for m in milestones if not m.reached(step, before)), start=started, before=before,
            pretraining=stage, tracker=tracker, run=directory, updates_per_rollout=config.grpo.updates_per_rollout,
            boundary=config.grpo.optimiser_steps_per_generation, keep=config.checkpoint.keep,
            snapshots=config.checkpoint.snapshots == "log", peak_flops=stated_peak(accelerator),
            stop_requested=requested,
        )  # fmt: skip
        evaluator = Evaluator(
            config=config.eval, task=task, tokenizer=tokenizer, shape=shape, meter=meter, directory=directory.path,
            segment=segment, planned=lambda s, c: planned_run(limits, s, c), shown=config.tracking.completions,
            state=found[1].get("evaluation") if found else None,
        )  # fmt: skip
        meter.bind(trainer, shape)
        trainer.remove_callback(PrinterCallback)
        progress = [Progress(name=record.name, meter=meter, total=limits.steps)] if is_first() else []
        for callback in (meter, evaluator, *progress):
            trainer.add_callback(callback)

        # 5. train; say how it ended
        cause, code = "failed", 1
        try:
            prepared()
            if found:
                meter.restore_prompts(found[0])
            trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
            _end(trainer, directory)
            cause = "interrupted" if meter.stopped == "stop requested" else "finished"
            code = 0
        except KeyboardInterrupt:
            cause, code = "interrupted", 130
            raise
        finally:
            meter.close()
            evaluator.close()
            try:
                directory.close_segment(
                    cause, stopped=meter.stopped, final_step=trainer.state.global_step, final_cost=meter.cost.to_dict()
                )
            finally:  # a full disk ends neither the mirror's last rows nor its process
                tracker.finish(exit_code=code)
        directory.progress("done", trainer.state.global_step, trainer.state.global_step)
        return directory.path
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise out_of_memory(error, config, task, processes=world_size()) from error
    finally:
        directory.release()


def train_stages(config: RunConfig) -> None:
    """Only the stages before reinforcement learning, in this one process: the launcher does it before a run's ranks start."""
    from sweeps.devices import bf16_autocast
    from sweeps.run_dir import RunDirectory
    from sweeps.tasks import build

    bf16_autocast(dtype=config.grpo.dtype, generation=config.grpo.generation)  # refuses what the device forbids
    directory = RunDirectory(config.run_dir)
    try:
        _before_rl(config, build(config.task), directory)
    finally:
        directory.release()


def _before_rl(config: RunConfig, task: Any, directory: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The stages of the base with their cost, and its folder; None is the published model itself."""
    from sweeps.models import ScratchModel, shape_of
    from sweeps.pretrain import pretrain
    from sweeps.sft import STAGE, run_sft, stage_hash

    if config.sft is not None and world_size() > 1:
        folder = Path(config.bases_dir) / stage_hash(config.sft, config.pretraining_hash)
        if not (folder / STAGE).is_file():  # its trainer would wait for ranks that wait for it
            raise ConfigError(
                "sft: must be finished before several ranks start, it is not: launch the run with -m, or run "
                "`python -m sweeps.worker --stages` on its configuration first"
            )
    if isinstance(config.model, ScratchModel):
        directory.progress("pretrain", 0, config.pretrain.steps)
        base = pretrain(
            config.model, task, config.pretrain, config.bases_dir, progress=sys.stderr.isatty(),
            report=lambda done, total: directory.progress("pretrain", done, total),
        )  # fmt: skip
        stages, where = [base.stage()], base.path
    else:
        stages, where = [config.model.stage(shape_of(config.model, task))], None
    if config.sft is not None:
        directory.progress("sft", 0, config.sft.steps)
        tuned = run_sft(
            config.sft, model_config=config.model, task=task, base=where, parent=config.pretraining_hash,
            directory=config.bases_dir, progress=sys.stderr.isatty(),
        )  # fmt: skip
        stages, where = [*stages, tuned.stage()], tuned.path
    return stages, where


def main() -> None:
    """Entry point of ``python -m sweeps.train``: one run, or with ``-m`` a sweep."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us whole; users see one line
    import hydra
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    Plugins.instance()  # Hydra's scan runs its own plugins' modules anew: ours may subclass them only afterwards
    from hydra_plugins.rl_scaling_launcher import register
    from sweeps import stop
    from sweeps.worker import INTERRUPTED

    register()

    known, composing = (ScalingError, HydraException, OmegaConfBaseException), True

    def leave(error: Exception) -> NoReturn:
        sys.exit("\n".join(f"error: {line}" for line in one_line_each(error)))

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def run(composed: DictConfig) -> None:
        nonlocal composing
        composing = False
        try:
            body: Any = OmegaConf.to_container(composed, resolve=True)
            config = resolve(body)
            _one_process(config)
            limits = " or ".join(f"{name}={value:g}" for name, value in config.budget.limits().items())
            print(f"run {config.run_id} -> {config.run_dir}, to {limits}", flush=True)
            train(config, prepared=lambda: stop.install(keyboard=True))  # earlier stages end at once, and continue
            if stop.requested() and read_run(config.run_dir).status == "interrupted":
                print(f"{config.run_dir}: stopped and saved; the same command continues", file=sys.stderr, flush=True)
                sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            print(
                f"{config.run_dir}: interrupted; the same command continues from its last checkpoint", file=sys.stderr
            )
            sys.exit(130)
        except known as error:  # here already: what Hydra sees fail it precedes with a line of its own
            leave(error)

    try:
        run()
    except known as error:
        leave(error)
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # ValueError: of Hydra's log file
        if not composing or not isinstance(cause, OSError):
            raise
        sys.exit(f"error: cannot write {cause.filename}: {cause.strerror}; choose another runs_dir or free space")


def _one_process(config: RunConfig) -> None:
    """Refuse what only the launcher does: without it, a run is this one process on one device.

    Raises:
        ConfigError: another engine, or several devices, are asked for.
    """
    cluster = config.cluster
    if cluster.engine != "local":
        raise ConfigError(
            f"cluster={cluster.engine} needs -m (python -m sweeps.train -m ...): without it the run would be trained in this "
            "process; for that set cluster=local"
        )
    alone = world_size() == 1
    if cluster.devices > 1 and alone and config.grpo.vllm != "server":
        raise ConfigError(
            f"cluster.devices={cluster.devices} needs -m (python -m sweeps.train -m ...): without it a run is one process on one device"
        )


def one_line_each(error: Exception) -> list[str]:
    """One line an error; Hydra's advice to force an unknown key with ``+`` is replaced by what is allowed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("full_key")]
    if isinstance(error, ScalingError):
        return lines
    first = lines[0] if lines else type(error).__name__
    if first.startswith("Ambiguous value"):
        return [f"{first}: a grid needs -m in front (python -m sweeps.train -m ...), a list [brackets]"]
    if first.startswith("Could not override"):
        key = first.split("'")[1]
        try:
            resolve({key.split(".")[0]: {key.split(".")[1]: None}} if "." in key else {key: None})
        except ConfigError as known:
            hints = [line for line in str(known).splitlines() if line.startswith(f"{key}: unknown key")]
            if hints:
                return hints
        return [f"{key}: unknown key; see python -m sweeps.train --help"]
    if "Could not find '" in first and (start := next((i for i, v in enumerate(lines) if "Available options" in v), 0)):
        end = next((i for i, v in enumerate(lines) if v.startswith("Config search path")), len(lines))
        group, _, option = first.split("Could not find '")[1].partition("'")[0].rpartition("/")
        return [f"{group}={option}: no such option; options are {', '.join(lines[start + 1 : end])}"]
    where = next((line.strip() for line in str(error).splitlines() if line.strip().startswith("full_key")), "")
    return [f"{where.partition(':')[2].strip()}: {first}" if where and "nterpolation" in first else first]


def _end(trainer: Any, directory: Any) -> None:
    """Keep the final weights where the last checkpoint is older than them."""
    step = trainer.state.global_step
    if not (directory.checkpoints / f"checkpoint-{step}").is_dir():
        trainer.save_model(str(directory.path / "final"))


def _plain(shape: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: v for k, v in asdict(shape).items() if not (isinstance(v, float) and math.isnan(v))}


if __name__ == "__main__":
    main()
