"""Seconds from the start of the process, and steps, to a stated greedy return: ours against Stable-Baselines3.

    python benchmarks/time_to_solve.py                                # every pair, alternately
    python benchmarks/time_to_solve.py --only CartPole-v1 Acrobot-v1    # some of them
    python benchmarks/time_to_solve.py --show                           # the table of all that was run

Both sides train in parts of the same number of environment steps; after each of them the same twenty greedy episodes
are run on both, whose time is not counted. Ours runs a preset (`--preset`), theirs the library's defaults.
Stable-Baselines3 has a virtual environment of its own in the cache folder, created if there is none.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    CACHE,
    Row,
    bind,
    describe_machine,
    greedy_return,
    make_parser,
    make_venv,
    print_machine,
    print_table,
    ratios,
    read_results,
    run_worker,
    spread,
    start,
    write_results,
)

SB3 = ("torch==2.13.0", "stable-baselines3==2.9.0", "gymnasium[box2d,mujoco]==1.4.0")


class Task(NamedTuple):
    """An environment, the algorithm on the other side, the greedy return that counts, steps between evaluations."""

    env_id: str
    other: str
    threshold: float
    interval: int
    limit: int


TASKS = [
    Task("CartPole-v1", "ppo", 490, 2_000, 200_000),
    Task("Acrobot-v1", "ppo", -100, 2_000, 300_000),
    Task("LunarLander-v3", "ppo", 200, 10_000, 1_500_000),
    Task("Pendulum-v1", "sac", -160, 1_000, 100_000),
    Task("Hopper-v5", "sac", 2000, 5_000, 1_500_000),
]


def worker(side: str, task: dict[str, Any], seed: int, preset: str, cores: list[int] | None) -> Row:
    """Train until the greedy return is reached."""
    bind(cores)
    env_id, other, threshold, interval, limit = Task(**task)
    step, predict = ours(env_id, preset, seed) if side == "ours" else theirs(env_id, other, seed)
    evaluating, steps, best = 0.0, 0, float("-inf")
    while steps < limit and best < threshold:
        steps = step(interval)
        begin = time.monotonic()
        best = max(best, greedy_return(env_id, predict))
        evaluating += time.monotonic() - begin
    row = {"side": side, "env": env_id, "other": other, "seed": seed, "env_steps": steps, "best": best}
    return {**row, "solved": best >= threshold, "evaluation_seconds": evaluating}


def ours(env_id: str, preset: str, seed: int) -> tuple[Any, Any]:
    from rlox import Trainer

    trainer = Trainer("awr", env=env_id, preset=preset, seed=seed)

    def step(n: int) -> int:
        trainer.train(n, progress=False)
        return trainer.env_steps

    return step, trainer.predict


def theirs(env_id: str, other: str, seed: int) -> tuple[Any, Any]:
    import stable_baselines3 as sb3  # pyright: ignore[reportMissingImports]

    model = {"ppo": sb3.PPO, "sac": sb3.SAC}[other]("MlpPolicy", env_id, seed=seed, device="cpu")

    def step(n: int) -> int:
        model.learn(n, reset_num_timesteps=False)
        return model.num_timesteps

    return step, lambda obs: model.predict(obs, deterministic=True)[0]


def measure(args: argparse.Namespace) -> None:
    """Run both sides alternately, and write the rows of each environment to a file of its own."""
    python = make_venv(args.venv, *SB3)
    other_env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    sides: dict[str, dict[str, Any]] = {"ours": {}, "theirs": {"python": python, "env": other_env}}
    machine = describe_machine()
    settings = {name: getattr(args, name) for name in ("seeds", "preset", "cores")}
    for task in with_threshold(args.threshold):
        if args.only and task.env_id not in args.only:
            continue
        rows: list[Row] = []
        own = {"task": task._asdict(), "preset": args.preset, "cores": args.cores}
        for seed in args.seeds:
            for side, where in sides.items():
                row = run_worker(__file__, side=side, seed=seed, **own, **where)
                rows.append(row | {"seconds": row["process_seconds"] - row["evaluation_seconds"]})
                write_results(args.results / _file_name(task.env_id, args.threshold), machine, settings, rows)
    print_machine(machine)


def with_threshold(threshold: float | None) -> list[Task]:
    """Return the tasks, with another greedy return than theirs if one is given."""
    return TASKS if threshold is None else [task._replace(threshold=threshold) for task in TASKS]


def _file_name(env_id: str, threshold: float | None) -> str:
    return f"time_to_solve_{env_id}{'' if threshold is None else f'_{threshold:g}'}.json"


def show(results: Path, threshold: float | None) -> None:
    """Print everything that was run."""
    lines = []
    for task in with_threshold(threshold):
        file = results / _file_name(task.env_id, threshold)
        if not file.exists():
            continue
        rows = read_results(file)["rows"]
        sides = [[row for row in rows if row["side"] == side] for side in ("ours", "theirs")]
        seconds = [[row["seconds"] for row in side] for side in sides]
        # A run that was stopped may lack the other side of its last pair.
        n_pairs = min(map(len, sides))
        cells = [
            *(spread(side) for side in seconds),
            *(spread([row["env_steps"] for row in side], 0) for side in sides),
            *(f"{sum(row['solved'] for row in side)} of {len(side)}" for side in sides),
            ratios(seconds[1][:n_pairs], seconds[0][:n_pairs]),
        ]
        lines.append([f"{task.env_id}, {task.threshold:g}", task.other.upper(), *cells])
    both = [f"{side}{what}" for what in (", s", ", steps", " solved") for side in ("ours", "theirs")]
    print_table(["environment, return", "against", *both, "theirs / ours"], lines)


def main() -> None:
    parser = make_parser(__doc__)
    known = [task.env_id for task in TASKS]
    parser.add_argument("--only", nargs="+", choices=known, help="environments; all by default")
    parser.add_argument("--threshold", type=float, help="another greedy return than the stated one")
    parser.add_argument("--preset", default="tuned", help="of ours (tuned)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--cores", type=int, nargs="+", help="cores that each run is bound to; all by default")
    parser.add_argument("--venv", type=Path, default=CACHE / "sb3", help="virtual environment of the other side")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        measure(args)
    show(args.results, args.threshold)


if __name__ == "__main__":
    start(main, worker)
