"""Environment steps a second by the number of collectors, and what is left of a run whose collectors are killed.

    python benchmarks/collectors.py                  # 1, 2, 4 and 8 collectors
    python benchmarks/collectors.py --kill 120       # one of 8 is killed every 10 s, for 120 s

The environment sleeps 5 ms a step, so that more collectors than cores are of use. Rounds of 2,048 steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

from common import print_table
from rlox import Trainer

SLEEP, ROUND, EVERY = 0.005, 2048, 10.0
CONFIG: dict[str, Any] = {"rollout_steps": ROUND, "n_critic_updates": 20, "n_actor_updates": 100, "hidden": 64}


class Sleepy(gym.Wrapper[Any, Any, Any, Any]):
    """Takes 5 ms a step."""

    def step(self, action: Any) -> Any:
        time.sleep(SLEEP)
        return self.env.step(action)


def make() -> Sleepy:
    return Sleepy(gym.make("Pendulum-v1"))


def speed(n: int) -> tuple[float, dict[str, float]]:
    """Return the steps a second of ``n`` collectors once they are at work, and the last metrics."""
    with Trainer("awr", make, config={**CONFIG, "n_workers": n}) as trainer:
        trainer.train(3 * ROUND, progress=False)
        metrics = trainer.train(max(4, n) * ROUND, progress=False)
    return metrics["env_steps_per_second"], metrics


def collectors() -> list[int]:
    """Return the processes of collectors."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if "RemoteCollector" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def kill(seconds: float) -> None:
    """Train while collectors are killed, and count."""
    with Trainer("awr", make, config={**CONFIG, "n_workers": 8, "buffer_size": 1_000_000}) as trainer:
        learner: Any = trainer._learner
        origins, delivered, kept = [], [0], learner._keep

        def keep(batches: Any) -> int:
            origins.extend(batch.origin for batch in batches)
            delivered[0] += sum(int(batch.valid.sum()) for batch in batches)
            return kept(batches)

        learner._keep = keep
        trainer.train(ROUND, progress=False)
        ended, killed = threading.Event(), []

        def killer() -> None:
            while not ended.wait(EVERY):
                killed.append(random.choice(collectors()))
                os.kill(killed[-1], 9)

        thread = threading.Thread(target=killer, daemon=True)
        thread.start()
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            trainer.train(ROUND, progress=False)
        ended.set()
        thread.join()
        trainer.train(ROUND, progress=False)
        print(f"{len(killed)} collectors killed, {learner._collectors.n_lost} replaced, in {seconds:.0f} s.")
        print(f"{len(origins):,} batches, {len(origins) - len(set(origins))} of them twice.")
        stored = int(learner.state.replay.size.sum())
        print(f"{delivered[0]:,} steps delivered, {trainer.env_steps:,} counted, {stored:,} in the replay.")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kill", type=float, metavar="SECONDS")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="of collectors; begin with 1")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    if given.kill:
        kill(given.kill)
        return
    rows: dict[int, list[float]] = {}
    metrics: dict[int, dict[str, float]] = {}
    for n in given.counts * given.turns:
        steps, metrics[n] = speed(n)
        rows.setdefault(n, []).append(steps)
        print(f"{n} collectors: {steps:,.0f} steps a second", flush=True)
    alone = statistics.median(rows[1])
    print_table(
        ["collectors", "steps a second", "times one", "staleness, mean", "largest"],
        [
            [
                n,
                f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})",
                f"{statistics.median(found) / alone:.2f}",
                f"{metrics[n]['collect/staleness']:.2f}",
                f"{metrics[n]['collect/max_staleness']:.0f}",
            ]
            for n, found in rows.items()
        ],
    )


if __name__ == "__main__":
    main()
