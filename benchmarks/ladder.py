"""The ladder study: model sizes crossed with pretraining budgets, several seeds, GRPO and its controls from the same bases.

    python benchmarks/ladder.py run --plan cpu --work runs/ladder --workers 2 --seconds 450   # again and again until done
    python benchmarks/ladder.py status --plan cpu --work runs/ladder
    python benchmarks/ladder.py collect --plan cpu --work runs/ladder --out scaling/data/ladder
    python benchmarks/ladder.py forecast --data docs/results/gpu_ladder --out docs/results/gpu_ladder/forecast.json

A job is one base (kind, model, pretraining budget, seed) and everything that starts from it: GRPO, GRPO with a random reward,
continued pretraining and SFT on the base's own verified samples, each with the FLOPs that GRPO took (sampling included).
GRPO runs go through `sweeps.train` and leave its records; every arm ends with a line in WORK/arms.jsonl. Jobs come in the
order of the plan's pieces, seed by seed, so that a study cut short is balanced. A job that has its lines is skipped, as is
one that another `run` on the same WORK is at: one `run` a GPU (``--gpu``) may share a folder.

`collect` packs the records of all runs and the lines of all arms into three parquet tables and one CSV; `page` writes them up.
The plan `beyond` is run in two parts: `run --until 160`, `collect` and `forecast`, which writes what the curves so far say about
ten times their compute and is committed; then `run`, which goes on with the same runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _ladder_collect import arm_lines, collect
from _ladder_plans import PLANS, WINDOW, Job

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NAMES = {"t1": "sampled", "greedy": "greedy", "forced": "forced_trace", "maj16": "maj@16", "pass16": "pass@16",
         "length": "completion_length", "best": "best_decoding"}  # fmt: skip
RATE_FACTORS = {"continued": (1.0, 4.0), "rejection": (4.0,)}  # of GRPO's rate; the better one counts


def overrides(job: Job, work: Path) -> list[str]:
    """The run of a job, as anyone would launch it."""
    return [
        f"model={job.model}", f"task={job.task}", f"grpo={job.recipe}", f"sweep={job.piece}", f"runs_dir={work / 'runs'}", f"bases_dir={work / 'bases'}",
        f"name={job.key}", f"seed={job.seed}", f"pretrain.seed={job.seed}", f"pretrain.steps={job.pretrain_steps}",
        f"pretrain.batch={job.batch}", f"budget.steps={job.rl_steps}", f"grpo.training_prompts={job.rl_steps * job.prompts}",
        f"grpo.prompts_per_step={job.prompts}", f"grpo.group_size={job.group_size}", "eval.max_share=0.5",
        f"eval.every={job.eval_every}", "+eval.benchmarks.held_out={k: 2, greedy: false}", "eval.batch=4096",
        f"checkpoint.every={min(job.rl_steps, 200)}", "tracking.mode=disabled", "cluster.shared=true",
        *([] if job.dtype is None else [f"grpo.dtype={job.dtype}"]),
        *([] if job.slip_rate is None else [f"task.slip_rate={job.slip_rate}"]),
        *([f"eval.early={list(job.eval_early)}"] if job.eval_early else []),
    ]  # fmt: skip


def configured(job: Job, work: Path, *more: str) -> Any:
    """The configuration of a job's run; its rate is the model's own times the job's factor."""
    from sweeps.config import composed

    config = composed([*overrides(job, work), *more])
    if job.rate_factor == 1:
        return config
    return composed([*overrides(job, work), *more, f"grpo.learning_rate={job.rate_factor * config.grpo.learning_rate}"])


def measure(path: str | Path, config: Any, task: Any) -> dict[str, float]:
    """Held-out accuracy of a model under each decoding, by the names of the bundled study."""
    import torch
    from admission import evaluate

    from sweeps.models import load, shape_of

    model, tokenizer = load(config.model, task, path=str(path))
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    found = evaluate(model, tokenizer, task, shape_of(config.model, task))
    del model
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()  # other runs share the device
    return {NAMES[key]: value for key, value in found.items()}


def do(job: Job, work: Path, until: int = 0) -> str:
    """All arms of one job that have no line yet; another process may be at it, then nothing.

    With ``until``: GRPO to that step only, to be gone on with.
    """
    from filelock import FileLock, Timeout

    (work / "locks").mkdir(exist_ok=True)
    try:
        with FileLock(work / "locks" / job.key, timeout=0):
            _do(job, work, until)
    except Timeout:
        return "left to another process"
    return "done"


def _do(job: Job, work: Path, until: int) -> None:
    import logging
    import warnings

    import torch
    import transformers
    from admission import rejection_settings

    from scaling.errors import ConfigError
    from scaling.runs import load_runs
    from sweeps.devices import set_products
    from sweeps.pretrain import pretrain
    from sweeps.sft import SftConfig, run_sft
    from sweeps.tasks import build
    from sweeps.train import train

    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    done = {row["arm"]: row for row in arm_lines(work / "arms.jsonl") if row["key"] == job.key}
    config = configured(job, work)
    set_products(config.grpo.dtype)  # of pretraining and the supervised arms, too
    task = build(config.task)
    base = pretrain(config.model, task, config.pretrain, config.bases_dir, progress=False)
    common = {
        **asdict(job), "key": job.key, "parameters": base.parameters, "pretraining_tokens": base.tokens,
        "pretraining_flops": base.flops, "pretraining_loss": base.held_out_loss, "validation_loss": base.validation_loss,
        "guess_rate": task.guess_rate, "answer_space": task.answer_space, "accelerator": base.accelerator,
    }  # fmt: skip
    for name in ("arms", "dtype", "base_between"):
        common.pop(name)

    def line(arm: str, **facts: Any) -> None:
        row = {**common, "arm": arm, **facts}
        done[arm] = row
        with (work / "arms.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    if "base" not in done:
        line("base", flops=0.0, **measure(base.path, config, task))
    if outside(job, done["base"]):
        return
    if until and until < job.rl_steps:
        train(configured(job, work, f"budget.steps={until}"))
        return
    for arm, extra in (("grpo", ()), ("random_reward", ("task.reward=random",))):
        if arm not in job.arms or arm in done:
            continue
        run = configured(job, work, *extra)
        path = train(run)
        flops = float(load_runs(path).steps.eval("generation_flops + scoring_flops + training_flops").sum())
        weights = path / "checkpoints" / f"checkpoint-{job.rl_steps}"
        line(arm, run_id=run.run_id, flops=flops, rate=run.grpo.learning_rate, **measure(weights, config, task))
        shutil.rmtree(path / "checkpoints")
    for arm in ("continued", "rejection"):
        if arm not in job.arms or arm in done:
            continue
        budget = done["grpo"]["flops"]
        width = task.prompt_width + done["base"]["completion_length"]
        more: dict[str, Any] = (
            rejection_settings(budget, params=base.parameters, tokens=width) if arm == "rejection" else {}
        )
        tried, refused = [], ""
        for factor in RATE_FACTORS[arm]:
            sft = SftConfig(kind=arm, flops=budget, batch=256, learning_rate=factor * config.grpo.learning_rate,
                            seed=job.seed, **more)  # fmt: skip
            try:
                record = run_sft(sft, model_config=config.model, task=task, base=base.path, parent=base.base_hash,
                                 directory=work / "bases", progress=False)  # fmt: skip
            except ConfigError as error:  # a base that solves nothing leaves no text to train on
                refused = str(error)
                continue
            tried.append({"flops": record.flops, "rate": sft.learning_rate, **measure(record.path, config, task)})
            shutil.rmtree(record.path)
        line(arm, **(max(tried, key=lambda row: row["sampled"]) if tried else {"refused": refused}))


def outside(job: Job, base: dict[str, Any] | None) -> bool:
    """Whether a job ends with its base, which samples outside the range that its arms start from."""
    low, high = job.base_between
    return base is not None and not low <= base["sampled"] <= high


def left_to_do(job: Job, have: dict[tuple[str, str], dict[str, Any]]) -> int:
    """Arms that have no line yet and are to get one; ``have``: the lines by key and arm."""
    if outside(job, have.get((job.key, "base"))):
        return 0
    return sum((job.key, arm) not in have for arm in job.arms)


def run(args: argparse.Namespace) -> None:
    """Jobs that are not done, ``--workers`` at a time; none is begun after ``--seconds``."""
    from tqdm import tqdm

    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")  # by default every run starts one for each core
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(args.gpu)
    work = Path(args.work[0]).absolute()
    work.mkdir(parents=True, exist_ok=True)
    have = {(row["key"], row["arm"]): row for row in arm_lines(work / "arms.jsonl")}
    every = list(PLANS[args.plan]())[args.start :: args.stride]
    jobs = [j for j in every if re.search(args.only, f"{j.piece}:{j.key}") and left_to_do(j, have)]
    began = time.monotonic()
    deadline, waiting = began + args.seconds, iter(jobs)
    left = len(jobs)
    print(f"{len(every) - left} of {len(every)} jobs done, {left} to do", flush=True)
    with (
        ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=left, desc="jobs", mininterval=5) as bar,
    ):
        pending = {pool.submit(do, j, work, args.until): j for _, j in zip(range(args.workers), waiting)}
        while pending:
            future = next(as_completed(pending))
            job = pending.pop(future)
            error = future.exception()
            bar.update()
            said = f"failed: {type(error).__name__}: {error}" if error is not None else future.result()
            tqdm.write(f"{time.monotonic() - began:5.0f} s {job.key}: {said}")
            following = next(waiting, None) if time.monotonic() < deadline else None
            if following is not None:
                pending[pool.submit(do, following, work, args.until)] = following


def status(args: argparse.Namespace) -> None:
    """How many arms of each piece have their line."""
    have = {(row["key"], row["arm"]): row for work in args.work for row in arm_lines(Path(work) / "arms.jsonl")}
    pieces: dict[str, list[int]] = {}
    for job in PLANS[args.plan]():
        counts = pieces.setdefault(job.piece, [0, 0, 0])
        if outside(job, have.get((job.key, "base"))):
            counts[2] += 1
            continue
        counts[0] += len(job.arms) - left_to_do(job, have)
        counts[1] += len(job.arms)
    for piece, (some, of, not_from) in pieces.items():
        print(f"{piece}: {some} of {of} arms" + (f"; {not_from} bases that no arm starts from" if not_from else ""))


def _collect(args: argparse.Namespace) -> None:
    """Records of all finished runs and lines of all arms, as small files; WORK may be a folder collected before."""
    collect({job.key for job in PLANS[args.plan]()}, list(map(Path, args.work)), Path(args.out))


def forecast(args: argparse.Namespace) -> None:
    """What the first part of the runs of the plan `beyond` says about ten times its compute; commit it before they go on."""
    from _ladder_beyond import forecasts, read

    table = read(args.data)
    names = sorted(table.runs.loc[table.runs["sweep"] == "beyond", "name"])
    made = forecasts(table, names, {f"{WINDOW} steps": WINDOW}, together=True)
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(args.out)


def write_page(args: argparse.Namespace) -> None:
    """The page of a collected study, with its figures."""
    from _ladder_page import page

    titles = {
        "cpu": "A ladder of small models, with controls",
        "gpu": "A ladder on a GPU: longer chains",
        "beyond": "Ten times the compute, forecast before it was run",
        "large": "A harder ladder on a GPU, to ten million parameters",
        "recipes": "Does each recipe learn?",
        "trial": "A trial of the ladder",
    }
    out = Path(args.out)
    notes = Path(args.notes).read_text() if args.notes else ""
    commands = [f"python benchmarks/ladder.py run --plan {args.plan} --workers 2 --seconds 450   # in parts, until done",
                f"python benchmarks/ladder.py collect --plan {args.plan} --out {args.data}",
                f"python benchmarks/ladder.py page --plan {args.plan} --data {args.data} --out {args.out}"
                + (f" --notes {args.notes}" if args.notes else "")]  # fmt: skip
    if args.plan == "beyond":
        first = [f"python benchmarks/ladder.py run --plan beyond --workers 4 --seconds 5 --until {WINDOW}", commands[1],
                 f"python benchmarks/ladder.py forecast --data {args.data} --out {Path(args.data) / 'forecast.json'}   # committed then"]  # fmt: skip
        commands = [*first, *commands]
    out.write_text(
        page(Path(args.data), out.parent.parent / "figures", title=titles[args.plan], commands=commands, notes=notes)
    )
    print(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("run", run), ("status", status), ("collect", _collect), ("page", write_page)):
        sub = commands.add_parser(name, help=function.__doc__)
        sub.set_defaults(function=function)
        sub.add_argument("--plan", choices=PLANS, default="cpu")
        several = "; several are merged, the first wins" if name in ("collect", "status") else ""
        sub.add_argument("--work", action="append", help=f"records, bases and arms.jsonl (runs/ladder){several}")
        if name == "run":
            sub.add_argument("--workers", type=int, default=1, help="processes, one thread each")
            sub.add_argument("--seconds", type=float, default=450.0, help="begin no job after so long")
            sub.add_argument("--only", default="", help="only jobs whose piece:key has this pattern")
            sub.add_argument("--gpu", type=int, help="this GPU alone")
            sub.add_argument(
                "--until",
                type=int,
                default=0,
                metavar="STEP",
                help="GRPO to this step only; without it the same runs go on",
            )
            sub.add_argument("--start", type=int, default=0, help="with --stride: every so many-th job, from this one")
            sub.add_argument("--stride", type=int, default=1, help="to spread a plan over machines")
        if name in ("collect", "page"):
            sub.add_argument("--out", required=True)
        if name == "page":
            sub.add_argument("--data", required=True, help="folder that `collect` wrote")
            sub.add_argument("--notes", help="Markdown to print below the title")
    sub = commands.add_parser("forecast", help=forecast.__doc__)
    sub.set_defaults(function=forecast)
    sub.add_argument("--data", type=Path, required=True, help="folder that `collect` wrote, of the first part")
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if hasattr(args, "work"):
        args.work = args.work or ["runs/ladder"]
    args.function(args)


if __name__ == "__main__":
    main()
