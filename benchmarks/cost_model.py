"""What one run with collectors costs, part by part, and what follows for more of them than this machine has cores for.

    python benchmarks/cost_model.py

Measures the parts, each by itself: a step of the environment, the policy in NumPy, a call of a collector through Ray
with its batch, storing it, an update, sending the policy. Then it measures whole runs with 1, 2 and 4 collectors in
environments that sleep, and compares them with what the parts predict; and draws what they predict for up to 1,000.
A second part is of trials: starting one, and looking at those that go on.

    a collector takes       t_c = L (e + p) + c          seconds for a batch of L steps: environment, policy, call
    the learner takes       t_l = c + L b + (s + u + v) / n    seconds: call, transfer, storing, learning, sending
    steps a second          min(n L / t_c, L / t_l, cores L / (L (e' + p)))    e' without its sleep
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from common import RESULTS, ROOT, parse, print_table
from rlox import Trainer
from rlox.collectors import Collectors
from rlox.core import rollout as rollouts
from rlox.core.acting import behavior_of
from rlox.envs.remote import RemoteCollector, Worksite
from rlox.plan import Plan
from rlox.processes import progress_of
from rlox.runs.machine import describe_machine

SLEEPS = (0.005, 0.02)
COUNTS = (1, 2, 4)
FAR = (10, 100, 1000)
FILE = RESULTS / "cost_model.json"
CONFIG: dict[str, Any] = {"hidden": 64, "learning_starts": 256, "n_critic_updates": 20, "n_actor_updates": 100}
ROUND = 2048


class Sleepy(gym.Wrapper[Any, Any, Any, Any]):
    """Takes a time of its own for a step."""

    def __init__(self, env: gym.Env[Any, Any], seconds: float):
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        return self.env.step(action)


class Maker:
    """Makes them."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self) -> gym.Env[Any, Any]:
        env = gym.make("HalfCheetah-v5")
        return Sleepy(env, self.seconds) if self.seconds else env


def median(call: Callable[[], object], n: int) -> float:
    """Return the median seconds of ``n`` calls."""
    found = []
    for _ in range(n):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def parts() -> dict[str, float]:
    """Return the seconds of each part, and the bytes of a step."""
    import jax

    with Trainer("awr", Maker(0), config={**CONFIG, "rollout_steps": ROUND}) as trainer:
        trainer.train(4 * ROUND, progress=False)
        learner: Any = trainer._learner
        behavior = behavior_of(trainer.state.actor, None)
        site = Worksite(Maker(0), 1, "sync", None, 0)
        worker = RemoteCollector(site, 0, 0)
        obs, rng = worker._collector.obs, np.random.default_rng(0)
        policy = median(lambda: behavior.sample(obs, rng), 2000)
        step = median(lambda: worker.collect(behavior, 0, 64), 30) / 64 - policy
        round_ = median(lambda: jax.block_until_ready(_round(learner)), 5)
        send = median(lambda: behavior_of(trainer.state.actor, None), 50)
        one = _call_seconds(site, behavior, 1)
        move = _move_seconds(worker.collect(behavior, 0, ROUND))
    return {
        "policy": policy,
        "step": step,
        "call": max(one - step - policy, 0.0),
        "move": move / ROUND,
        "store": _store_seconds(8, ROUND // 8),
        "round": round_,
        "send": send,
    }


def _move_seconds(batch: Any) -> float:
    """Return the seconds that a batch takes from one process to another, by Ray's shared memory."""
    from rlox.scale import Connection

    connection = Connection(1)
    ray = connection.ray
    found = median(lambda: ray.get(ray.put(batch)), 50)
    connection.close()
    return found


def _round(learner: Any) -> Any:
    train, report = learner._programs.learn_round_offline(learner.state.train, learner.state.replay, None)
    learner.state = learner.state._replace(train=train)
    return report.values


def _store_seconds(n: int, rows: int) -> float:
    """Return the seconds that a round's steps of ``n`` streams take to be stored."""
    import jax

    from rlox.core import replay as replays
    from rlox.core.programs import Mix, store
    from rlox.core.transition import Layout

    layout = Layout(17, np.dtype(np.float32), 6, np.dtype(np.float32))
    block = rollouts.create(rows, n, layout)
    block.valid[:] = True
    replay, program = replays.create(100_000, n, layout), jax.jit(store, donate_argnums=1)

    def once() -> None:
        nonlocal replay
        _, replay = program(None, replay, Mix(), block.steps, block.valid)
        jax.block_until_ready(replay)

    once()
    return median(once, 20)


def _call_seconds(site: Worksite, behavior: Any, length: int) -> float:
    """Return the seconds from asking a collector for a batch, that is not asked for two, to having it."""
    collectors = Collectors(site, 1, length)
    collectors.publish(behavior)
    collectors.take()

    def once() -> None:
        collectors.take()
        while collectors._members[0].calls:
            collectors.take(more=False)

    found = median(once, 20 if length > 100 else 100) / 2
    collectors.close()
    return found


def measured(n: int, sleep: float) -> float:
    """Return the steps a second of a run."""
    with Trainer("awr", Maker(sleep), config={**CONFIG, "rollout_steps": ROUND, "n_workers": n}) as trainer:
        trainer.train(2 * ROUND if sleep < 0.01 else ROUND, progress=False)
        return trainer.train(2 * ROUND, progress=False)["env_steps_per_second"]


def predicted(found: dict[str, float], n: int, sleep: float, *, cores: float, rollout: int = ROUND) -> dict[str, float]:
    """Return the steps a second that each part allows."""
    length = max(rollout / n, 1)
    own = length * (found["step"] + found["policy"])
    batch = length * sleep + own + found["call"]
    shared = found["store"] + found["round"] * rollout / ROUND + found["send"]
    learner = found["call"] + length * found["move"] + shared / n
    return {"collectors": n * length / batch, "learner": length / learner, "cores": cores * length / own}


def trials() -> dict[str, float]:
    """Return the seconds that a trial takes to start, and to be looked at."""
    import subprocess
    import sys

    folder = Path(tempfile.mkdtemp(prefix="cost-model-"))
    (job,) = Plan({"awr": {}}, ["CartPole-v1"], seeds=[0], shared={"total_timesteps": 500}).jobs(folder)
    command = [sys.executable, "-m", "rlox", "train", "awr", "--env", "CartPole-v1", "--total-timesteps", "500"]
    began = time.perf_counter()
    subprocess.run([*command, "--run-dir", str(job.folder)], check=True, capture_output=True)
    start = time.perf_counter() - began
    return {"start": start, "look": median(lambda: progress_of(job), 200)}


def main() -> None:
    """Measure and write, or read; and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parse(parser, FILE).show:
        show(json.loads(FILE.read_text()))
        return
    machine, found = describe_machine(), parts()
    cores, rows = len(os.sched_getaffinity(0)), []
    for sleep in SLEEPS:
        for n in COUNTS:
            slept = median(lambda sleep=sleep: time.sleep(sleep), 50)
            bounds = predicted(found, n, slept, cores=cores)
            rows.append({"n": n, "sleep": sleep, "measured": measured(n, sleep), "predicted": min(bounds.values())})
            print(rows[-1], flush=True)
    far = [
        {"n": n, "sleep": sleep, "rollout": rollout, **predicted(found, n, sleep, cores=n, rollout=rollout)}
        for sleep in SLEEPS
        for rollout in (ROUND, 64 * ROUND)
        for n in (*COUNTS, *FAR)
    ]
    results = {"machine": machine, "parts": found, "rows": rows, "far": far, "trials": trials()}
    FILE.write_text(json.dumps(results, indent=1) + "\n")
    show(results)
    draw(rows, far)


def show(results: dict[str, Any]) -> None:
    """Print the parts, what was measured beside what they predict, and what a trial takes."""
    print(json.dumps({name: round(value, 7) for name, value in results["parts"].items()}))
    lines = [
        [row["n"], f"{row['sleep'] * 1e3:.0f} ms", *(f"{row[key]:,.0f}" for key in ("measured", "predicted"))]
        for row in results["rows"]
    ]
    print_table(["collectors", "a step", "measured", "predicted"], lines)
    print(json.dumps(results["trials"]))


def draw(rows: list[dict[str, float]], far: list[dict[str, float]]) -> None:
    """Draw what was measured on what is predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, sleep in zip(("#1f77b4", "#d95f02"), SLEEPS, strict=True):
        for rollout, style in ((ROUND, "-"), (64 * ROUND, "--")):
            own = [row for row in far if row["sleep"] == sleep and row["rollout"] == rollout]
            speeds = [min(row[part] for part in ("collectors", "learner", "cores")) for row in own]
            label = f"{sleep * 1e3:.0f} ms a step, rounds of {rollout:,}"
            axes.plot([row["n"] for row in own], speeds, style, color=color, label=label)
        points = [row for row in rows if row["sleep"] == sleep]
        axes.plot([row["n"] for row in points], [row["measured"] for row in points], "o", color=color)
    axes.set(xscale="log", yscale="log", xlabel="collectors", ylabel="environment steps a second")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(title="lines: predicted; dots: measured here")
    figure.savefig(ROOT / "docs" / "images" / "cost_model.png", dpi=150)


if __name__ == "__main__":
    main()
