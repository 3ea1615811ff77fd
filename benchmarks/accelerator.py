"""What a GPU is worth: runs on data, alone and at once, and runs in an environment, beside one core of its machine.

    python benchmarks/accelerator.py    # needs a GPU, and JAX for it

- `offline`: gradient steps a second of all runs together, of IQL on `hopper-medium` with minibatches of 256, for so
  many seeds in one program, compiled and warm;
- `train`: environment steps a second of a whole run on Pendulum-v1, of MPO and of AWR in rounds, warm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from common import ONE_THREAD, Row, print_table, run, select, spread

HIDDEN, RUNS = (64, 256), (1, 10, 100)
PLATFORMS = ("cuda", "cpu")
SECONDS = 1.5
WARM_UP, STEPS = 4_096, 6_144
TRAINED = {"mpo": {"learning_starts": 500}, "awr": {"rollout_steps": 2_048}}


def tasks() -> Iterator[Row]:
    for platform in PLATFORMS:
        for hidden in HIDDEN:
            for n in RUNS:
                if platform != "cpu" or n <= 10:
                    yield {"what": "offline", "platform": platform, "hidden": hidden, "n": n}
        for algorithm in TRAINED:
            yield {"what": "train", "platform": platform, "algorithm": algorithm}


def where(task: Row) -> Row:
    threads = ONE_THREAD if task["platform"] == "cpu" else {}
    return {"env": {**os.environ, **threads, "JAX_PLATFORMS": task["platform"]}}


def worker(what: str, platform: str, **task: Any) -> Row:
    import jax

    measured = offline(**task) if what == "offline" else train(**task)
    return {"device": jax.devices(platform)[0].device_kind, **measured}


def offline(hidden: int, n: int) -> Row:
    from seeds_at_once import Program

    program = Program(n, 256, hidden)
    steps, calls, began = 50, 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS or calls < 2:
        program.learn_steps(steps)
        calls += 1
    return {"steps_per_second": n * steps * calls / took}


def train(algorithm: str) -> Row:
    from rlox import Trainer

    trainer = Trainer(algorithm, env="Pendulum-v1", config=TRAINED[algorithm])
    trainer.train(WARM_UP, progress=False)
    began = time.perf_counter()
    trainer.train(STEPS, progress=False)
    return {"steps_per_second": STEPS / (time.perf_counter() - began)}


def show(rows: list[Row]) -> None:
    def told(platform: str, **task: Any) -> str:
        found = select(rows, "steps_per_second", platform=platform, **task)
        return spread(found, 0) if found else "-"

    table = [
        (hidden, n, *(told(platform, what="offline", hidden=hidden, n=n) for platform in PLATFORMS))
        for hidden in HIDDEN
        for n in RUNS
    ]
    print_table(("hidden", "runs at once", "GPU, gradient steps/s", "one core"), table)
    table = [(name, *(told(platform, what="train", algorithm=name) for platform in PLATFORMS)) for name in TRAINED]
    print_table(("in Pendulum-v1", "GPU, environment steps/s", "one core"), table)


if __name__ == "__main__":
    run(__doc__, worker, tasks, show, where=where)
