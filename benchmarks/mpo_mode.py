"""What MPO's policy returns by its mode and by its samples, the Polyak copy that is handed out beside the actor itself.

python benchmarks/mpo_mode.py RUN... [--episodes 20]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from pathlib import Path
from typing import Any

from rlox import Trainer
from rlox.envs.envs import make_envs
from rlox.policy.episodes import evaluate
from rlox.policy.policy import Policy


def policies(trainer: Trainer) -> tuple[Policy, Policy]:
    """Return the policy that is handed out, and that of the actor itself."""
    copy: Any = trainer.policy
    spaces = copy.observation_space, copy.action_space
    return copy, Policy(trainer.state.actor, copy.normalizer, *spaces, copy.config)


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    given = parser.parse_args()
    print("| run | env steps | copy, mode | copy, samples | actor, mode | actor, samples |")
    print("|---|---|---|---|---|---|")
    for run in given.runs:
        with Trainer.load(run) as trainer:
            cells = []
            for policy, mode in itertools.product(policies(trainer), (True, False)):
                with contextlib.closing(make_envs(str(trainer.spec.env), n_envs=4)) as envs:
                    found = evaluate(policy, envs, given.episodes, deterministic=mode)
                cells.append(f"{found['mean_reward']:.0f} ± {found['std_reward']:.0f}")
            print(f"| {'/'.join(run.parts[-2:])} | {trainer.env_steps:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
