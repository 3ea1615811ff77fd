"""Learning from data, ours against d3rlpy: gradient steps a second, peak memory, and the return that is reached.

    python benchmarks/offline.py speed                             # alternately on one core
    python benchmarks/offline.py returns --cores 0 1               # a run on each core at a time; hours
    python benchmarks/offline.py returns --tier hopper-medium --steps 5000 --hidden 128
    python benchmarks/offline.py --show                            # the tables of all that was run

Both sides take the same columns of the same files, batches of 256, two hidden layers with ReLU, Adam with steps
of 3e-4, gamma 0.99 and, if it has any, two Q functions with tau 0.005; each algorithm has its published settings
(`offline_sides.py`, which lists the differences that remain). These are not all d3rlpy's defaults: its BC takes steps
of 1e-3, its AWAC batches of 1024, BC and CRR of 100, and its CRR one Q function with a hard target. Rewards and
observations are not scaled; actions are in units of half their range on both sides. One thread.

d3rlpy has a virtual environment of its own in the cache folder, created if there is none. It only learns there: each
side writes its policy's mode to a file, after a check against its own actions, and one evaluator runs them all.
A benchmark that was stopped continues: rows that are in the results are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import (
    CACHE,
    ROOT,
    Row,
    bind,
    describe_machine,
    groups,
    make_parser,
    make_venv,
    print_machine,
    print_table,
    ratios,
    read_results,
    run_on_cores,
    run_worker,
    spread,
    start,
    write_results,
)
from offline_sides import ENVIRONMENTS, SETTINGS, evaluate, train

D3RLPY = ("torch==2.13.0", "d3rlpy==2.8.1")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PJRT_NPROC": "1"}
BUNDLED = ROOT / "src" / "rlox" / "data" / "bundled"
SIDES = ("ours", "theirs")
WARM_UP = 100
TIERS = [f"{name}-{tier}" for name in ENVIRONMENTS for tier in ("random", "medium", "medium-replay", "expert")]
DEFAULTS = {"speed": (["hopper-medium"], 2_000), "returns": (TIERS, 10_000)}
"""Files, and gradient steps."""


def worker(action: str, cores: list[int] | None, **task: Any) -> Row:
    """Run in the child process."""
    bind(cores)
    return {"train": train, "evaluate": evaluate}[action](**task)


def measure(kind: str, args: argparse.Namespace) -> None:
    """Run what is not in the results yet, and write each row when it is finished."""
    tiers, steps = DEFAULTS[kind]
    steps = args.steps or steps
    files = args.data or [BUNDLED / f"{tier}.npz" for tier in args.tier or tiers]
    for file in files:
        if not file.exists() or file.name.partition("-")[0] not in ENVIRONMENTS:
            raise SystemExit(f"{file} must exist, with a name that begins with {'- or '.join(ENVIRONMENTS)}-.")
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ONE_THREAD
    python = make_venv(args.venv, *D3RLPY)
    sides: dict[str, dict[str, Any]] = {
        "ours": {"env": {**os.environ, **ONE_THREAD}},
        "theirs": {"python": python, "env": others},
    }
    cores = args.cores[:1] if kind == "speed" else args.cores

    def run(task: Row, core: int) -> Row:
        with tempfile.TemporaryDirectory() as folder:
            policy = str(Path(folder) / "policy.npz") if kind == "returns" else None
            whole = {**task, "policy": policy, "warm_up": 0 if policy else WARM_UP}
            row = run_worker(__file__, **sides[task["side"]], action="train", **whole, cores=[core])
            if policy:
                where = {"env": sides["ours"]["env"], "data": task["data"], "policy": policy}
                row = {**run_worker(__file__, action="evaluate", **where, cores=[core]), **row}
            return row

    results = args.results / f"offline_{kind}.json"
    rows: list[Row] = read_results(results)["rows"] if results.exists() else []
    finished = {identity(row) for row in rows}
    tasks = [task for task in wanted(files, steps, args) if identity(task) not in finished]
    settings = {"theirs": D3RLPY, "algorithms": SETTINGS, "warm_up": WARM_UP, "cores": cores}
    machine = describe_machine()
    for row in run_on_cores(cores, tasks, run):
        rows.append(row)
        write_results(results, machine, settings, rows)
    print_machine(machine)


def wanted(files: list[Path], steps: int, args: argparse.Namespace) -> Iterator[Row]:
    """Yield the runs, both sides alternately, every file before the next seed."""
    shared = {"steps": steps, "hidden": args.hidden}
    for seed, file, algorithm, side in itertools.product(args.seeds, files, args.algorithms, SIDES):
        yield {"side": side, "algorithm": algorithm, "data": str(file), **shared, "seed": seed}


def identity(row: Row) -> tuple[Any, ...]:
    """Return what tells a run, or its row, from the others."""
    return Path(row["data"]).stem, *(row[key] for key in ("steps", "hidden", "algorithm", "side", "seed"))


def show(results: Path) -> None:
    """Print everything that was run."""
    speed, returns = (
        grouped(read_results(file)["rows"]) if (file := results / f"offline_{kind}.json").exists() else {}
        for kind in DEFAULTS
    )
    # A run that was stopped may lack the other side of its last pair.
    paired = [(key, pairs(group)) for key, group in speed.items() if pairs(group)]
    numbers = ["ours, steps / s", "theirs, steps / s", "ours / theirs", "by processor time", "ours, MiB", "theirs, MiB"]
    if paired:
        lines = [[data, hidden, algorithm, *speed_cells(own)] for (data, _, hidden, algorithm), own in paired]
        print_table(["data", "hidden", "algorithm", *numbers], lines)
    lines = []
    for (data, steps, hidden, algorithm), group in returns.items():
        cells = [each_return(group, side) for side in SIDES]
        lines.append([data, hidden, algorithm, f"{steps:,}", *cells, f"{group[0]['data_return']:.0f}"])
    if lines:
        header = ["data", "hidden", "algorithm", "steps", "ours (each seed)", "theirs (each seed)", "the data"]
        print_table(header, lines)
    for data, steps, hidden in dict.fromkeys(key[:3] for key in returns if key[0].endswith("medium-replay")):
        own = {key[3]: group for key, group in returns.items() if key[:3] == (data, steps, hidden)}
        print(f"{data}, {steps:,} steps: {'; '.join(over_bc(own, side) for side in SIDES)}")


Key = tuple[str, int, int, str]
"""Data, steps, width of the hidden layers, and algorithm."""


def grouped(rows: list[Row]) -> dict[Key, list[Row]]:
    """Return the rows of each algorithm on each data, in the order of data, steps and algorithms."""

    def place(item: tuple[Any, list[Row]]) -> tuple[Any, ...]:
        data, steps, hidden, algorithm = item[0]
        return TIERS.index(data) if data in TIERS else len(TIERS), data, steps, hidden, [*SETTINGS].index(algorithm)

    found: dict[Any, list[Row]] = groups(rows, "data", "steps", "hidden", "algorithm")
    return dict(sorted(found.items(), key=place))


def pairs(group: list[Row]) -> list[tuple[Row, Row]]:
    """Return the rows of both sides, seed by seed."""
    ours, theirs = ({row["seed"]: row for row in group if row["side"] == side} for side in SIDES)
    return [(row, theirs[seed]) for seed, row in ours.items() if seed in theirs]


def speed_cells(paired: list[tuple[Row, Row]]) -> list[str]:
    """Return steps a second on both sides, their ratios, and peak memory."""
    rate, cpu, peak = (
        [[row[key] for row in side] for side in zip(*paired, strict=True)]
        for key in ("steps_per_second", "steps_per_cpu_second", "peak_mib")
    )
    return [*(spread(side, 0) for side in rate), ratios(*rate), ratios(*cpu), *(spread(side, 0) for side in peak)]


def side_returns(group: list[Row], side: str) -> list[float]:
    """Return a side's returns in the order of seeds."""
    return [row["return"] for row in sorted(group, key=lambda row: row["seed"]) if row["side"] == side]


def each_return(group: list[Row], side: str) -> str:
    """Return the mean and each seed's return."""
    found = side_returns(group, side)
    return f"{statistics.mean(found):.0f} ({', '.join(f'{x:.0f}' for x in found)})" if found else ""


def over_bc(algorithms: Mapping[str, list[Row]], side: str) -> str:
    """Return the best algorithm of a side, and how far it is above that side's behaviour cloning."""
    found = {name: statistics.mean(own) for name, group in algorithms.items() if (own := side_returns(group, side))}
    if "bc" not in found:
        return f"{side} lacks bc"
    best = max(found, key=lambda name: found[name])
    return f"{side}, best {best} {found[best]:.0f}, {found[best] - found['bc']:+.0f} over bc"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("kind", nargs="?", choices=list(DEFAULTS), help="what to measure; both by default")
    parser.add_argument("--data", type=Path, nargs="+", help="files, named as the tiers are: hopper-mine.npz")
    parser.add_argument("--tier", nargs="+", choices=TIERS, help="bundled ones; speed hopper-medium, returns all")
    names = list(SETTINGS)
    parser.add_argument("--algorithms", nargs="+", choices=names, default=names, help="all by default")
    parser.add_argument("--steps", type=int, help="gradient steps (speed 2000, returns 10000)")
    parser.add_argument("--hidden", type=int, default=256, help="width of both hidden layers (256)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds, of speed the turns (0 1 2)")
    usable, use = sorted(os.sched_getaffinity(0)), "cores to use, a run on each at a time, speed on the first"
    parser.add_argument("--cores", type=int, nargs="+", default=usable, help=f"{use}; all by default")
    parser.add_argument("--venv", type=Path, default=CACHE / "d3rlpy", help="virtual environment of the other side")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        for kind in [args.kind] if args.kind else DEFAULTS:
            measure(kind, args)
    show(args.results)


if __name__ == "__main__":
    start(main, worker)
