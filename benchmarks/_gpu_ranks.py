"""Two trainer ranks on two devices: what they cost, who writes, a rank that dies, weights that are sharded.

Every run goes by the launcher's own path for several processes, ``python -m sweeps.launching.roles CONFIG.json``: torchrun, or
accelerate where FSDP is asked for. `train` takes the place of `sweeps.train.train` in the ranks and watches them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _gpu_common import Results, compose, environment, last_line, table

STEPS = 6
KILL = "RL_SCALING_BENCHMARK_KILL"
FSDP = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: {use_cpu}
fsdp_config:
  fsdp_version: {version}
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
  fsdp_reshard_after_forward: {reshard}
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_offload_params: false
  fsdp_use_orig_params: true
"""


def train(config: Any) -> None:
    """`sweeps.train.train` in one rank, its clock and the files that it opened for writing reported beside the run."""
    import sweeps.train
    from scaling import records
    from sweeps.meter import Meter

    rank, run = os.environ.get("RANK", "0"), str(config.run_dir)
    written: set[str] = set()
    clock: dict[str, float] = {}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(run):
            mode, flags = str(arguments[1] or ""), arguments[2] or 0
            if set("wx+") & set(mode) or (not mode and flags & (os.O_WRONLY | os.O_RDWR)):
                written.add(arguments[0][len(run) + 1 :])

    def write(self: Any, row: Any) -> None:  # a file that is only opened to append is written by no one
        written.add(self.path.name)
        append(self, row)

    sys.addaudithook(audit)
    append, records.Appender.write = records.Appender.write, write
    begin, step_begin, end = Meter.__init__, Meter.on_step_begin, Meter.on_train_end

    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        clock["begin"] = self._start

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_begin(self, args, state, control, **kwargs)
        if os.environ.get(KILL) == f"{rank}:{state.global_step}":
            os.kill(os.getpid(), 9)

    def on_train_end(self: Any, *args: Any, **kwargs: Any) -> None:
        end(self, *args, **kwargs)
        clock["end"] = time.perf_counter()

    Meter.__init__, Meter.on_step_begin, Meter.on_train_end = started, on_step_begin, on_train_end
    sweeps.train.train(config)
    out = Path(f"{run}.rank{rank}.json")
    out.write_text(json.dumps({"wall": clock["end"] - clock["begin"], "written": sorted(written)}), encoding="utf-8")


class Ranks:
    """Runs of one or two ranks on one base."""

    def __init__(self, folder: Path, device: str, tiny: bool) -> None:
        self.folder, self.device = folder, device
        small = [
            "model=scratch_16",
            "pretrain.steps=30",
            "pretrain.batch=64",
            "task.held_out=32",
            "grpo.prompts_per_step=8",
        ]
        large = ["model=scratch_64", "pretrain.steps=200", "task.held_out=256", "grpo.prompts_per_step=64"]
        self.overrides = [
            *(small if tiny else large), "task=chain", "grpo.group_size=4", f"budget.steps={STEPS}", "grpo.training_prompts=512",
            "checkpoint.every=2", "tracking=disabled", "eval.early=[0,2]", "eval.best_decoding_k=4", "grpo.dtype=float32",
            f"bases_dir={folder}/bases", *(["cluster.accelerator=cpu"] if device == "cpu" else []),
        ]  # fmt: skip

    def run(self, name: str, ranks: int, *overrides: str, kill: str = "", check: bool = True) -> Path:
        """Train; the run's folder."""
        config = compose([*self.overrides, f"runs_dir={self.folder}/{name}", f"cluster.devices={ranks}", *overrides])
        path = self.folder / f"{name}.json"
        path.write_text(config.model_dump_json(), encoding="utf-8")
        env = environment(
            self.device,
            RL_SCALING_TRAIN="_gpu_ranks:train",
            ACCELERATE_USE_CPU="true" if self.device == "cpu" else "false",
            **({KILL: kill} if kill else {}),
        )
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env["PYTHONPATH"]])
        module = "sweeps.launching.roles" if ranks > 1 else "sweeps.worker"
        done = subprocess.run(
            [sys.executable, "-m", module, str(path)], capture_output=True, text=True, env=env, timeout=240, check=False
        )
        (self.folder / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if check and done.returncode:
            raise RuntimeError(f"{name}: exit code {done.returncode}: {reason(done.stderr)}", done.stderr[-4000:])
        if kill and not done.returncode:
            raise RuntimeError(f"{name}: the run was to be killed and ended well")
        return Path(config.run_dir)

    def two(self) -> Path:
        """The plain run of two ranks, made once."""
        found = sorted((self.folder / "two").rglob("run.json"))
        return found[0].parent if found else self.run("two", 2)


def reason(stderr: str) -> str:
    """The line that says most: torchrun's own traceback comes last and says little."""
    said = re.findall(r"^(?:\[rank\d\]: ?)?((?:error: |[\w.]*Error: ).*)", stderr, flags=re.MULTILINE)
    said = [line for line in said if "ChildFailedError" not in line]
    return said[0][:400] if said else last_line(stderr)


def measure(*, device: str, tiny: bool, out: Path, seconds: float) -> bool:
    """All checks within ``seconds``; true if all that were made hold."""
    results = Results(out, "ranks", device, tiny=tiny)
    results.keep([c for c in results.before.get("cells", []) if c["holds"]])
    have = {c["check"] for c in results.cells}
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as tmp:
        ranks = Ranks(Path(tmp), device, tiny)
        checks: dict[str, Callable[[Ranks], dict[str, Any]]] = {
            "two ranks, metered": metered, "FLOPs of two ranks and of one": same_flops, "a rank killed, the run resumed": killed,
            "FSDP 2": lambda r: sharded(r, 2),
        }  # fmt: skip
        if device == "cuda":  # the first FSDP runs on accelerators only
            checks["FSDP 1"] = lambda r: sharded(r, 1)
        for name, check in checks.items():
            if name in have:
                continue
            if time.monotonic() > deadline:
                results.add({"check": name, "holds": None, "shows": f"not run: {seconds:g} s were over"})
                continue
            try:
                results.add({"check": name, **check(ranks)})
            except Exception as error:  # one check that cannot run does not take the others along
                shows = f"{type(error).__name__}: {last_line(str(error.args[0] if error.args else error))}"
                results.add({"check": name, "holds": False, "shows": shows, "stderr": list(error.args[1:])})
    print("\n" + table(results.cells, ["check", "holds", "shows"]))
    return all(c["holds"] for c in results.cells if c["holds"] is not None)


def metered(ranks: Ranks) -> dict[str, Any]:
    """GPU-hours are the wall of both; rank 0 alone writes the records; every rollout is counted once."""
    path = ranks.two()
    reports = [json.loads(Path(f"{path}.rank{r}.json").read_text()) for r in (0, 1)]
    steps, gpu_seconds = costs(path)
    wall = reports[0]["wall"]
    foreign = [name for name in reports[1]["written"] if not name.startswith("checkpoints/")]
    rollouts = [int(step["rollouts"]) for step in steps]
    expected = compose(ranks.overrides).grpo.rollouts_per_step
    return {
        "holds": abs(gpu_seconds / (2 * wall) - 1) < 0.01 and not foreign and rollouts == [expected] * STEPS,
        "shows": f"{gpu_seconds:.2f} GPU s over a wall of {wall:.2f} s x 2 ({gpu_seconds / (2 * wall) - 1:+.2%}); rollouts a step {sorted(set(rollouts))} "
        f"of {expected}; files that rank 1 wrote outside checkpoints: {foreign or 'none'}, in them: {len(reports[1]['written']) - len(foreign)}; "
        f"rank 0 wrote {len(reports[0]['written'])}",
        "gpu_seconds": gpu_seconds, "wall": wall, "rank_1_wrote": reports[1]["written"],
    }  # fmt: skip


def same_flops(ranks: Ranks) -> dict[str, Any]:
    """With every completion cut after one token both sample equally many: model FLOPs must agree to the last digit."""
    totals: dict[str, list[float]] = {}
    for length, more in (("one token", ["grpo.max_completion_length=1"]), ("full length", [])):
        for n in (1, 2):
            path = ranks.two() if n == 2 and not more else ranks.run(f"{n}-ranks-{len(more)}", n, *more)
            steps, _ = costs(path)
            flops = sum(step.get(f"{p}_flops", 0.0) for step in steps for p in ("generation", "scoring", "training"))
            totals.setdefault(length, []).extend([flops, sum(step["completion_tokens"] for step in steps)])
    (one, tokens_1, two, tokens_2), full = totals["one token"], totals["full length"]
    ratio = full[2] / full[3] / (full[0] / full[1])
    return {
        "holds": one == two and tokens_1 == tokens_2 and abs(ratio - 1) < 0.05,
        "shows": f"completions of one token: {one:.6e} FLOPs on one rank, {two:.6e} on two ({tokens_1:.0f} and {tokens_2:.0f} tokens); "
        f"full length: {full[0]:.4e} and {full[2]:.4e}, per completion token {ratio - 1:+.2%}",
        "one_token": totals["one token"], "full_length": full,
    }  # fmt: skip


def killed(ranks: Ranks) -> dict[str, Any]:
    """Rank 1 is killed with -9 at the fourth step: the other goes with it, and the same command finishes the run."""
    from scaling.records import read_run

    began = time.monotonic()
    path = ranks.run("killed", 2, kill="1:3", check=False)
    ended = time.monotonic() - began
    ranks.run("killed", 2)
    segments = read_run(path).segments
    causes = [s.get("cause") for s in segments]
    from scaling.runs import load_runs

    row: Any = load_runs(path).runs.iloc[0]
    kept = [int(s) for s in load_runs(path).steps["step"] if s > 0]
    steps = sorted(set(kept))
    return {
        "holds": causes in (["interrupted", "finished"], ["failed", "finished"]) and steps == list(range(1, STEPS + 1)) and segments[1].get("resumed_from") == 2,
        "shows": f"both ranks had left {ended:.0f} s after the start; segments {causes}, resumed from step {segments[1].get('resumed_from')}; "
        f"steps {steps}; paid {row['gpu_hours_paid'] * 3600:.1f} GPU s, of them redone {row['redone_gpu_hours'] * 3600:.1f}",
    }  # fmt: skip


def sharded(ranks: Ranks, version: int) -> dict[str, Any]:
    """A short run whose weights lie in two halves, evaluated whole."""
    config = ranks.folder / f"fsdp{version}.yaml"
    reshard = "true" if version == 2 else "FULL_SHARD"
    config.write_text(
        FSDP.format(version=version, reshard=reshard, use_cpu=str(ranks.device == "cpu").lower()), encoding="utf-8"
    )
    path = ranks.run(f"fsdp{version}", 2, f"cluster.accelerate_config={config}")
    steps, _ = costs(path)
    scores = evaluations(path)
    plain = evaluations(ranks.two())
    rollouts = [int(step["rollouts"]) for step in steps]
    return {
        "holds": rollouts == [compose(ranks.overrides).grpo.rollouts_per_step] * STEPS and abs(scores[0] - plain[0]) < 0.02,
        "shows": f"{STEPS} steps; accuracy of the base {scores[0]:.3f} (unsharded {plain[0]:.3f}), at the end {scores[-1]:.3f} ({plain[-1]:.3f})",
    }  # fmt: skip


def costs(path: Path) -> tuple[list[dict[str, Any]], float]:
    """Cost of every optimiser step, and all GPU seconds of the run."""
    from scaling.records import read_lines

    lines = [row for row, _ in read_lines(path / "steps.jsonl")[0]]
    seconds = sum(v for row in lines for k, v in row["cost"].items() if k.endswith("_gpu_seconds"))
    return [row["cost"] for row in lines if row.get("metrics")], seconds


def evaluations(path: Path) -> list[float]:
    """Sampled held-out accuracy at each evaluation."""
    from scaling.records import read_lines

    rows = [row for row, _ in read_lines(path / "evals.jsonl")[0]]
    return [
        sum(r["successes"]) / (len(r["successes"]) * r["k"]) for r in rows if r["sampling"]["decoding"] == "sampled"
    ]
