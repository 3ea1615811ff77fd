"""Fitted Q evaluation against measured returns: does it rank policies in the same order?

    python benchmarks/off_policy.py                    # both environments, table and picture
    python benchmarks/off_policy.py --only CartPole-v1
    python benchmarks/off_policy.py --show             # of what was run

The policies are those of an AWR run on the way, with another seed than the data's. Each is estimated from the bundled
tier `medium-replay` of its environment, and run for 50 episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from common import (
    RESULTS,
    ROOT,
    Row,
    bind,
    describe_machine,
    log,
    make_parser,
    picture,
    print_machine,
    print_table,
    read_results,
    run_worker,
    start,
    write_results,
)

N_EPISODES, N_POLICIES = 50, 12


class Task(NamedTuple):
    """An environment, the data, and the environment steps between the policies of a run."""

    env_id: str
    data: str
    interval: int


TASKS = [Task("CartPole-v1", "cartpole-medium-replay", 1_000), Task("Pendulum-v1", "pendulum-medium-replay", 2_000)]


def worker(env_id: str, data: str, interval: int, n_policies: int, gradient_steps: int, cores: list[int]) -> Row:
    """Train, and measure and estimate every policy on the way."""
    bind(cores)
    from rlox import Trainer

    trainer = Trainer("awr", env=env_id, preset="tuned", seed=7)
    rows: list[Row] = []
    for _ in range(n_policies):
        trainer.train(interval, progress=False)
        truth = trainer.evaluate(N_EPISODES, seed=0)
        estimate = trainer.evaluate_offline(data, gradient_steps=gradient_steps, progress=False)
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
    with picture(image, len(rows)) as axes:
        for axis, row in zip(axes, rows, strict=True):
            policies = row["policies"]
            returns, value, low, high = (
                [p[key] for p in policies] for key in ("mean_reward", "fqe/value", "fqe/low", "fqe/high")
            )
            below, above = ([abs(a - b) for a, b in zip(value, end, strict=True)] for end in (low, high))
            axis.errorbar(returns, value, [below, above], fmt="o", color="#1f5fa8", ms=5, lw=1, capsize=2)
            axis.set_title(f"{row['env']}: rank correlation {correlation(policies):.2f}")
            axis.set_xlabel(f"greedy return, {N_EPISODES} episodes")
            axis.set_ylabel("fitted Q evaluation (discounted)")


def main() -> None:
    parser = make_parser(__doc__, RESULTS / "off_policy.json")
    known = [task.env_id for task in TASKS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="environments (all)")
    parser.add_argument("--policies", type=int, default=N_POLICIES, help=f"of a run ({N_POLICIES})")
    parser.add_argument("--gradient-steps", type=int, default=6_000, help="of every fit (6000)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "off_policy.png", help="picture")
    parser.add_argument("--show", action="store_true", help="only print and draw what was run")
    args = parser.parse_args()
    if not args.show:
        settings = {"gradient_steps": args.gradient_steps, "cores": args.cores}
        tasks = [task for task in TASKS if task.env_id in args.only]
        rows = [run_worker(__file__, **task._asdict(), n_policies=args.policies, **settings) for task in tasks]
        write_results(args.results, describe_machine(), settings, rows)
    found = read_results(args.results)
    print_machine(found["machine"])
    lines = []
    for row in found["rows"]:
        returns = [p["mean_reward"] for p in row["policies"]]
        numbers = min(returns), max(returns), row["process_seconds"]
        low, high, seconds = (f"{x:.0f}" for x in numbers)
        lines.append([row["env"], len(returns), low, high, f"{correlation(row['policies']):.2f}", seconds])
    print_table(["environment", "policies", "returns from", "to", "Spearman", "seconds in all"], lines)
    draw(found["rows"], args.image)


if __name__ == "__main__":
    start(main, worker)
