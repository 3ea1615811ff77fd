"""Seconds and peak memory of opening and summarising a large file, compared with the columns that stay in memory.

    taskset -c 0 python benchmarks/dataset_memory.py

Hopper's shapes, HDF5, ten million rows; written piece by piece, then opened and summarised in fresh processes.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import Row, print_table, run

N_ROWS, EPISODE = 10_000_000, 500
SHAPES = {"observations": (11,), "next_observations": (11,), "actions": (3,), "rewards": ()}


def write(path: str) -> Row:
    """Write random steps, in episodes that end alternately in failure and at the time limit."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        columns = {name: file.create_dataset(name, (N_ROWS, *shape), "f4") for name, shape in SHAPES.items()}
        flags = {name: file.create_dataset(name, (N_ROWS,), bool) for name in ("terminals", "timeouts")}
        for first in range(0, N_ROWS, 100_000):
            last = min(first + 100_000, N_ROWS)
            for name, column in columns.items():
                column[first:last] = 2 * rng.random((last - first, *SHAPES[name]), np.float32) - 1
            at = np.arange(first, last)
            ended = at % EPISODE == EPISODE - 1
            failed = ended & (at // EPISODE % 2 == 0)
            flags["terminals"][first:last], flags["timeouts"][first:last] = failed, ended & ~failed
    return {"file_mib": Path(path).stat().st_size / 2**20}


def worker(task: str, path: str) -> Row:
    """Return the seconds and the memory of opening a file, and of the task that follows."""
    if task == "write":
        return write(path)
    from rlox import Dataset

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, time.perf_counter()
    dataset = Dataset.load(path)
    row: Row = {"import_mib": before}
    in_use = [column for column in dataset.columns.values() if not hasattr(column, "source")]
    if task == "summary":
        row["episodes"] = dataset.summary()["episodes"]
    if task == "transitions":
        in_use += dataset.transitions()
    row["seconds"] = time.perf_counter() - began
    row["columns_mib"] = sum(column.nbytes for column in in_use) / 2**20  # pyright: ignore[reportAttributeAccessIssue]
    return row


def tasks() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for task in ("write", "open", "summary", "transitions"):
            yield {"task": task, "path": f"{folder}/hopper.hdf5"}


def show(rows: list[Row]) -> None:
    lines = []
    for row in rows:
        if row["task"] != "write":
            mib = [row["peak_mib"], row["columns_mib"], row["peak_mib"] - row["columns_mib"], row["import_mib"]]
            lines.append([row["task"], *(f"{x:,.0f}" for x in mib), f"{row['seconds']:.0f}"])
    numbers = ["peak, MiB", "columns in use, MiB", "beyond them, MiB", "libraries, MiB"]
    print_table(["open, and then", *numbers, "seconds"], lines)


if __name__ == "__main__":
    run(__doc__, worker, tasks, show)
