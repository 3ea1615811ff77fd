"""Small runs of every kind, to be stopped anywhere and to end as if they had not been.

``python schedules.py NAME FOLDER TIMES`` begins one of so many times the budget, or goes on with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from probes import World
from rlox import Trainer
from rlox.runs import checkpoint

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_rate": 1e-2, "learning_starts": 30}
ROUNDS = {**SMALL, "rollout_steps": 50, "n_critic_updates": 4, "n_actor_updates": 3, "td_lambda": 0.9}
WHITENED = {"normalize_obs": True, "normalize_obs_until": 120, "normalize_advantage": True}
OFTEN: dict[str, Any] = {
    "log_interval": 15, "checkpoint_interval": 25, "eval_interval": 70, "n_eval_episodes": 2, "progress": False
}  # fmt: skip


class Schedule(NamedTuple):
    """What a run is made of, and how long it learns."""

    algorithm: str
    config: dict[str, Any]
    make_env: Callable[[], Any] = lambda: None
    dataset: str | None = None
    env_steps: int = 200
    gradient_steps: int = 0

    def begin(self, folder: Path, **more: Any) -> Trainer:
        config, data = self.config, self.dataset
        return Trainer(self.algorithm, self.make_env(), dataset=data, config=config, seed=3, run_dir=folder, **more)

    def load(self, folder: Path, **more: Any) -> Trainer:
        return Trainer.load(folder, env=self.make_env(), **more)

    def longer(self, times: int) -> Schedule:
        return self._replace(env_steps=self.env_steps * times, gradient_steps=self.gradient_steps * times)

    def finish(self, trainer: Trainer, **how: Any) -> None:
        """Learn what is left."""
        how = {**OFTEN, **how}
        if trainer.gradient_steps < self.gradient_steps:
            quiet = how if self.env_steps else {**how, "eval_interval": None}
            trainer.train_offline(self.gradient_steps - trainer.gradient_steps, **quiet)
        if trainer.env_steps < self.env_steps:
            trainer.train(self.env_steps - trainer.env_steps, **how)


def cartpole() -> str:
    return "CartPole-v1"


def pendulum() -> str:
    return "Pendulum-v1"


SCHEDULES = {
    "every step": Schedule("awr", {**SMALL, "tau": 0.5, "updates_per_step": 2}, cartpole),
    "rounds": Schedule("awr", {**ROUNDS, **WHITENED, "buffer_size": 120}, pendulum),
    "overlapped": Schedule(
        "awr", {**ROUNDS, **WHITENED, "overlap": True, "n_envs": 2, "buffer_size": 120}, lambda: World
    ),
    "several": Schedule("awac", {**SMALL, "n_envs": 3, "buffer_size": 150}, pendulum, env_steps=240),
    "processes": Schedule("awr", {**ROUNDS, "n_envs": 2, "vectorization_mode": "async"}, cartpole),
    "offline": Schedule("iql", SMALL, dataset="pendulum-medium", env_steps=0, gradient_steps=200),
    "offline rounds": Schedule(
        "marwil", {**SMALL, "n_critic_updates": 3, "n_actor_updates": 20}, dataset="cartpole-random",
        env_steps=0, gradient_steps=200,
    ),
    "offline to online": Schedule(
        "iql", {**SMALL, "data_ratio_decay": 150, "critic_warmup_steps": 60}, pendulum, "pendulum-medium",
        gradient_steps=100,
    ),
    "offline to rounds": Schedule(
        "awr", {**ROUNDS, "n_actor_updates": 20, "buffer_size": 8000}, cartpole, "cartpole-random", gradient_steps=60
    ),
    "dictionary": Schedule("crr", SMALL, lambda: World),
    "adapted": Schedule(
        "mpo",
        {**SMALL, "n_states": 8, "n_critic_updates": 2, "train_freq": 2, "anchor_tau": 0.1, "anchor_coef": 0.5,
         "epsilon_mean": 0.01},
        pendulum,
    ),
    "ready-made": Schedule("awr", {**SMALL, "actor_decay_steps": 150}, World),
}  # fmt: skip


def result(folder: Path) -> dict[str, Any]:
    """Return all arrays of a run's last checkpoint, and its metrics but for the time."""
    arrays, _ = checkpoint.load(folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{name: x for name, x in record.items() if not name.startswith("time")} for record in records]
    return {**arrays, "metrics": lines}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what two results do not have in common, bit for bit."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one
        or name not in other
        or not (
            one[name] == other[name]
            if name == "metrics"
            else one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        )
    ]


if __name__ == "__main__":
    schedule, run = SCHEDULES[sys.argv[1]].longer(int(sys.argv[3])), Path(sys.argv[2])
    with schedule.load(run) if checkpoint.exists(run) else schedule.begin(run) as trainer:
        schedule.finish(trainer)
