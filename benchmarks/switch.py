"""From data to the environment: does the return fall at the switch?

    python benchmarks/switch.py                                   # every member and environment, three seeds
    python benchmarks/switch.py --only awac --warmup 0 1000       # with the critic alone at first, and without
    python benchmarks/switch.py --show                            # the table and the picture of what was run

Each run learns from a bundled tier alone, and then goes on in the environment with the data in the mix. The modes'
return over 20 episodes, the same ones each time, is taken at the switch and after every 500 environment steps.
The fall is the lowest of them less the one at the switch, as a share of what that one had over the random agent.
"""

from __future__ import annotations

import argparse
import json
import statistics
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

INTERVAL, N_INTERVALS, N_EPISODES = 500, 8, 20
ROUNDS = {
    "rollout_steps": 500, "n_critic_updates": 100, "n_actor_updates": 200, "td_lambda": 0.95,
    "normalize_advantage": True, "learning_starts": 0,
}  # fmt: skip
SHARED = {"hidden": 128, "learning_starts": 500, "normalize_obs": True}


class Task(NamedTuple):
    """Data, gradient steps on them, and settings for their environment."""

    data: str
    gradient_steps: int
    settings: dict[str, Any]


TASKS = [
    Task("cartpole-medium", 5_000, {}),
    Task("pendulum-medium-replay", 5_000, {"gamma": 0.95, "value_scale": 20.0}),
]
MEMBERS: dict[str, dict[str, Any]] = {"iql": {}, "awac": {}, "awr": ROUNDS}


def worker(member: str, data: str, gradient_steps: int, config: dict[str, Any], seed: int, cores: list[int]) -> Row:
    """Learn from the data, and then from the environment."""
    bind(cores)
    from rlox import Trainer
    from rlox.data.bundled import reference

    made_for = reference(data)
    trainer = Trainer(member, env=made_for.env, dataset=data, config=config, seed=seed)
    trainer.train_offline(gradient_steps, progress=False)
    returns = [trainer.evaluate(N_EPISODES)["mean_reward"]]
    for _ in range(N_INTERVALS):
        trainer.train(INTERVAL, progress=False)
        returns.append(trainer.evaluate(N_EPISODES)["mean_reward"])
    fall = (returns[0] - min(returns)) / (returns[0] - made_for.random)
    return {"member": member, "data": data, "env": made_for.env, "seed": seed, "returns": returns, "fall": fall,
            "warmup": config.get("critic_warmup_steps", 0)}  # fmt: skip


def draw(rows: list[Row], image: Path) -> None:
    """Draw the returns from the switch on, a panel an environment."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    environments = list(dict.fromkeys(row["env"] for row in rows))
    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            1, len(environments), figsize=(4.6 * len(environments), 3.6), layout="constrained", squeeze=False
        )
        for axis, env in zip(axes[0], environments, strict=True):
            for member, color in zip(MEMBERS, ("#1f5fa8", "#c8561b", "#3a7d44"), strict=True):
                curves = np.array([r["returns"] for r in rows if (r["env"], r["member"]) == (env, member)])
                if len(curves):
                    steps = INTERVAL * np.arange(curves.shape[1])
                    axis.plot(steps, curves.T, color=color, lw=0.7, alpha=0.4)
                    axis.plot(steps, curves.mean(axis=0), color=color, lw=2, label=member)
            axis.set(title=env, xlabel="environment steps after the data", ylabel="greedy return")
            axis.grid(alpha=0.25, lw=0.6)
            axis.legend(fontsize=8, frameon=False)
        image.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(image, dpi=150)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEMBERS), default=list(MEMBERS), help="members (all)")
    parser.add_argument("--warmup", type=int, nargs="+", default=[1000], help="environment steps of the critic alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--results", type=Path, default=RESULTS / "switch.json", help="raw rows")
    parser.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "switch.png", help="picture")
    parser.add_argument("--show", action="store_true", help="only print and draw what was run")
    args = parser.parse_args()
    if not args.show:
        rows = []
        for seed in args.seeds:
            for task in TASKS:
                for member in args.only:
                    for warmup in args.warmup:
                        config = {**SHARED, **MEMBERS[member], **task.settings, "critic_warmup_steps": warmup}
                        own = {"member": member, "data": task.data, "gradient_steps": task.gradient_steps}
                        rows.append(run_worker(__file__, **own, config=config, seed=seed, cores=args.cores))
        write_results(args.results, describe_machine(), {"seeds": args.seeds, "cores": args.cores}, rows)
    found = json.loads(args.results.read_text())
    print_machine(found["machine"])
    lines = []
    for key in dict.fromkeys((row["data"], row["member"], row["warmup"]) for row in found["rows"]):
        own = [row for row in found["rows"] if (row["data"], row["member"], row["warmup"]) == key]
        at, end = (statistics.mean(row["returns"][i] for row in own) for i in (0, -1))
        falls = ", ".join(f"{row['fall']:.2f}" for row in own)
        lines.append([key[0], key[1], key[2], f"{at:.0f}", f"{end:.0f}", falls])
    header = ["data", "member", "critic alone", "return at the switch", "at the end", "fall, each seed"]
    print_table(header, lines)
    draw(found["rows"], args.image)
    log("drew", args.image)


if __name__ == "__main__":
    start(main, worker)
