"""How cost grows: with the steps of a run, and with the size of the replay.

    python benchmarks/scaling.py

Steps: a Trainer on CartPole-v1 with a small network; the time of a step, and peak memory, should not depend on how
many there are. Replay: a full one at CartPole-v1's sizes; the time to store and learn should not depend on its size,
and resident memory should grow by the bytes of its columns.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import Row, print_table, run, select, spread
from update import Compiled, time_calls

HIDDEN, BATCH, CALLS, STEPS, SIZES = 32, 64, 5000, (10_000, 100_000), (100_000, 1_000_000)


def train(steps: int) -> Row:
    """Train ``steps`` environment steps, after some in which everything is compiled."""
    from rlox import Trainer

    config = {"hidden": HIDDEN, "batch_size": BATCH, "learning_starts": BATCH}
    trainer = Trainer("awr", env="CartPole-v1", config=config, seed=0)
    trainer.train(1000)
    return {"us": trainer.train(steps)["seconds"] / steps * 1e6, "resident_mib": resident_mib()}


def store(size: int) -> Row:
    """Store into a full replay and learn from it, in the compiled call that training makes."""
    own = Compiled(HIDDEN, BATCH, size)
    us = time_calls(own.learn, warm_up=CALLS // 10, at_least=CALLS)
    columns = sum(column.nbytes for column in own.replay.columns) / 2**20
    return {"us": us, "raw_mib": columns, "resident_mib": resident_mib()}


def resident_mib() -> float:
    """Return this process's resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def show(rows: list[Row]) -> None:
    def cells(key: str, n: int, *columns: str) -> list[str]:
        return [f"{n:,}", *(spread(select(rows, column, **{key: n})) for column in columns)]

    print_table(["steps", "us a step", "peak memory, MiB"], [cells("steps", n, "us", "peak_mib") for n in STEPS])
    lines = [cells("size", n, "us", "raw_mib", "resident_mib") for n in SIZES]
    print_table(["full replay", "us a call that stores and learns", "columns, MiB", "resident, MiB"], lines)


if __name__ == "__main__":
    tasks: list[Row] = [*({"steps": n} for n in STEPS), *({"size": n} for n in SIZES)]
    run(__doc__, lambda steps=0, size=0: train(steps) if steps else store(size), lambda: tasks, show, turns=3)
