"""The specification's two quick starts, compared with the published package rlox 1.2.0, and over seeds.

    python benchmarks/quickstart.py compare     # time, memory and return of both, alternately
    python benchmarks/quickstart.py learn       # learning curves over five seeds, and docs/images/learning_curve.png
    python benchmarks/quickstart.py plot        # the picture again, from the curves of the last `learn`

`compare` creates a virtual environment with rlox 1.2.0 in the cache folder, if there is none yet.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import (
    CACHE,
    N_EPISODES,
    RESULTS,
    ROOT,
    Row,
    bind,
    describe_machine,
    greedy_return,
    groups,
    make_venv,
    picture,
    print_machine,
    print_table,
    ratios,
    read_results,
    run_on_cores,
    run_worker,
    spread,
    start,
    write_results,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

OTHER = "1.2.0"


class QuickStart(NamedTuple):
    """A quick start, as the specification has it."""

    config: dict[str, Any] | None
    total_timesteps: int


QUICK_STARTS = {
    "CartPole-v1": QuickStart(None, 50_000),
    "Pendulum-v1": QuickStart(
        {"beta": 0.5, "learning_rate": 3e-4, "batch_size": 256, "buffer_size": 100_000, "gamma": 0.99}, 100_000
    ),
}

Policy = Callable[[Any], Any]
"""From an observation to the greedy action."""


def other_policy(trainer: Any) -> Policy:
    """Return the greedy policy of rlox 1.2.0, whose own ``predict`` raises for AWR."""
    import gymnasium as gym
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    algo = trainer.algo
    space = algo.env.action_space

    def policy(obs: Any) -> Any:
        with torch.no_grad():
            out = algo.actor(torch.as_tensor(obs, dtype=torch.float32).unsqueeze(0)).squeeze(0).numpy()
        return np.clip(out, space.low, space.high) if isinstance(space, gym.spaces.Box) else int(out.argmax())

    return policy


def compare_worker(side: str, env_id: str, steps: int, seed: int) -> Row:
    """Run one quick start and evaluate what it learned."""
    from rlox import Trainer

    trainer: Any = Trainer("awr", env=env_id, config=QUICK_STARTS[env_id].config, seed=seed)
    begin = time.monotonic()
    metrics = trainer.train(total_timesteps=steps)
    trained = time.monotonic()
    policy = trainer.predict if side == "this" else other_policy(trainer)
    return {
        "side": side,
        "env": env_id,
        "steps": steps,
        "seed": seed,
        "training_seconds": trained - begin,
        "greedy_return": greedy_return(env_id, policy),
        "evaluation_seconds": time.monotonic() - trained,
        "mean_reward": metrics["mean_reward"] if math.isfinite(metrics["mean_reward"]) else None,
    }


def compare(args: argparse.Namespace) -> None:
    """Run both sides alternately, each run in a fresh process."""
    python = make_venv(args.other_venv, "torch==2.13.0", f"rlox=={OTHER}")
    # PYTHONPATH may name this rlox, and the other side would import it.
    other_env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    sides: dict[str, dict[str, Any]] = {"this": {}, "other": {"python": python, "env": other_env}}
    machine = describe_machine()
    for env_id in args.env:
        steps = args.steps or QUICK_STARTS[env_id].total_timesteps
        rows: list[Row] = []
        for round_ in range(args.rounds):
            for seed in args.seeds:
                for side, where in sides.items():
                    task = {"side": side, "env_id": env_id, "steps": steps, "seed": seed, "cores": args.cores}
                    row = run_worker(__file__, mode="compare", **task, **where)
                    row["unevaluated_seconds"] = row["process_seconds"] - row["evaluation_seconds"]
                    rows.append({"round": round_, **row})
                    settings = {name: getattr(args, name) for name in ("steps", "rounds", "seeds", "cores")}
                    write_results(args.results / f"quickstart_compare_{env_id}.json", machine, settings, rows)
        print_comparison(env_id, rows)
    print_machine(machine)


def print_comparison(env_id: str, rows: list[Row]) -> None:
    """Print the table of one environment."""
    this, other = ([row for row in rows if row["side"] == side] for side in ("this", "other"))
    lines = []
    for name, key, digits in (
        ("training call, s", "training_seconds", 1),
        ("whole process without evaluation, s", "unevaluated_seconds", 1),
        ("peak memory, MiB", "peak_mib", 0),
    ):
        a, b = ([row[key] for row in side] for side in (this, other))
        medians = statistics.median(b) / statistics.median(a)
        lines.append([name, spread(a, digits), spread(b, digits), f"{medians:.2f}", ratios(b, a)])
    for name, key in (("greedy return", "greedy_return"), ("mean_reward", "mean_reward")):
        values = ([row[key] for row in side if row[key] is not None] for side in (this, other))
        lines.append([name, *(spread(side) if side else "none" for side in values), "", ""])
    print(f"\n{env_id}, {this[0]['steps']:,} steps, {len(this)} runs a side, median (range):\n")
    ratio = f"{OTHER} / this"
    print_table(["", "this rlox", f"rlox {OTHER}", f"{ratio}, of medians", f"{ratio}, pair by pair"], lines)
    print(
        f"Greedy return: mean of {N_EPISODES} episodes after training. mean_reward: of the last 100 episodes "
        f"here, of all episodes in {OTHER}."
    )


def learn_worker(env_id: str, steps: int, seed: int, interval: int) -> Row:
    """Train in parts, with an evaluation before the first and after each of them."""
    from rlox import Trainer

    trainer = Trainer("awr", env=env_id, config=QUICK_STARTS[env_id].config, seed=seed)
    points, returns, seconds = [0], [greedy_return(env_id, trainer.predict)], 0.0
    while trainer.env_steps < steps:
        seconds += trainer.train(total_timesteps=min(interval, steps - trainer.env_steps))["seconds"]
        points.append(trainer.env_steps)
        returns.append(greedy_return(env_id, trainer.predict))
    return {"env": env_id, "seed": seed, "env_steps": points, "returns": returns, "training_seconds": seconds}


def learn(args: argparse.Namespace) -> None:
    """Train every seed in a process of its own on a core of its own; write, print and draw the curves."""
    machine = describe_machine()
    cores = args.cores or sorted(os.sched_getaffinity(0))
    settings = {name: getattr(args, name) for name in ("steps", "seeds", "interval")}

    def run(task: Row, core: int) -> Row:
        return run_worker(__file__, mode="learn", **task, interval=args.interval, cores=[core])

    steps = {env_id: args.steps or QUICK_STARTS[env_id].total_timesteps for env_id in args.env}
    tasks = [{"env_id": env_id, "steps": steps[env_id], "seed": seed} for env_id in args.env for seed in args.seeds]
    for (env_id,), rows in groups(run_on_cores(cores, tasks, run), "env").items():
        write_results(curves_file(args.results, env_id), machine, settings, rows)
    plot(args)
    print_machine(machine)


def plot(args: argparse.Namespace) -> None:
    """Print and draw the curves that are there, side by side."""
    files = {env_id: curves_file(args.results, env_id) for env_id in QUICK_STARTS}
    runs = {env_id: read_results(file)["rows"] for env_id, file in files.items() if file.exists()}
    if not runs:
        raise SystemExit(f"No curves in {args.results}: run `learn` first.")
    with picture(args.image, len(runs), size=(4.8, 3.6)) as axes:
        lines = [draw(axis, env_id, rows) for axis, (env_id, rows) in zip(axes, runs.items(), strict=True)]
        handles = axes[0].get_legend_handles_labels()
        figure: Any = axes[0].get_figure(root=True)
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    header = ["environment", "steps", "interquartile mean", "95% interval", "minimum", "each seed"]
    print(f"\nGreedy return of {N_EPISODES} episodes at the end of training:\n")
    print_table(header, lines)


def draw(axis: Axes, env_id: str, rows: list[Row]) -> list[str]:
    """Draw one environment's curves and return its line of the table."""
    import numpy as np
    from scipy.stats import trim_mean

    steps, curves = rows[0]["env_steps"], np.array([row["returns"] for row in rows])
    middle, (low, high) = trim_mean(curves, 0.25, axis=0), bootstrap_interval(curves)
    color = "#1f5fa8"
    for i, curve in enumerate(curves):
        axis.plot(steps, curve, color=color, lw=0.7, alpha=0.35, label="single seeds" if i == 0 else None)
    axis.fill_between(steps, low, high, color=color, alpha=0.18, lw=0, label="95% bootstrap interval")
    axis.plot(steps, middle, color=color, lw=2, label="interquartile mean")
    axis.set(title=env_id, xlabel="environment steps", ylabel=f"greedy return ({N_EPISODES} episodes)")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axis.set_xlim(0, steps[-1])
    final = curves[:, -1]
    interval = f"{low[-1]:.1f} to {high[-1]:.1f}"
    seeds = ", ".join(f"{x:.1f}" for x in final)
    return [env_id, f"{steps[-1]:,}", f"{middle[-1]:.1f}", interval, f"{final.min():.1f}", seeds]


def bootstrap_interval(curves: NDArray[np.float64], n_resamples: int = 10_000) -> NDArray[np.float64]:
    """Return ``(2, points)``: the 95% interval of the interquartile mean of ``(seeds, points)``, over seeds."""
    import numpy as np
    from scipy.stats import trim_mean

    chosen = np.random.default_rng(0).integers(len(curves), size=(n_resamples, len(curves)))
    return np.percentile(trim_mean(curves[chosen], 0.25, axis=1), [2.5, 97.5], axis=0)


def curves_file(results: Path, env_id: str) -> Path:
    return results / f"quickstart_learn_{env_id}.json"


def worker(mode: str, cores: list[int] | None, **task: Any) -> Row:
    """Run in the child process."""
    bind(cores)
    return {"compare": compare_worker, "learn": learn_worker}[mode](**task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True, metavar="{compare,learn,plot}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw rows (benchmarks/results)")
    runs = argparse.ArgumentParser(add_help=False)
    names = list(QUICK_STARTS)
    runs.add_argument("--env", nargs="+", choices=names, default=names, help="both by default")
    runs.add_argument("--steps", type=int, help="environment steps; by default the specification's")
    drawn = argparse.ArgumentParser(add_help=False)
    image = ROOT / "docs" / "images" / "learning_curve.png"
    drawn.add_argument("--image", type=Path, default=image, help="picture (docs/images/learning_curve.png)")

    mode = modes.add_parser("compare", parents=[common, runs], help=f"this rlox and rlox {OTHER}, alternately")
    mode.add_argument("--rounds", type=int, default=3, help="pairs of runs for each seed (3)")
    mode.add_argument("--seeds", type=int, nargs="+", default=[42], help="seeds of the pairs (42)")
    mode.add_argument("--cores", type=int, nargs="+", help="cores that each run is bound to; all by default")
    venv = CACHE / f"rlox-{OTHER}"
    mode.add_argument("--other-venv", type=Path, default=venv, help=f"virtual environment of rlox {OTHER} ({venv})")
    mode.set_defaults(run=compare)

    mode = modes.add_parser("learn", parents=[common, runs, drawn], help="curves of this rlox over seeds")
    mode.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds (0 1 2 3 4)")
    mode.add_argument("--interval", type=int, default=5000, help="environment steps between evaluations (5000)")
    mode.add_argument("--cores", type=int, nargs="+", help="cores to use, one seed on each at a time; all by default")
    mode.set_defaults(run=learn)

    mode = modes.add_parser("plot", parents=[common, drawn], help="draw the curves of the last `learn` again")
    mode.set_defaults(run=plot)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    start(main, worker)
