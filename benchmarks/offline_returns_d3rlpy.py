"""d3rlpy's side of `offline_returns.toml`: the same data, steps and networks, in files that `rlox compare` reads.

    taskset -c 0 python benchmarks/offline_returns_d3rlpy.py    # hours

d3rlpy learns in a virtual environment of its own and writes its policy's mode, which runs here. The settings, and what
remains different, are in `offline_speed.py`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from common import ONE_THREAD, Row, greedy_return, run, run_worker
from offline_speed import PLAN, THEIRS, act, theirs, timed, where


def worker(data: str, algorithm: str, seed: int, policy: str | None = None) -> Row:
    """Learn in d3rlpy's environment, which is told where to write the policy, or have it learn, and evaluate."""
    import numpy as np

    if policy is not None:
        step, mode = theirs(algorithm, data, PLAN["hidden"], seed)
        row = timed(step, PLAN["gradient_steps"])
        np.savez(policy, **mode())  # pyright: ignore[reportArgumentType]
        return row
    from rlox.data.bundled import reference

    with tempfile.TemporaryDirectory() as folder:
        file, task = f"{folder}/policy.npz", {"data": data, "algorithm": algorithm, "seed": seed}
        row = run_worker(__file__, **where({"side": "theirs"}), **task, policy=file)
        with np.load(file) as found:
            arrays: dict[str, Any] = dict(found)
    env = reference(data).env
    return {**row, "env": env, "return": greedy_return(env, lambda obs: act(arrays, obs[None].astype(np.float32))[0])}


def write(path: Path, rows: list[Row], machine: Row) -> None:
    """Write the rows as runs."""
    from rlox.runs.history import Run, write_runs

    runs = []
    for row in rows:
        label, steps = f"d3rlpy-{row['algorithm']}", PLAN["gradient_steps"]
        spec = {"algorithm": label, "config": THEIRS[row["algorithm"]], "budget": {"gradient_steps": steps}}
        spec |= {"env": row["env"], "dataset": row["data"], "seed": row["seed"]}
        counts = {"time": 0.0, "env_steps": 0, "gradient_steps": steps, "time/seconds": row["seconds"]}
        record = {**counts, "eval/mean_reward": row["return"]}
        runs.append(Run(Path(label) / row["data"] / str(row["seed"]), spec, [record], label))
    write_runs(path, runs, machine)


def show(rows: list[Row]) -> None:
    print("rlox compare benchmarks/results/offline_returns.json benchmarks/results/offline_returns_d3rlpy.json")


if __name__ == "__main__":
    tasks = [
        {"data": data, "algorithm": algorithm, "seed": seed}
        for seed in range(PLAN["seeds"])
        for data in PLAN["dataset"]
        for algorithm in THEIRS
    ]
    run(__doc__, worker, lambda: tasks, show, where=lambda task: {"env": {**os.environ, **ONE_THREAD}}, write=write)
