"""Seconds and peak memory of opening and summarising a large file, compared with the columns that stay in memory.

    python benchmarks/dataset_memory.py

Hopper's shapes, HDF5, ten million rows; written piece by piece, then opened and summarised in a fresh process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from common import (
    Row,
    describe_machine,
    log,
    make_parser,
    print_machine,
    print_table,
    run_worker,
    start,
    write_results,
)

OBS_DIM, ACTION_DIM, EPISODE = 11, 3, 500


def write(path: Path, rows: int) -> None:
    """Write random steps, in episodes that end alternately in failure and at the time limit."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = {"observations": (OBS_DIM,), "next_observations": (OBS_DIM,), "actions": (ACTION_DIM,), "rewards": ()}
    with h5py.File(path, "w") as file:
        columns = {name: file.create_dataset(name, (rows, *shape), "f4") for name, shape in shapes.items()}
        flags = {name: file.create_dataset(name, (rows,), bool) for name in ("terminals", "timeouts")}
        for first in range(0, rows, 100_000):
            last = min(first + 100_000, rows)
            for name, column in columns.items():
                values = rng.random((last - first, *shapes[name]), np.float32)
                column[first:last] = 2 * values - 1
            at = np.arange(first, last)
            ended = at % EPISODE == EPISODE - 1
            failed = ended & (at // EPISODE % 2 == 0)
            flags["terminals"][first:last], flags["timeouts"][first:last] = failed, ended & ~failed


def worker(path: str, task: str) -> Row:
    """Return the seconds and the memory of opening a file, and of the task that follows."""
    from rlox import Dataset

    before, began = _peak_mib(), time.perf_counter()
    dataset = Dataset.load(path)
    row: Row = {"task": task, "import_mib": before, "open_seconds": time.perf_counter() - began}
    in_use = [column for column in dataset.columns.values() if not hasattr(column, "source")]
    if task == "summary":
        row["episodes"] = dataset.summary()["episodes"]
    if task == "transitions":
        in_use += dataset.transitions()
    row["seconds"] = time.perf_counter() - began
    row["columns_mib"] = sum(column.nbytes for column in in_use) / 2**20  # pyright: ignore[reportAttributeAccessIssue]
    return row


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def child(path: str, task: str) -> Row:
    """Write the file, or measure what is done with it."""
    if task.startswith("write "):
        write(Path(path), int(task.removeprefix("write ")))
        return {}
    return worker(path, task)


def measure(args: argparse.Namespace) -> None:
    """Write the file, run every task in a fresh process, then print and save."""
    rows: list[Row] = []
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hopper.hdf5"
        log(f"writing {args.rows:,} rows")
        # In a child process: the memory that writing takes would count in the others.
        run_worker(__file__, path=str(path), task=f"write {args.rows}")
        size = path.stat().st_size / 2**20
        rows += [run_worker(__file__, path=str(path), task=task) for task in ("open", "summary", "transitions")]
    write_results(args.results / "dataset_memory.json", machine, {"rows": args.rows, "file_mib": size}, rows)
    print(f"\n{args.rows:,} rows, a file of {size:,.0f} MiB\n")
    lines = []
    for row in rows:
        mib = [row["peak_mib"], row["import_mib"], row["columns_mib"], row["peak_mib"] - row["columns_mib"]]
        lines.append([row["task"], f"{row['seconds']:.1f}", *(f"{x:,.0f}" for x in mib)])
    header = ["peak, MiB", "libraries, MiB", "columns in use, MiB", "beyond the columns, MiB"]
    print_table(["open, and then", "seconds", *header], lines)
    print_machine(machine)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="steps in the file (10,000,000)")
    measure(parser.parse_args())


if __name__ == "__main__":
    start(main, child)
