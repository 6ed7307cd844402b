"""The tables by which the constants of the default mixture were chosen (docs/which-law.md), in one command.

    python benchmarks/choices.py --workers 16 --out build/choices                  # all tables, 100 studies a design
    python benchmarks/choices.py --workers 16 --out build/choices --seconds 600    # as far as ten minutes go; again to go on
    python benchmarks/choices.py --print --out build/choices                       # the page of what is there

Tables (``--table``):
  odds    prior odds of the Weibull, the power and the log-linear law: all 240 designs of coverage.py
  lambda  LAMBDA, tempered evidence, equal weights: the 124 designs of coverage.py whose truths are Sigmoid, Power, LogLinear
  onset   odds of the onset: windows that end at C_mid / 2, and the designs with Weibull truths
  noise   the density of the noise's lag-1 autocorrelation: all 240 designs
  drift   the probability of a drift about the law: all 240 designs
Every setting is also tried on curves of no law here, two draws of sums of sigmoids and one of sums of exponentials: 200 curves each at
100 studies, whose ends are forecast from 25 % and 50 % of the window (what is drawn: `_choices_designs.Sums`, with its seeds).

All settings see the same curves, so that differences between them are far more precise than the coverages. Studies are done ten at a
time, each ten for all designs and settings before the next: a command cut short has all rows at fewer studies. Finished chunks are in
OUT/choices.jsonl and are not done again. All tables at 100 studies are about six hours of one core.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

import coverage  # first: it sets one thread a process, before numpy is loaded
from _choices_designs import DESIGNS, PROFILE, Design, Job, each, work
from _choices_page import page
from _choices_settings import SETTINGS, Setting
from _choices_store import NAME, Results, append, read
from coverage import Cell
from tqdm import tqdm

CHUNK = 10  # studies


def jobs(results: Results, tables: list[str], *, studies: int, draws: int, only: str, every: int) -> Iterator[Job]:
    """What is still to do: of each ten studies all designs, of each design all settings."""
    settings: dict[Design, list[Setting]] = {}
    for table in tables:
        for design in DESIGNS[table]:
            mine = settings.setdefault(design, [])
            mine += [s for s in SETTINGS[table].values() if s not in mine]
    chosen = [d for d in settings if only in d.key][::every]
    have = {(key, d.key): results.have(key, d.key) for d in chosen for key in (*(s.key for s in settings[d]), PROFILE)}
    for begin in range(0, studies, CHUNK):
        for design in chosen:
            indices = range(begin * each(design), min(begin + CHUNK, studies) * each(design))
            wanted: list[tuple[Setting | str, list[int]]] = []
            for setting in settings[design]:
                wanted.append((setting, [i for i in indices if i not in have[setting.key, design.key]]))
            if isinstance(design, Cell) and design.part == "intervals":
                known = have[PROFILE, design.key]
                wanted.append((PROFILE, [i for i in indices if i < coverage.PROFILES and i not in known]))
            wanted = [(setting, missing) for setting, missing in wanted if missing]
            if wanted:
                yield design, wanted, draws


def run(todo: list[Job], folder: Path, *, workers: int, seconds: float) -> None:
    """Do the jobs and append their lines; after so many seconds none is begun."""
    start = time.monotonic()
    often = 0.5 if sys.stderr.isatty() else 15.0  # s; a log is no screen
    bar = tqdm(total=sum(len(wanted) for _, wanted, _ in todo), unit="chunk", smoothing=0.02, mininterval=often)

    def keep(lines: list[dict]) -> None:
        append(folder, lines)
        bar.update(len(lines))

    if workers == 1:
        for job in todo:
            if time.monotonic() - start > seconds:
                break
            keep(work(job))
    else:
        waiting: set[Future[list[dict]]] = set()
        left = iter(todo)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            try:
                while True:
                    # few wait in the queue, or these would still be done when time is up
                    while len(waiting) < workers + 2 and time.monotonic() - start <= seconds:
                        job = next(left, None)
                        if job is None:
                            break
                        waiting.add(pool.submit(work, job))
                    if not waiting:
                        break
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        keep(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    bar.close()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="all", choices=(*SETTINGS, "all"), help="the table (default: all)")
    parser.add_argument("--studies", type=int, default=100, help="studies a design (default: 100)")
    parser.add_argument("--draws", type=int, default=300, help="draws a fit (default: 300)")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, required=True, help=f"folder of {NAME}; what is in it is not done again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no chunk after so long [s]")
    parser.add_argument("--only", default="", help="only designs whose key contains this")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th design, for a quick look")
    parser.add_argument("--commit", default="", help="for the page, where git does not say (default: it is asked)")
    parser.add_argument("--print", action="store_true", help="write the Markdown page of what is there, and stop")
    args = parser.parse_args(argv)
    tables = list(SETTINGS) if args.table == "all" else [args.table]
    results = read(args.out)
    if results.broken:
        print(f"{args.out / NAME}: {results.broken} line(s) cut off by an earlier end, done again", file=sys.stderr)
    if args.print:
        if not results.chunks:
            raise SystemExit(f"{args.out / NAME} has no results: give the command without --print first")
        print(page(results, tables, only=args.only))
        return
    others = {s["draws"] for s in results.sessions} - {args.draws}
    if others:
        raise SystemExit(
            f"{args.out / NAME} was made with --draws {others.pop()}, got {args.draws}: name another folder"
        )
    todo = list(jobs(results, tables, studies=args.studies, draws=args.draws, only=args.only, every=args.every))
    if not todo:
        print(f"all there: {args.out / NAME}", file=sys.stderr)
        return
    session = {
        "command": shlex.join(["python", "benchmarks/choices.py", *(sys.argv[1:] if argv is None else argv)]),
        "commit": args.commit or _commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "draws": args.draws, "workers": args.workers,
    }  # fmt: skip
    append(args.out, [{"session": session}])
    run(todo, args.out, workers=args.workers, seconds=args.seconds)


def _end_with_parent() -> None:
    """Of a worker: a command that is killed leaves none behind."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=Path(__file__).parent, capture_output=True, text=True
    )  # fmt: skip
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"


if __name__ == "__main__":
    main()
