"""What reliability costs, and how it holds up: interrupts, checkpoints, memory over a long run.

    python benchmarks/reliability.py            # all of it, about ten minutes on one core
    python benchmarks/reliability.py interrupts | checkpoints | soak

Kills are tests: `RLOX_KILLS=FILE pytest -m slow tests/test_exact_resume.py`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Row, bind, describe_machine, make_parser, print_machine, print_table

SCHEDULES: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {
    "every step": ("awr", "CartPole-v1", None, {}),
    "rounds": ("awr", "Pendulum-v1", "tuned", {}),
    "two environments": ("awac", "Pendulum-v1", None, {"n_envs": 2}),
    "processes": ("awr", "CartPole-v1", None, {"n_envs": 2, "vectorization_mode": "async"}),
}


def interrupts(n: int) -> list[Row]:
    """Interrupt trainings at random moments; each has to come back with a trainer that predicts, saves and goes on."""
    from rlox import Trainer

    rows, rng = [], random.Random(0)
    for name, (algorithm, env, preset, config) in SCHEDULES.items():
        seconds, alive = [], 0
        with Trainer(algorithm, env, preset=preset, config={"learning_starts": 300, **config}) as trainer:
            # Beyond the first round: what is being compiled cannot be interrupted.
            trainer.train(5_000, progress=False)
            for _ in range(n // len(SCHEDULES)):
                sent: list[float] = []

                def send(sent: list[float] = sent) -> None:
                    sent.append(time.perf_counter())
                    os.kill(os.getpid(), signal.SIGINT)

                timer = threading.Timer(rng.uniform(0.01, 0.8), send)
                timer.start()
                try:
                    trainer.train(10**9, progress=False)
                except KeyboardInterrupt:
                    seconds.append(time.perf_counter() - sent[0])
                with tempfile.TemporaryDirectory() as folder:
                    trainer.predict(trainer.observation_space.sample())
                    trainer.save(folder)
                    before = trainer.env_steps
                    alive += trainer.train(20, progress=False)["env_steps"] > before
        rows.append({"schedule": name, "interrupts": len(seconds), "alive": alive, "slowest_s": max(seconds)})
    return rows


def checkpoints(repeats: int) -> list[Row]:
    """Time a checkpoint of 100,000 transitions against the training between two of them, at the default interval."""
    from rlox import Trainer

    rows = []
    for name in ("every step", "rounds"):
        algorithm, env, preset, config = SCHEDULES[name]
        folder = Path(tempfile.mkdtemp(dir="."))
        # Random actions fill the replay; what is timed learns.
        config = {**config, "buffer_size": 100_000, "learning_starts": 100_000}
        with Trainer(algorithm, env, preset=preset, config=config, run_dir=folder) as trainer:
            trainer.train(101_000, checkpoint_interval=10**6, progress=False)
            writing, training = [], []
            for _ in range(repeats):
                began = time.perf_counter()
                trainer.train(10_000, checkpoint_interval=10**6, log_interval=1000, progress=False)
                ended = time.perf_counter()
                trainer.save(folder)
                writing.append(time.perf_counter() - ended)
                # Without the checkpoints at both ends of `train`.
                training.append(ended - began - 2 * writing[-1])
            size = (folder / "checkpoint.safetensors").stat().st_size
        shutil.rmtree(folder)
        share = sum(writing) / sum(training)
        rows.append({"schedule": name, "mb": size / 1e6, "write_s": sum(writing) / repeats, "share": share})
    return rows


def soak(steps: int) -> list[Row]:
    """Train for long with everything on, and see what memory does in the second half."""
    from rlox import Trainer

    def resident(trainer: Any, metrics: dict[str, float]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append((int(metrics["env_steps"]), pages * os.sysconf("SC_PAGE_SIZE")))

    seen: list[tuple[int, int]] = []
    folder, config = Path(tempfile.mkdtemp(dir=".")), {"buffer_size": 50_000, "hidden": 64}
    with Trainer("awr", "CartPole-v1", run_dir=folder, callbacks=resident, config=config) as trainer:
        trainer.train(steps, eval_interval=20_000, progress=False)
    shutil.rmtree(folder)
    half = max(memory for step, memory in seen if step <= steps // 2)
    whole = max(memory for _, memory in seen)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "steps": steps,
        "half_mb": half / 1e6,
        "whole_mb": whole / 1e6,
        "growth": whole / half - 1,
        "peak_mb": peak / 1e6,
    }
    return [row]


def main() -> None:
    parts: dict[str, Callable[[], list[Row]]] = {
        "interrupts": lambda: interrupts(args.interrupts),
        "checkpoints": lambda: checkpoints(args.repeats),
        "soak": lambda: soak(args.steps),
    }
    parser = make_parser(__doc__)
    parser.add_argument("part", nargs="*", choices=[[], *parts], default=[], help="all by default")
    parser.add_argument("--interrupts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--core", type=int, default=0)
    args = parser.parse_args()
    bind([args.core])
    file = args.results / "reliability.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in args.part or parts:
        rows = parts[part]()
        known[part] = {"machine": describe_machine(), "rows": rows}
        args.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=2) + "\n")
        print_machine(known[part]["machine"])
        print_table(list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
