"""Seconds from the start of the process, and steps, to a stated greedy return: ours against Stable-Baselines3.

    python benchmarks/time_to_solve.py                                # every pair, by turns
    python benchmarks/time_to_solve.py --only CartPole-v1 Acrobot-v1   # some of them
    python benchmarks/time_to_solve.py --show                             # the table of all that was run

Both sides train in parts of the same number of environment steps; after each of them the same twenty greedy episodes
are run on both, whose time is left out. Ours runs a preset (`--preset`), theirs the library's defaults.
Stable-Baselines3 has a virtual environment of its own in the cache folder, made where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    CACHE,
    RESULTS,
    Row,
    bind,
    describe_machine,
    make_venv,
    print_machine,
    print_table,
    ratios,
    run_worker,
    spread,
    start,
    write_results,
)

N_EPISODES = 20
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


def worker(
    side: str, env_id: str, other: str, threshold: float, interval: int, limit: int, seed: int,
    preset: str, cores: list[int] | None,
) -> Row:  # fmt: skip
    """Train until the greedy return is reached."""
    bind(cores)
    step, predict = ours(env_id, preset, seed) if side == "ours" else theirs(env_id, other, seed)
    import gymnasium as gym

    env = gym.make(env_id)
    evaluating, steps, best = 0.0, 0, float("-inf")
    while steps < limit:
        steps = step(interval)
        begin = time.monotonic()
        best = max(best, greedy_return(env, predict))
        evaluating += time.monotonic() - begin
        if best >= threshold:
            break
    return {
        "side": side, "env": env_id, "other": other, "seed": seed, "env_steps": steps, "solved": best >= threshold,
        "best": best, "evaluation_seconds": evaluating,
    }  # fmt: skip


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


def greedy_return(env: Any, predict: Callable[[Any], Any]) -> float:
    """Return the mean return of the twenty episodes."""
    total = 0.0
    for episode in range(N_EPISODES):
        obs, _ = env.reset(seed=10_000 + episode)
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(predict(obs))
            total += float(reward)
            ended = terminated or truncated
    return total / N_EPISODES


def measure(args: argparse.Namespace) -> None:
    """Run both sides by turns, and write the rows of each environment to a file of its own."""
    python = make_venv(args.venv, *SB3)
    other_env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    sides: dict[str, dict[str, Any]] = {"ours": {}, "theirs": {"python": python, "env": other_env}}
    machine = describe_machine()
    settings = {name: getattr(args, name) for name in ("seeds", "preset", "cores")}
    for task in TASKS:
        if args.only and task.env_id not in args.only:
            continue
        if args.threshold is not None:
            task = task._replace(threshold=args.threshold)
        rows: list[Row] = []
        for seed in args.seeds:
            for side, where in sides.items():
                row = run_worker(
                    __file__, side=side, **task._asdict(), seed=seed, preset=args.preset, cores=args.cores, **where
                )
                rows.append(row | {"seconds": row["process_seconds"] - row["evaluation_seconds"]})
                write_results(args.results / _file_name(task.env_id, args.threshold), machine, settings, rows)
    print_machine(machine)


def _file_name(env_id: str, threshold: float | None) -> str:
    return f"time_to_solve_{env_id}{'' if threshold is None else f'_{threshold:g}'}.json"


def show(results: Path, threshold: float | None) -> None:
    """Print everything that was run."""
    lines = []
    for task in TASKS:
        file = results / _file_name(task.env_id, threshold)
        if not file.exists():
            continue
        rows = json.loads(file.read_text())["rows"]
        task = task._replace(threshold=task.threshold if threshold is None else threshold)
        own, other = ([row for row in rows if row["side"] == side] for side in ("ours", "theirs"))
        lines.append([
            f"{task.env_id}, {task.threshold:g}", task.other.upper(),
            *(spread([row["seconds"] for row in side]) for side in (own, other)),
            *(spread([row["env_steps"] for row in side], 0) for side in (own, other)),
            *(f"{sum(row['solved'] for row in side)} of {len(side)}" for side in (own, other)),
            # A run that was stopped may lack the other side of its last pair.
            ratios(*zip(*((b["seconds"], a["seconds"]) for a, b in zip(own, other, strict=False)), strict=True)),
        ])  # fmt: skip
    header = [
        "environment, return", "against", "ours, s", "theirs, s", "ours, steps", "theirs, steps", "ours solved",
        "theirs solved", "theirs / ours",
    ]  # fmt: skip
    print_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[task.env_id for task in TASKS], help="environments; all by default"
    )
    parser.add_argument("--threshold", type=float, help="another greedy return than the stated one")
    parser.add_argument("--preset", default="tuned", help="of ours (tuned)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--cores", type=int, nargs="+", help="cores that each run is bound to; all by default")
    parser.add_argument("--venv", type=Path, default=CACHE / "sb3", help="virtual environment of the other side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw rows (benchmarks/results)")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        measure(args)
    show(args.results, args.threshold)


if __name__ == "__main__":
    start(main, worker)
