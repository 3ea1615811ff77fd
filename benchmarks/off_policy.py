"""Fitted Q evaluation against measured returns: does it rank policies in the same order?

    taskset -c 0 python benchmarks/off_policy.py

The policies are those of an AWR run on the way, with another seed than the data's. Each is estimated from the bundled
tier `medium-replay` of its environment, and run for 50 episodes.
"""

from __future__ import annotations

from typing import Any

from common import ROOT, Row, log, print_table, run

N_EPISODES, N_POLICIES, GRADIENT_STEPS = 50, 12, 6_000
INTERVALS = {"CartPole-v1": 1_000, "Pendulum-v1": 2_000}  # environment steps between policies


def worker(env: str) -> Row:
    """Train, and measure and estimate every policy on the way."""
    from rlox import Trainer

    trainer = Trainer("awr", env=env, preset="tuned", seed=7)
    data = f"{env.partition('-')[0].lower()}-medium-replay"
    policies: list[Row] = []
    for _ in range(N_POLICIES):
        trainer.train(INTERVALS[env], progress=False)
        truth = trainer.evaluate(N_EPISODES, seed=0)
        estimate = trainer.evaluate_offline(data, gradient_steps=GRADIENT_STEPS, progress=False)
        policies.append({"env_steps": trainer.env_steps, **truth, **estimate})
        log(f"{env}: return {truth['mean_reward']:.1f}, estimate {estimate['fqe/value']:.2f}")
    return {"policies": policies}


def correlation(policies: list[Row]) -> float:
    """Return Spearman's rank correlation between estimates and returns."""
    from scipy.stats import spearmanr

    found: Any = spearmanr([p["fqe/value"] for p in policies], [p["mean_reward"] for p in policies])
    return float(found.statistic)


def show(rows: list[Row]) -> None:
    """Print a line for each environment, and draw every policy's estimate, with its interval, over its return."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(4.6 * len(rows), 3.8), layout="constrained", squeeze=False)
    lines = []
    for axis, row in zip(axes[0], rows, strict=True):
        returns, value, low, high = (
            [p[key] for p in row["policies"]] for key in ("mean_reward", "fqe/value", "fqe/low", "fqe/high")
        )
        below, above = ([abs(a - b) for a, b in zip(value, end, strict=True)] for end in (low, high))
        axis.errorbar(returns, value, [below, above], fmt="o", ms=5, lw=1, capsize=2)
        found = f"{correlation(row['policies']):.2f}"
        axis.set_title(f"{row['env']}: rank correlation {found}")
        axis.set(xlabel=f"greedy return, {N_EPISODES} episodes", ylabel="fitted Q evaluation (discounted)")
        lines.append([row["env"], len(returns), f"{min(returns):.0f} to {max(returns):.0f}", found])
    figure.savefig(ROOT / "docs" / "images" / "off_policy.png", dpi=150)
    print_table(["environment", "policies", "returns", "Spearman's rank correlation"], lines)


if __name__ == "__main__":
    run(__doc__, worker, lambda: [{"env": env} for env in INTERVALS], show)
