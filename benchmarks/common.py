"""What the benchmarks share: child processes with their time and peak memory, result files, tables and pictures.

Every measurement runs in a fresh child process, which prints its row as the last line of its output, in JSON. Linux
only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CACHE = Path.home() / ".cache" / "rlox-benchmarks"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")

N_EPISODES = 20
"""Episodes of a greedy return."""

Row = dict[str, Any]
T = TypeVar("T")


def make_parser(description: str | None, results: Path = RESULTS) -> argparse.ArgumentParser:
    """Return a parser of the command line, with ``--results``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=results, help=f"where raw rows are ({results.relative_to(ROOT)})"
    )
    return parser


def describe_machine() -> Row:
    """Return what the numbers depend on: processor, memory, threads, versions and commit."""
    from rlox.runs.logs import versions

    cpu = next((line.partition(":")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": cpu.strip() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions(),
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _commit() -> str:
    """Return the commit of the checkout, with a plus sign if files of the package differ from it."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(ROOT), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")


class Finished(NamedTuple):
    """A child process that ended well."""

    output: str
    seconds: float
    """From before its start to its end."""
    peak_mib: float
    """Largest resident memory."""


def run_process(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end; its standard error goes to ours.

    Raises:
        SystemExit: it failed.
    """
    # The kernel starts a child's peak at its parent's resident memory: import what is heavy after the last child.
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} from: {shlex.join(command)}\n{output}")
    return Finished(output, seconds, usage.ru_maxrss / 2**10)


def run_worker(
    script: str, *, python: str | Path = sys.executable, env: Mapping[str, str] | None = None, **task: Any
) -> Row:
    """Return the row of ``worker(**task)`` of a script, run in a fresh process, with its whole time and peak memory."""
    finished = run_process([str(python), script, "worker", json.dumps(task)], env=env)
    row = json.loads(finished.output.splitlines()[-1])
    row |= {"process_seconds": finished.seconds, "peak_mib": finished.peak_mib}
    told = ", ".join(f"{name}={value}" for name, value in task.items())
    log(f"{Path(script).name}: {told} ({finished.seconds:.1f} s, {finished.peak_mib:.0f} MiB)")
    return row


def run_on_cores(cores: Sequence[int], tasks: Iterable[T], run: Callable[[T, int], Row]) -> Iterator[Row]:
    """Yield ``run(task, core)`` of every task, in order, running one on each core at a time."""
    free: queue.Queue[int] = queue.Queue()
    for core in cores:
        free.put(core)

    def run_one(task: T) -> Row:
        core = free.get()
        try:
            return run(task, core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        yield from pool.map(run_one, tasks)


def start(main: Callable[[], None], worker: Callable[..., Row]) -> None:
    """Run a script: as the child that ``run_worker`` started, or else its command line."""
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(worker(**json.loads(sys.argv[2]))))
    else:
        main()


def bind(cores: Sequence[int] | None) -> None:
    """Keep this process, and the thread pools that it starts from now on, on the given cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def make_venv(folder: Path, *requirements: str) -> Path:
    """Return the Python of a virtual environment with the requirements; the environment is created if missing.

    Each is ``name==version``, or ``name[extra]==version``. They are installed one after another, so that the versions
    of the first ones are kept.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        log("making the virtual environment", folder)
        run_process([sys.executable, "-m", "venv", str(folder)])
    pinned = [re.sub(r"\[.*\]", "", requirement) for requirement in requirements]
    names = [requirement.partition("==")[0] for requirement in pinned]
    code = "import sys; from importlib.metadata import version\nfor name in sys.argv[1:]: print(version(name))"
    found = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=False)
    # A wheel's version may carry a local label, such as 2.13.0+cpu.
    installed = [f"{name}=={line.partition('+')[0]}" for name, line in zip(names, found.stdout.split(), strict=False)]
    if installed != pinned:
        for requirement in requirements:
            log("installing", requirement)
            run_process([str(python), "-m", "pip", "install", "--quiet", requirement])
    return python


def log(*words: object) -> None:
    """Print progress to standard error, so that results alone go to standard output."""
    print(*words, file=sys.stderr, flush=True)


def print_machine(machine: Row) -> None:
    """Print the machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(
        f"\n{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{versions}; commit {machine['commit']}, {machine['date']}.\n"
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table; columns after the first are aligned right."""
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for line in (lines[0], rule, *lines[1:]):
        first, *rest = line
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
    print()


def write_results(path: Path, machine: Row, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write raw rows, with the machine and the settings that they come from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=1, allow_nan=False)
    path.write_text(text + "\n")


def read_results(path: Path) -> Row:
    """Return ``machine``, ``settings`` and ``rows`` of a file that ``write_results`` wrote."""
    # Files of earlier commits have another name for an algorithm.
    return json.loads(path.read_text().replace('"member"', '"algorithm"'))


def groups(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by their values of ``keys``, in the order in which these are first seen."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Return the median and the range of the ratios, pair by pair."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and, of several values, the range."""
    median = f"{statistics.median(values):.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def greedy_return(env_id: str, predict: Callable[[Any], Any]) -> float:
    """Return the mean return of twenty episodes, the same ones for every policy."""
    import gymnasium as gym

    env, total = gym.make(env_id), 0.0
    for seed in range(10_000, 10_000 + N_EPISODES):
        obs, ended = env.reset(seed=seed)[0], False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(predict(obs))
            total, ended = total + float(reward), terminated or truncated
    env.close()
    return total / N_EPISODES


@contextlib.contextmanager
def picture(path: Path, n_panels: int, *, size: tuple[float, float] = (4.6, 3.8)) -> Iterator[list[Axes]]:
    """Give the panels of a figure, ``size`` inches each, at most three in a row; then write it to ``path``."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, n_panels)
    shape = -(-n_panels // columns), columns
    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(size[0] * columns, size[1] * shape[0]), layout="constrained")
        axes: list[Axes] = [figure.add_subplot(*shape, i + 1) for i in range(n_panels)]
        yield axes
        for axis in axes:
            axis.grid(alpha=0.25, lw=0.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)
    log("drew", path)
