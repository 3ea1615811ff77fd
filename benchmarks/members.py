"""Our members on the bundled `medium-replay` data: what weighing mixed data is worth over cloning them.

    python benchmarks/members.py                                # every environment and member, three seeds
    python benchmarks/members.py --tier hopper-medium-replay --members bc awr
    python benchmarks/members.py --show

5,000 gradient steps on batches of 256, two hidden layers of 128; `awr` in rounds on TD(0.95) returns, whitened; the
rest at their defaults. Greedy return of 20 episodes. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from common import RESULTS, Row, bind, describe_machine, print_machine, print_table, run_worker, start, write_results

STEPS = 5_000
MEMBERS: dict[str, dict[str, Any]] = {
    "bc": {},
    "awr": {
        "rollout_steps": 2048, "n_critic_updates": 400, "n_actor_updates": 1000, "td_lambda": 0.95,
        "normalize_advantage": True, "beta": 0.3, "normalize_obs": True, "value_scale": 100.0,
    },
    "awac": {},
    "crr": {},
    "iql": {},
}  # fmt: skip
TIERS = [f"{name}-medium-replay" for name in ("cartpole", "pendulum", "lunarlander", "hopper")]


def worker(member: str, data: str, seed: int, cores: list[int]) -> Row:
    """Learn, and evaluate."""
    bind(cores)
    from rlox import Trainer
    from rlox.data.bundled import reference

    made_for = reference(data)
    config = {"hidden": 128, **MEMBERS[member]}
    trainer = Trainer(member, env=made_for.env, dataset=data, config=config, seed=seed)
    metrics = trainer.train_offline(STEPS, progress=False)
    found = trainer.evaluate(20, seed=0)["mean_reward"]
    return {"member": member, "data": data, "seed": seed, "return": found, "score": made_for.score(found),
            "seconds": metrics["seconds"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", nargs="+", choices=TIERS, default=TIERS, help="data (all)")
    parser.add_argument("--members", nargs="+", choices=list(MEMBERS), default=list(MEMBERS), help="members (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="cores to use (0)")
    parser.add_argument("--results", type=Path, default=RESULTS / "members.json", help="raw rows")
    parser.add_argument("--show", action="store_true", help="only print what was run")
    args = parser.parse_args()
    if not args.show:
        tasks = [
            {"member": member, "data": data, "seed": seed}
            for data in args.tier
            for member in args.members
            for seed in args.seeds
        ]
        rows = [run_worker(__file__, **task, cores=args.cores) for task in tasks]
        write_results(args.results, describe_machine(), {"steps": STEPS, "members": MEMBERS, "cores": args.cores}, rows)
    found = json.loads(args.results.read_text())
    print_machine(found["machine"])
    lines = []
    for data, member in dict.fromkeys((row["data"], row["member"]) for row in found["rows"]):
        own = [row for row in found["rows"] if (row["data"], row["member"]) == (data, member)]
        returns = [row["return"] for row in own]
        mean, score = statistics.mean(returns), statistics.mean(row["score"] for row in own)
        each = ", ".join(f"{x:.0f}" for x in returns)
        lines.append([data, member, f"{mean:.0f}", each, f"{score:.0f}", f"{own[0]['seconds']:.0f}"])
    print_table(["data", "member", "return", "each seed", "score", "seconds"], lines)


if __name__ == "__main__":
    start(main, worker)
