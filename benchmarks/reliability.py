"""What reliability costs, and how it holds up: interrupts, checkpoints, memory over a long run.

    taskset -c 0 python benchmarks/reliability.py    # about ten minutes

Kills are tests: `RLOX_KILLS=FILE pytest -m slow tests/test_exact_resume.py`.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import Row, print_table, run

N_INTERRUPTS, REPEATS, STEPS = 25, 3, 200_000
SCHEDULES: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {
    "every step": ("awr", "CartPole-v1", None, {}),
    "rounds": ("awr", "Pendulum-v1", "tuned", {}),
    "two environments": ("awac", "Pendulum-v1", None, {"n_envs": 2}),
    "processes": ("awr", "CartPole-v1", None, {"n_envs": 2, "vectorization_mode": "async"}),
}


def trainer(schedule: str, folder: Path | None = None, **settings: Any) -> Any:
    from rlox import Trainer

    algorithm, env, preset, config = SCHEDULES[schedule]
    return Trainer(algorithm, env, preset=preset, config={**config, **settings}, run_dir=folder)


def interrupts(schedule: str) -> Row:
    """Interrupt training at random moments; each has to leave a trainer that predicts, saves and goes on."""
    rng, seconds, alive = random.Random(schedule), [], 0
    with trainer(schedule, learning_starts=300) as own:
        # Beyond the first round: what is being compiled cannot be interrupted.
        own.train(5_000, progress=False)
        for _ in range(N_INTERRUPTS):
            delay, began = rng.uniform(0.01, 0.8), time.perf_counter()
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                own.train(10**9, progress=False)
            except KeyboardInterrupt:
                seconds.append(time.perf_counter() - began - delay)
            with tempfile.TemporaryDirectory() as folder:
                own.predict(own.observation_space.sample())
                own.save(folder)
                before = own.env_steps
                alive += own.train(20, progress=False)["env_steps"] > before
    return {"interrupts": len(seconds), "alive": alive, "slowest_s": max(seconds)}


def checkpoints(schedule: str) -> Row:
    """Time a checkpoint of 100,000 transitions against the training between two of them, at the default interval."""
    writing, training = [], []
    # Random actions fill the replay; what is timed learns.
    settings = {"buffer_size": 100_000, "learning_starts": 100_000}
    with tempfile.TemporaryDirectory(dir=".") as name, trainer(schedule, Path(name), **settings) as own:
        own.train(101_000, checkpoint_interval=10**6, progress=False)
        for _ in range(REPEATS):
            began = time.perf_counter()
            own.train(10_000, checkpoint_interval=10**6, log_interval=1000, progress=False)
            ended = time.perf_counter()
            own.save(name)
            writing.append(time.perf_counter() - ended)
            # Without the checkpoints at both ends of `train`.
            training.append(ended - began - 2 * writing[-1])
        size = (Path(name) / "checkpoint.safetensors").stat().st_size
    return {"mb": size / 1e6, "write_s": sum(writing) / REPEATS, "share": sum(writing) / sum(training)}


def soak(schedule: str) -> Row:
    """Train for long with everything on, and see what memory does in the second half."""
    seen: list[tuple[int, float]] = []

    def resident(trainer: Any, metrics: dict[str, float]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append((int(metrics["env_steps"]), pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    settings = {"buffer_size": 50_000, "hidden": 64}
    with tempfile.TemporaryDirectory(dir=".") as name, trainer(schedule, Path(name), **settings) as own:
        own.callbacks = (resident,)
        own.train(STEPS, eval_interval=20_000, progress=False)
    half = max(memory for step, memory in seen if step <= STEPS // 2)
    whole = max(memory for _, memory in seen)
    return {"steps": STEPS, "half_mb": half, "whole_mb": whole, "growth": whole / half - 1}


PARTS = {"interrupts": interrupts, "checkpoints": checkpoints, "soak": soak}


def show(rows: list[Row]) -> None:
    for part in PARTS:
        if own := [row for row in rows if row["part"] == part]:
            print_table(list(own[0]), [list(row.values()) for row in own])


if __name__ == "__main__":
    parts = [*(("interrupts", name) for name in SCHEDULES), ("checkpoints", "every step"), ("checkpoints", "rounds")]
    tasks = [{"part": part, "schedule": schedule} for part, schedule in [*parts, ("soak", "every step")]]
    run(__doc__, lambda part, schedule: PARTS[part](schedule), lambda: tasks, show)
