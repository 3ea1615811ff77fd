"""Fitted Q evaluation against the truth: does it rank policies as their returns do?

    python benchmarks/off_policy.py                    # both environments, table and picture
    python benchmarks/off_policy.py --only CartPole-v1
    python benchmarks/off_policy.py --show             # of what was run

The policies are AWR's along a run of a seed that the data are not of. Each is estimated from the bundled tier
`medium-replay` of its environment, and run for 50 episodes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    RESULTS,
    ROOT,
    Row,
    bind,
    describe_machine,
    log,
    print_machine,
    print_table,
    run_worker,
    start,
    write_results,
)

N_EPISODES = 50


class Task(NamedTuple):
    """An environment, the data, the steps between policies of a run, and how many policies there are."""

    env_id: str
    data: str
    interval: int
    n_policies: int = 12


TASKS = [Task("CartPole-v1", "cartpole-medium-replay", 1_000), Task("Pendulum-v1", "pendulum-medium-replay", 2_000)]


def worker(env_id: str, data: str, interval: int, n_policies: int, gradient_steps: int, cores: list[int]) -> Row:
    """Train, and measure every policy on the way both ways."""
    bind(cores)
    from rlox import Trainer

    trainer = Trainer("awr", env=env_id, preset="tuned", seed=7)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n_policies):
            trainer.train(interval, progress=False)
            trainer.save(folder)
            policy = Trainer.load(folder, env=env_id)
            truth = policy.evaluate(N_EPISODES, seed=0)
            estimate = policy.evaluate_offline(data, gradient_steps=gradient_steps, progress=False)
            rows.append({"env_steps": trainer.env_steps, **truth, **estimate})
            log(f"{env_id}: return {truth['mean_reward']:.1f}, estimate {estimate['fqe/value']:.2f}")
    return {"env": env_id, "policies": rows}


def correlation(policies: list[Row]) -> float:
    """Return Spearman's rank correlation between estimates and returns."""
    from scipy.stats import spearmanr

    found: Any = spearmanr([p["fqe/value"] for p in policies], [p["mean_reward"] for p in policies])
    return float(found.statistic)


def draw(rows: list[Row], image: Path) -> None:
    """Draw every policy's estimate, with its interval, over its return."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, len(rows), figsize=(4.6 * len(rows), 3.8), layout="constrained", squeeze=False)
        for axis, row in zip(axes[0], rows, strict=True):
            policies = row["policies"]
            value = [p["fqe/value"] for p in policies]
            error = [
                [p["fqe/value"] - p["fqe/low"] for p in policies],
                [p["fqe/high"] - p["fqe/value"] for p in policies],
            ]
            axis.errorbar(
                [p["mean_reward"] for p in policies], value, error, fmt="o", color="#1f5fa8", ms=5, lw=1, capsize=2
            )
            axis.set(
                title=f"{row['env']}: rank correlation {correlation(policies):.2f}",
                xlabel=f"greedy return, {N_EPISODES} episodes", ylabel="fitted Q evaluation (discounted)",
            )  # fmt: skip
            axis.grid(alpha=0.25, lw=0.6)
        image.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(image, dpi=150)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [task.env_id for task in TASKS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="environments (all)")
    parser.add_argument("--gradient-steps", type=int, default=6_000, help="of every fit (6000)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--results", type=Path, default=RESULTS / "off_policy.json", help="raw rows")
    parser.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "off_policy.png", help="picture")
    parser.add_argument("--show", action="store_true", help="only print and draw what was run")
    args = parser.parse_args()
    if not args.show:
        rows = [
            run_worker(__file__, **task._asdict(), gradient_steps=args.gradient_steps, cores=args.cores)
            for task in TASKS
            if task.env_id in args.only
        ]
        write_results(
            args.results, describe_machine(), {"gradient_steps": args.gradient_steps, "cores": args.cores}, rows
        )
    found = json.loads(args.results.read_text())
    print_machine(found["machine"])
    header = ["environment", "policies", "returns from", "to", "Spearman", "seconds in all"]
    lines = []
    for row in found["rows"]:
        returns = [p["mean_reward"] for p in row["policies"]]
        ends = f"{min(returns):.0f}", f"{max(returns):.0f}"
        lines.append(
            [row["env"], len(returns), *ends, f"{correlation(row['policies']):.2f}", f"{row['process_seconds']:.0f}"]
        )
    print_table(header, lines)
    draw(found["rows"], args.image)
    log("drew", args.image)


if __name__ == "__main__":
    start(main, worker)
