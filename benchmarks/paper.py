"""The published schedule against the released code's own curves: an environment, a preset, several seeds.

    python benchmarks/paper.py --env HalfCheetah-v5 --preset paper     # train, write, print, draw
    python benchmarks/paper.py --env Hopper-v5 --n-envs 16 --vectorization-mode envpool
    python benchmarks/paper.py --plot                                  # draw all that was run again

Each seed is a process of its own on one core. Greedy returns: 32 episodes at the reference's points, 10 between them;
their time is not counted. The reference, `benchmarks/reference/awr_released_code.csv`, has mean and standard deviation
of the test returns in five logs of the released code, which ran on environments of version v2.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import (
    ROOT,
    Row,
    bind,
    describe_machine,
    make_parser,
    picture,
    print_machine,
    print_table,
    read_results,
    run_on_cores,
    run_worker,
    start,
    write_results,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE = ROOT / "benchmarks" / "reference" / "awr_released_code.csv"
POINTS_PER_RUN = 10
COLORS = {"paper": "#1f5fa8", "tuned": "#c8561b"}


def reference(env_id: str) -> list[dict[str, float]]:
    """Return the released code's points of an environment, whatever its version."""
    name = env_id.partition("-")[0]
    with REFERENCE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["env"] == name]
    return [{key: float(row[key]) for key in row if key != "env"} for row in rows]


def worker(env_id: str, preset: str, config: dict[str, Any], steps: int, seed: int, cores: list[int] | None) -> Row:
    """Train in parts, with an evaluation after each of them."""
    bind(cores)
    from rlox import Trainer

    trainer = Trainer("awr", env=env_id, preset=preset, config=config, seed=seed)
    published = {int(point["samples"]) for point in reference(env_id)}
    interval = max(steps // POINTS_PER_RUN, 1)
    row: Row = {"env": env_id, "preset": preset, "seed": seed, "env_steps": [], "returns": [], "seconds": []}
    seconds = 0.0
    for point in range(interval, steps + 1, interval):
        seconds += trainer.train(total_timesteps=point - trainer.env_steps, progress=False)["seconds"]
        n_episodes = 32 if point in published or point == steps else 10
        row["env_steps"].append(trainer.env_steps)
        row["returns"].append(trainer.evaluate(n_episodes)["mean_reward"])
        row["seconds"].append(seconds)
    return row


def run(args: argparse.Namespace) -> None:
    """Train every seed, one on each core at a time, and write the rows."""
    machine = describe_machine()
    config = {name: getattr(args, name) for name in ("n_envs", "vectorization_mode") if getattr(args, name)}
    task = {"env_id": args.env, "preset": args.preset, "config": config, "steps": args.steps}
    rows = list(
        run_on_cores(args.cores, args.seeds, lambda seed, core: run_worker(__file__, **task, seed=seed, cores=[core]))
    )
    settings = {name: getattr(args, name) for name in ("env", "preset", "steps", "seeds", "cores")} | config
    write_results(args.results / f"paper_{args.env}_{args.preset}.json", machine, settings, rows)
    print_machine(machine)


def draw(args: argparse.Namespace) -> None:
    """Print and draw everything that was run, over the reference."""
    runs: dict[str, dict[str, list[Row]]] = {}
    for file in sorted(args.results.glob("paper_*.json")):
        found = read_results(file)["rows"]
        runs.setdefault(found[0]["env"], {})[found[0]["preset"]] = found
    if not runs:
        raise SystemExit(f"No runs in {args.results}: train first.")
    lines = [
        table_line(env_id, preset, rows) for env_id, presets in runs.items() for preset, rows in sorted(presets.items())
    ]
    header = ["environment", "preset", "steps", "greedy return", "each seed", "seconds", "steps / s", "released code"]
    print_table(header, lines)
    if shown := [env_id for env_id in runs if reference(env_id)]:
        with picture(args.image, len(shown)) as axes:
            for axis, env_id in zip(axes, shown, strict=True):
                draw_environment(axis, env_id, runs[env_id])


def draw_environment(axis: Axes, env_id: str, presets: dict[str, list[Row]]) -> None:
    """Draw an environment's curves over the reference."""
    import numpy as np

    points = [p for p in reference(env_id) if p["samples"] <= max(r[0]["env_steps"][-1] for r in presets.values())]
    if points:
        columns = ("samples", "test_return_mean", "test_return_std")
        x, mean, std = (np.array([point[key] for point in points]) for key in columns)
        style = {"color": "black", "marker": "o", "ms": 4, "lw": 1, "capsize": 3}
        axis.errorbar(x, mean, std, **style, label="released code: mean and std of 5 runs")
    for preset, rows in sorted(presets.items()):
        curves, steps = np.array([row["returns"] for row in rows]), rows[0]["env_steps"]
        color = COLORS.get(preset, "#555555")
        axis.plot(steps, curves.mean(axis=0), color=color, lw=2, label=f"{preset}: mean of {len(rows)} seeds")
        low, high = curves.min(axis=0), curves.max(axis=0)
        axis.fill_between(steps, low, high, color=color, alpha=0.18, lw=0, label=f"{preset}: lowest to highest seed")
    axis.set(title=env_id, xlabel="environment steps", ylabel="greedy return")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M")
    axis.legend(fontsize=7, frameon=False, loc="best")


def table_line(env_id: str, preset: str, rows: list[Row]) -> list[str]:
    """Return what the last evaluations of all seeds say."""
    steps, final = rows[0]["env_steps"][-1], [row["returns"][-1] for row in rows]
    seconds = statistics.mean(row["seconds"][-1] for row in rows)
    there = {point["samples"]: point for point in reference(env_id)}.get(float(round(steps, -4)))
    published = f"{there['test_return_mean']:.0f} ± {there['test_return_std']:.0f}" if there else ""
    each = ", ".join(f"{x:.0f}" for x in final)
    mean = f"{statistics.mean(final):.0f}"
    return [env_id, preset, f"{steps:,}", mean, each, f"{seconds:.0f}", f"{steps / seconds:,.0f}", published]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--env", default="HalfCheetah-v5", help="environment (HalfCheetah-v5)")
    parser.add_argument("--preset", default="paper", help="preset (paper)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="environment steps (1000000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    usable = sorted(os.sched_getaffinity(0))
    parser.add_argument("--cores", type=int, nargs="+", default=usable, help="cores to use; all by default")
    parser.add_argument("--n-envs", type=int, help="environments; the preset's by default")
    parser.add_argument("--vectorization-mode", help="sync, async or envpool; the preset's by default")
    parser.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "paper.png", help="picture")
    parser.add_argument("--plot", action="store_true", help="only draw what was run")
    args = parser.parse_args()
    if not args.plot:
        run(args)
    draw(args)


if __name__ == "__main__":
    start(main, worker)
