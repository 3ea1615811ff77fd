"""What the benchmarks share: fresh processes with their time and peak memory, files of rows, tables.

A script gives `run` its tasks. Each runs in a process of its own, which prints its row as the last line of its output,
in JSON. Linux only. `taskset -c 0 python benchmarks/NAME.py` keeps all of it on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CACHE = Path.home() / ".cache" / "rlox-benchmarks"
ONE_THREAD = dict.fromkeys(("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Row = dict[str, Any]


def write_rows(path: Path, rows: list[Row], machine: Row) -> None:
    """Write raw rows, with the machine that they come from."""
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1, allow_nan=False) + "\n")


def parse(parser: argparse.ArgumentParser, file: Path) -> argparse.Namespace:
    """Return the arguments of a script, with ``--show``, for which its results have to be there.

    Raises:
        SystemExit: they are not.
    """
    parser.add_argument("--show", action="store_true", help=f"only print what is in {file.relative_to(ROOT)}")
    args = parser.parse_args()
    if args.show and not file.exists():
        raise SystemExit(f"'{file.relative_to(ROOT)}' is not there: measure first, without --show.")
    return args


def run(
    doc: str | None,
    worker: Callable[..., Row],
    tasks: Callable[[], Iterable[Row]],
    show: Callable[[list[Row]], None],
    *,
    turns: int = 1,
    where: Callable[[Row], Mapping[str, Any]] = lambda task: {},
    write: Callable[[Path, list[Row], Row], object] = write_rows,
) -> None:
    """Run a script: every task in a fresh process, turn after turn; write the rows after each, and print them.

    As the child that was started for a task, print the row of the worker, which takes the task by keyword. ``where``
    returns the ``python`` and the ``env`` of a task's process, if they are not ours.
    """
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(worker(**json.loads(sys.argv[2]))))
        return
    script = Path(sys.argv[0])
    file = RESULTS / f"{script.stem}.json"
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=turns, help=f"how often each is measured ({turns})")
    args = parse(parser, file)
    if args.show:
        found = json.loads(file.read_text())
        show(found.get("rows", []))
        print(json.dumps(found["machine"]))
        return
    from rlox.runs.machine import describe_machine

    # Before the first task: a commit that is made meanwhile is not what was measured.
    machine = describe_machine()
    rows: list[Row] = []
    for turn in range(args.turns):
        for task in tasks():
            rows.append({"turn": turn, **task, **run_worker(str(script), **where(task), **task)})
            write(file, rows, machine)
    show(rows)


def run_process(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> tuple[str, float, float]:
    """Run a command to its end; returns its output, its seconds and its peak memory in MiB.

    Raises:
        SystemExit: it failed.
    """
    # The kernel starts a child's peak at its parent's resident memory: import what is heavy in children only.
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} from: {shlex.join(command)}\n{output}")
    return output, seconds, usage.ru_maxrss / 2**10


def run_worker(
    script: str, *, python: str | Path = sys.executable, env: Mapping[str, str] | None = None, **task: Any
) -> Row:
    """Return the row of a task of a script, run in a fresh process, with its whole time and peak memory."""
    output, seconds, peak = run_process([str(python), script, "worker", json.dumps(task)], env=env)
    told = ", ".join(f"{name}={value}" for name, value in task.items())
    log(f"{Path(script).name}: {told} ({seconds:.1f} s, {peak:.0f} MiB)")
    return {**json.loads(output.splitlines()[-1]), "process_seconds": seconds, "peak_mib": peak}


def other_python(*requirements: str) -> Path:
    """Return the Python of a virtual environment in the cache folder with the requirements, made if it is missing.

    They are installed one after another, so that the versions of the first ones are kept.
    """
    folder = CACHE / "-".join(requirements)
    ready, python = folder / "ready", folder / "bin" / "python"
    if not ready.exists():
        log("making the virtual environment", folder)
        run_process([sys.executable, "-m", "venv", "--clear", str(folder)])
        for requirement in requirements:
            run_process([str(python), "-m", "pip", "install", "--quiet", requirement])
        ready.touch()
    return python


def elsewhere(**more: str) -> dict[str, str]:
    """Return the variables of a process in another virtual environment, which must not find this rlox."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def log(*words: object) -> None:
    """Print progress to standard error, so that results alone go to standard output."""
    print(*words, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    for line in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(map(str, line))} |")
    print()


def select(rows: Iterable[Row], key: str, **wanted: Any) -> list[Any]:
    """Return the values of ``key`` in those rows that have the wanted values."""
    return [row[key] for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Return the median and the range of the ratios, pair by pair."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=False)], 2)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and, of several values, the range."""
    median = f"{statistics.median(values):.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def greedy_return(env_id: str, predict: Callable[[Any], Any]) -> float:
    """Return the mean return of twenty episodes, the same ones for every policy."""
    import gymnasium as gym

    env, total = gym.make(env_id), 0.0
    for seed in range(10_000, 10_020):
        obs, ended = env.reset(seed=seed)[0], False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(predict(obs))
            total, ended = total + float(reward), terminated or truncated
    env.close()
    return total / 20
