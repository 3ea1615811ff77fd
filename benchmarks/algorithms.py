"""Our algorithms on the bundled `medium-replay` data: what weighting mixed data gains over cloning them.

    python benchmarks/algorithms.py                                # every environment and algorithm, three seeds
    python benchmarks/algorithms.py --tier hopper-medium-replay --algorithms bc awr
    python benchmarks/algorithms.py --show

5,000 gradient steps on batches of 256, two hidden layers of 128; `awr` in rounds on TD(0.95) returns, whitened; the
others with their defaults. Greedy return of 20 episodes. One thread.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from common import (
    RESULTS,
    Row,
    bind,
    describe_machine,
    groups,
    make_parser,
    print_machine,
    print_table,
    read_results,
    run_worker,
    start,
    write_results,
)

STEPS = 5_000
ROUNDS = {"rollout_steps": 2048, "n_critic_updates": 400, "n_actor_updates": 1000, "td_lambda": 0.95}
SETTINGS: dict[str, dict[str, Any]] = {
    "bc": {},
    "awr": {**ROUNDS, "normalize_advantage": True, "beta": 0.3, "normalize_obs": True, "value_scale": 100.0},
    "awac": {},
    "crr": {},
    "iql": {},
}
TIERS = [f"{name}-medium-replay" for name in ("cartpole", "pendulum", "lunarlander", "hopper")]


def worker(algorithm: str, data: str, seed: int, steps: int, cores: list[int]) -> Row:
    """Learn, and evaluate."""
    bind(cores)
    from rlox import Trainer
    from rlox.data.bundled import reference

    made_for = reference(data)
    config = {"hidden": 128, **SETTINGS[algorithm]}
    trainer = Trainer(algorithm, env=made_for.env, dataset=data, config=config, seed=seed)
    seconds = trainer.train_offline(steps, progress=False)["seconds"]
    found = trainer.evaluate(20, seed=0)["mean_reward"]
    row = {"algorithm": algorithm, "data": data, "seed": seed}
    return {**row, "return": found, "score": made_for.score(found), "seconds": seconds}


def main() -> None:
    parser = make_parser(__doc__, RESULTS / "algorithms.json")
    parser.add_argument("--tier", nargs="+", choices=TIERS, default=TIERS, help="data (all)")
    parser.add_argument("--algorithms", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="(all of them)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"gradient steps ({STEPS})")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        rows = [
            run_worker(__file__, algorithm=algorithm, data=data, seed=seed, steps=args.steps, cores=args.cores)
            for data, algorithm, seed in itertools.product(args.tier, args.algorithms, args.seeds)
        ]
        settings = {"steps": args.steps, "algorithms": SETTINGS, "cores": args.cores}
        write_results(args.results, describe_machine(), settings, rows)
    found = read_results(args.results)
    print_machine(found["machine"])
    lines = []
    for key, own in groups(found["rows"], "data", "algorithm").items():
        returns = [row["return"] for row in own]
        mean, score = statistics.mean(returns), statistics.mean(row["score"] for row in own)
        each = ", ".join(f"{x:.0f}" for x in returns)
        lines.append([*key, f"{mean:.0f}", each, f"{score:.0f}", f"{own[0]['seconds']:.0f}"])
    print_table(["data", "algorithm", "return", "each seed", "score", "seconds"], lines)


if __name__ == "__main__":
    start(main, worker)
