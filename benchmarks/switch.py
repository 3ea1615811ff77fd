"""From data to the environment: does the return fall when online training begins?

    python benchmarks/switch.py                                   # every algorithm and environment, three seeds
    python benchmarks/switch.py --only awac --warmup 0 1000       # with the critic alone at first, and without
    python benchmarks/switch.py --show                            # the table and the picture of what was run

Each run learns from a bundled tier alone, and then continues in the environment with the data in the mix. The greedy
return over 20 episodes, the same ones each time, is taken at the switch and after every 500 environment steps.
The fall is the return at the switch minus the lowest one, as a share of what the first gained over the random policy.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    RESULTS,
    ROOT,
    Row,
    bind,
    describe_machine,
    groups,
    make_parser,
    picture,
    print_machine,
    print_table,
    read_results,
    run_worker,
    start,
    write_results,
)

INTERVAL, N_INTERVALS, N_EPISODES, STEPS = 500, 8, 20, 5_000
SHARED = {"hidden": 128, "learning_starts": 500, "normalize_obs": True}
ROUNDS = {"rollout_steps": 500, "n_critic_updates": 100, "n_actor_updates": 200, "learning_starts": 0}


class Task(NamedTuple):
    """Data, and settings for their environment."""

    data: str
    settings: dict[str, Any]


TASKS = [Task("cartpole-medium", {}), Task("pendulum-medium-replay", {"gamma": 0.95, "value_scale": 20.0})]
SETTINGS: dict[str, dict[str, Any]] = {
    "iql": {},
    "awac": {},
    "awr": {**ROUNDS, "td_lambda": 0.95, "normalize_advantage": True},
}
COLORS = {"iql": "#1f5fa8", "awac": "#c8561b", "awr": "#3a7d44"}


def worker(algorithm: str, data: str, steps: int, config: dict[str, Any], seed: int, cores: list[int]) -> Row:
    """Learn from the data, and then from the environment."""
    bind(cores)
    from rlox import Trainer
    from rlox.data.bundled import reference

    made_for = reference(data)
    trainer = Trainer(algorithm, env=made_for.env, dataset=data, config=config, seed=seed)
    trainer.train_offline(steps, progress=False)
    returns = [trainer.evaluate(N_EPISODES)["mean_reward"]]
    for _ in range(N_INTERVALS):
        trainer.train(INTERVAL, progress=False)
        returns.append(trainer.evaluate(N_EPISODES)["mean_reward"])
    fall = (returns[0] - min(returns)) / (returns[0] - made_for.random)
    row = {"algorithm": algorithm, "data": data, "env": made_for.env, "seed": seed}
    return {**row, "returns": returns, "fall": fall, "warmup": config["critic_warmup_steps"]}


def draw(rows: list[Row], image: Path) -> None:
    """Draw the returns from the switch on, a panel for each environment."""
    import numpy as np

    environments = groups(rows, "env")
    with picture(image, len(environments), size=(4.6, 3.6)) as axes:
        for axis, ((env,), own) in zip(axes, environments.items(), strict=True):
            for (algorithm,), runs in groups(own, "algorithm").items():
                curves, color = np.array([row["returns"] for row in runs]), COLORS[algorithm]
                steps = INTERVAL * np.arange(curves.shape[1])
                axis.plot(steps, curves.T, color=color, lw=0.7, alpha=0.4)
                axis.plot(steps, curves.mean(axis=0), color=color, lw=2, label=algorithm)
            axis.set(title=env, xlabel="environment steps after the data", ylabel="greedy return")
            axis.legend(fontsize=8, frameon=False)


def main() -> None:
    parser = make_parser(__doc__, RESULTS / "switch.json")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="algorithms (all)")
    parser.add_argument("--warmup", type=int, nargs="+", default=[1000], help="environment steps of the critic alone")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"gradient steps on the data ({STEPS})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "switch.png", help="picture")
    parser.add_argument("--show", action="store_true", help="only print and draw what was run")
    args = parser.parse_args()
    if not args.show:
        rows = []
        for seed, task, algorithm, warmup in itertools.product(args.seeds, TASKS, args.only, args.warmup):
            config = {**SHARED, **SETTINGS[algorithm], **task.settings, "critic_warmup_steps": warmup}
            own = {"algorithm": algorithm, "data": task.data, "steps": args.steps, "seed": seed, "cores": args.cores}
            rows.append(run_worker(__file__, **own, config=config))
        settings = {name: getattr(args, name) for name in ("steps", "seeds", "cores")}
        write_results(args.results, describe_machine(), settings, rows)
    found = read_results(args.results)
    print_machine(found["machine"])
    lines = []
    for key, own in groups(found["rows"], "data", "algorithm", "warmup").items():
        at, end = (statistics.mean(row["returns"][i] for row in own) for i in (0, -1))
        lines.append([*key, f"{at:.0f}", f"{end:.0f}", ", ".join(f"{row['fall']:.2f}" for row in own)])
    header = ["data", "algorithm", "critic alone", "return at the switch", "at the end", "fall, each seed"]
    print_table(header, lines)
    draw(found["rows"], args.image)


if __name__ == "__main__":
    start(main, worker)
